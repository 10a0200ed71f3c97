"""A row's numbers: means and standard deviations over seeds, means of groups, and where each stands in its column."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import pandas as pd

from moppa.report.rows import RowRecords
from moppa.report.significance import PairedBootstrap


@dataclass(frozen=True, kw_only=True)
class Value:
    """One number of a row, in percent; `standing` is `best`, `second` or nothing."""

    mean: float | None
    sd: float | None = None
    num_seeds: int = 0
    standing: str = ""


def aggregate_values(
    settings: Sequence[RowRecords], groups: Mapping[str, Sequence[str]], judge: PairedBootstrap
) -> dict[str, dict[str, Value]]:
    """Every row's values: mean and standard deviation over seeds, means of groups, and where each stands."""
    seen = [
        (setting.name, task, one["seed"], one.accuracy)
        for setting in settings for task, cell in setting.cells.items() for one in cell
    ]  # fmt: skip
    frame = pd.DataFrame(seen, columns=["row", "task", "seed", "accuracy"])
    tasks = [task for members in groups.values() for task in members]
    by_seed = with_means(frame.pivot(index=["row", "seed"], columns="task", values="accuracy"), groups)
    cell = frame.groupby(["row", "task"])["accuracy"]
    means = with_means(cell.mean().unstack(), groups)
    seeds = by_seed.groupby("row").count().to_dict()
    whole = by_seed.groupby("row").size().to_dict()
    deviations = by_seed.groupby("row").std().to_dict()
    weights = weights_of(groups)
    values: dict[str, dict[str, Value]] = {setting.name: {} for setting in settings}
    for column in means.columns:
        known = means[column].dropna().to_dict()
        standing = judge.standing(known, weights[column])
        for name, row in values.items():
            num_seeds = seeds[column][name]
            has_sd = num_seeds > 1 and (column in tasks or num_seeds == whole[name])
            row[column] = Value(
                mean=known.get(name),
                sd=deviations[column][name] if has_sd else None,
                num_seeds=num_seeds,
                standing=standing.get(name, ""),
            )
    return values


def with_means(accuracies: pd.DataFrame, groups: Mapping[str, Sequence[str]]) -> pd.DataFrame:
    """Columns of tasks, then the mean of each group, of the groups and of the tasks; NaN wherever a part is missing."""
    tasks = [task for members in groups.values() for task in members]
    whole = accuracies.reindex(columns=tasks)
    for group, members in groups.items():
        whole[f"mean_{group}"] = whole[list(members)].mean(axis=1, skipna=False)
    whole["mean_groups"] = whole[[f"mean_{group}" for group in groups]].mean(axis=1, skipna=False)
    whole["mean_tasks"] = whole[tasks].mean(axis=1, skipna=False)
    return whole


def weights_of(groups: Mapping[str, Sequence[str]]) -> dict[str, dict[str, float]]:
    """What part of every column's mean each task is."""
    tasks = [task for members in groups.values() for task in members]
    return {
        **{task: {task: 1.0} for task in tasks},
        **{f"mean_{group}": dict.fromkeys(members, 1 / len(members)) for group, members in groups.items()},
        "mean_groups": {task: 1 / len(groups) / len(members) for members in groups.values() for task in members},
        "mean_tasks": dict.fromkeys(tasks, 1 / len(tasks)),
    }
