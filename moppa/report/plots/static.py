"""Pictures of a table, for print."""

from collections.abc import Sequence

import matplotlib as mpl
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

from moppa.report.plots.data import PlotData
from moppa.report.plots.style import COLORS, STYLE, canvas, legend_beside, marker_style
from moppa.report.ranks import friedman


@mpl.rc_context(STYLE)
def accuracy_against_parameters(shown: PlotData) -> Figure:
    """The mean over the tasks against trainable parameters without the head, with the Pareto line."""
    params = shown.params.dropna()
    figure, [[axes]] = canvas(8.2, max(3.6, 0.21 * len(params) + 0.8))
    positive = params[params > 0]
    for index, name in enumerate(params.index):
        mean = shown.mean(name, shown.tasks)
        errors = [[mean.value - mean.low], [mean.high - mean.value]] if mean.low < mean.high else None
        axes.errorbar(
            params[name],
            mean.value,
            yerr=errors,
            label=name,
            linestyle="none",
            markersize=6,
            capsize=2,
            **marker_style(index),
        )
    front = pareto(params, shown.accuracies.loc[params.index].mean(axis=1))
    axes.plot(
        params[front],
        shown.accuracies.loc[front].mean(axis=1),
        color="0.75",
        zorder=1,
        drawstyle="steps-post",
        linewidth=1,
        label="Pareto front",
    )
    if len(positive):
        least = 10 ** np.floor(np.log10(positive.min()))
        axes.set_xscale("symlog", linthresh=least, linscale=0.4)
        axes.set_xlim(-0.15 * least if len(positive) < len(params) else least * 0.9, positive.max() * 2)
    axes.grid(color="0.92")
    axes.set(xlabel="trainable parameters, without the head", ylabel=f"accuracy, {shown.about} (%)", title=shown.title)
    legend_beside(figure, axes, len(params))
    return figure


def pareto(params: pd.Series, accuracy: pd.Series) -> list[str]:
    """The rows that no other beats with as few parameters, in order of parameters."""
    order = sorted(params.index, key=lambda name: (params[name], -accuracy[name]))
    front: list[str] = []
    for name in order:
        if not front or accuracy[name] > accuracy[front[-1]]:
            front.append(name)
    return front


@mpl.rc_context(STYLE)
def heat_map(shown: PlotData, baseline: str) -> Figure:
    """Every row's accuracy on every task less the baseline's, in points."""
    others = shown.accuracies.drop(index=baseline)
    ahead = others - shown.accuracies.loc[baseline]
    ahead = ahead.loc[ahead.mean(axis=1).sort_values(ascending=False).index]
    longest = max(map(len, map(str, ahead.index)))
    figure, [[axes]] = canvas(1.8 + 0.075 * longest + 0.42 * len(shown.columns), 1.9 + 0.27 * len(ahead))
    limit = max(1.0, float(np.nanquantile(ahead.abs().to_numpy(), 0.95)))
    image = axes.imshow(ahead, cmap="PuOr_r", vmin=-limit, vmax=limit, aspect="auto")
    axes.set_xticks(range(len(shown.columns)), [column.title for column in shown.columns], rotation=60, ha="right")
    axes.set_yticks(range(len(ahead)), list(ahead.index))
    axes.tick_params(length=0)
    for row, values in enumerate(ahead.to_numpy()):
        for column, value in enumerate(values):
            ink = "white" if abs(value) > 0.65 * limit else "black"
            axes.text(column, row, f"{round(value, 1) + 0.0:+.1f}", ha="center", va="center", fontsize=7, color=ink)
    axes.set_title(f"{shown.title}\nless {baseline}")
    figure.colorbar(image, ax=axes, label="points", extend="both", shrink=0.8)
    return figure


@mpl.rc_context(STYLE)
def group_bars(shown: PlotData) -> Figure:
    """The mean of each group of tasks, with its interval where predictions are kept; the best rows on top."""
    order = list(shown.accuracies.mean(axis=1).sort_values().index)
    groups = shown.groups
    longest = max(map(len, map(str, order)))
    figure, [axes] = canvas(
        1.4 + 0.065 * longest + 2.1 * len(groups), 1.2 + 0.24 * len(order), 1, len(groups), sharey=True
    )
    for axis, (group, tasks), color in zip(axes, groups.items(), COLORS, strict=False):
        means = [shown.mean(name, tasks) for name in order]
        values = np.array([mean.value for mean in means])
        ends = np.array([mean.high for mean in means])
        axis.barh(range(len(order)), values, color=color, alpha=0.55, height=0.7)
        for place, mean in enumerate(means):
            if mean.low < mean.high:
                axis.plot([mean.low, mean.high], [place, place], color="black", linewidth=1.2)
            axis.text(ends[place] + 1.5, place, f"{mean.value:.1f}", va="center", fontsize=7)
        axis.set_xlim(0, 100 if ends.max() < 88 else 112)
        axis.set_xticks(range(0, 101, 25))
        axis.set(title=group.capitalize(), xlabel=f"{describe(shown, tasks)} (%)")
        axis.grid(axis="x", color="0.92")
        axis.tick_params(axis="y", length=0)
    axes[0].set_yticks(range(len(order)), order)
    figure.suptitle(shown.title)
    return figure


def describe(shown: PlotData, tasks: Sequence[str]) -> str:
    """What a group's mean is of."""
    titles = {column.task: column.title for column in shown.columns}
    return titles[tasks[0]] if len(tasks) == 1 else f"mean of {len(tasks)} tasks"


@mpl.rc_context(STYLE)
def critical_difference(shown: PlotData) -> Figure:
    """Average ranks over the tasks; rows that Nemenyi's test does not tell apart are joined.

    Raises:
        UserError: where there are fewer than 3 rows or 2 tasks.
    """
    from scikit_posthocs import critical_difference_diagram

    found = friedman(shown.accuracies)
    figure, [[axes]] = canvas(9, 1.2 + 0.17 * len(shown.accuracies))
    drawn = critical_difference_diagram(
        found.average_ranks,
        found.nemenyi,
        ax=axes,
        label_fmt_left="{label} {rank:.1f}",
        label_fmt_right="{rank:.1f} {label}",
        color_palette=["black"] * len(shown.accuracies),
        label_props={"fontsize": 8},
        elbow_props={"linewidth": 0.8},
        marker_props={"s": 14},
        crossbar_props={"linewidth": 2.5, "color": COLORS[1]},
    )
    for [bar] in drawn["crossbars"]:  # its points come from a set, whose order another process would not repeat
        bar.set_xdata(sorted(bar.get_xdata()))
    told = f"Friedman p = {found.p_value:.2g}, critical difference {found.critical_difference:.2f} (Nemenyi, 5%)"
    axes.set_title(f"{shown.title}\naverage rank over {found.num_tasks} tasks; {told}")
    return figure


@mpl.rc_context(STYLE)
def learning_curves(shown: PlotData) -> Figure:
    """The training loss by epoch on every task: the mean over seeds, and the range where there are several."""
    across = min(4, len(shown.columns))
    down = -(-len(shown.columns) // across)
    figure, grid = canvas(3.4 + 2.4 * across, max(0.9 + 2.0 * down, 0.21 * len(shown.rows) + 0.6), down, across)
    for axis in grid.flat:
        axis.set_visible(False)
    for axis, column in zip(grid.flat, shown.columns, strict=False):
        axis.set_visible(True)
        for index, row in enumerate(shown.rows):
            losses = [[epoch["loss"] for epoch in one["curve"]] for one in row.setting.cells[column.task]]
            draw_curve(axis, np.array(losses), row.name, COLORS[index % len(COLORS)], index)
        axis.set(title=column.title, xlabel="epoch", ylabel="training loss", yscale="log")
        axis.grid(color="0.92")
    figure.suptitle(shown.title, x=0.01, ha="left")
    legend_beside(figure, grid.flat[0], len(shown.rows))
    return figure


def draw_curve(axis: Axes, losses: np.ndarray, name: str, color: str, index: int) -> None:
    """One line, from losses (seeds, epochs)."""
    epochs = np.arange(1, losses.shape[1] + 1)
    dashes = ("-", "--", ":", "-.")[index // len(COLORS) % 4]
    axis.plot(epochs, losses.mean(axis=0), color=color, linestyle=dashes, linewidth=1.3, label=name)
    if len(losses) > 1:
        axis.fill_between(epochs, losses.min(axis=0), losses.max(axis=0), color=color, alpha=0.15, linewidth=0)


@mpl.rc_context(STYLE)
def cost(shown: PlotData) -> Figure:
    """The mean over the tasks against the mean training time and the largest memory of a cell, as measured."""
    figure, [axes] = canvas(9.4, max(3.4, 0.21 * len(shown.rows) + 0.8), 1, 2, sharey=True)
    devices = sorted({str(one["device"]["name"]) for row in shown.rows for one in row.setting.records})
    for index, row in enumerate(shown.rows):
        records = [one for task in shown.tasks for one in row.setting.cells[task]]
        seconds = float(np.mean([one["seconds"]["train"] for one in records]))
        memory = max(one["peak_memory_bytes"] for one in records) / 2**30
        value = shown.mean(row.name, shown.tasks).value
        for axis, x in zip(axes, (seconds, memory), strict=True):
            axis.plot(x, value, linestyle="none", markersize=6, label=row.name, **marker_style(index))
    axes[0].set(xlabel="training, seconds a cell", ylabel=f"accuracy, {shown.about} (%)", xscale="log")
    axes[1].set(xlabel="peak memory (GiB)")
    for axis in axes:
        axis.grid(color="0.92")
    shortest, longest = axes[0].get_xlim()
    axes[0].xaxis.set_major_locator(LogLocator(subs=(1, 2, 5) if longest < 100 * shortest else (1,)))
    axes[0].xaxis.set_major_formatter(FuncFormatter(lambda x, _: f"{x:g}"))
    axes[0].xaxis.set_minor_formatter(NullFormatter())
    figure.suptitle(f"{shown.title}; on {', '.join(devices)}", x=0.01, ha="left")
    legend_beside(figure, axes[0], len(shown.rows))
    return figure
