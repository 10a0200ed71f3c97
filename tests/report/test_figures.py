"""Pictures: every kind is drawn, the same bytes twice, and shows the rows and numbers of the table."""

import numpy as np
import pandas as pd
import pytest

from moppa.report.build import read_tables
from moppa.report.columns import Column
from moppa.report.plots import static, style
from moppa.report.plots.data import PlotData, plot_data
from moppa.report.plots.vega import charts_of
from moppa.utils.errors import UserError
from tests.conftest import CONFIGS
from tests.factories import put

COLUMNS = [Column(task=f"t{i}", title=f"Task {i}", group="natural" if i < 3 else "structured") for i in range(5)]


@pytest.fixture
def shown():
    accuracies = pd.DataFrame(
        np.random.default_rng(0).uniform(50, 90, (4, 5)), index=["a", "b", "c", "d"], columns=[c.task for c in COLUMNS]
    )
    return PlotData(
        title="made", columns=COLUMNS, accuracies=accuracies, params=pd.Series([0.0, 1e5, 2e5, 8e7], list("abcd"))
    )


@pytest.fixture
def ours(tmp_path):
    """Two rows on two tasks, with predictions and curves."""
    for method, percent in (("linear", 60), ("lora", 80)):
        for task in ("dtd", "svhn"):
            for seed in (0, 1):
                put(tmp_path, f"method={method}", f"task={task}", seed=seed, percent=percent + seed, predictions=True)
    [table], _ = read_tables(tmp_path, CONFIGS)
    return plot_data(table)


PICTURES = {
    "parameters": static.accuracy_against_parameters,
    "heat map": lambda shown: static.heat_map(shown, shown.accuracies.index[0]),
    "groups": static.group_bars,
}


@pytest.mark.parametrize("name", [*PICTURES, "critical difference"])
def test_the_same_picture_has_the_same_bytes_without_dates(name, shown, tmp_path):
    draw = PICTURES.get(name, static.critical_difference)
    first = [path.read_bytes() for path in style.save(draw(shown), tmp_path / "one")]
    assert [path.read_bytes() for path in style.save(draw(shown), tmp_path / "two")] == first
    assert first[0].startswith(b"\x89PNG")
    assert b"dc:date" not in first[1]


@pytest.mark.parametrize("name", [*PICTURES, "curves", "cost"])
def test_our_rows_are_drawn(name, ours, tmp_path):
    draw = PICTURES.get(name) or {"curves": static.learning_curves, "cost": static.cost}[name]
    png, svg = style.save(draw(ours), tmp_path / "picture")
    assert png.stat().st_size > 5000
    assert svg.stat().st_size > 5000


def test_a_mean_lies_within_its_interval_and_published_rows_have_none(ours, shown):
    mean = ours.mean("lora", ["dtd", "svhn"])
    assert mean.value == pytest.approx(80.5, abs=0.05)
    assert mean.low < mean.value < mean.high
    assert shown.mean("a", ["t0"]).low == shown.mean("a", ["t0"]).high


def test_the_pareto_front_by_hand():
    params = pd.Series({"a": 0.0, "b": 10.0, "c": 10.0, "d": 20.0, "e": 30.0})
    accuracy = pd.Series({"a": 50.0, "b": 60.0, "c": 61.0, "d": 55.0, "e": 62.0})
    assert static.pareto(params, accuracy) == ["a", "c", "e"]


def test_two_rows_have_no_critical_difference(ours):
    with pytest.raises(UserError, match="3 methods"):
        static.critical_difference(ours)


def test_whole_rows_are_shown_where_there_are_two_else_the_tasks_that_all_share(tmp_path):
    put(tmp_path, "method=lora", "task=dtd")
    put(tmp_path, "method=lora", "task=svhn")
    put(tmp_path, "method=linear", "task=dtd")
    [table], _ = read_tables(tmp_path, CONFIGS)
    shown = plot_data(table)
    assert shown.tasks == ["dtd"]
    assert shown.about == "DTD"
    put(tmp_path, "method=moppa", "task=kitti")
    [table], _ = read_tables(tmp_path, CONFIGS)
    assert plot_data(table) is None


def test_every_chart_of_the_page_is_a_valid_vega_lite_specification(shown, ours):
    from vl_convert import vegalite_to_svg

    made = charts_of(shown) | {f"ours {title}": spec for title, spec in charts_of(ours).items()}
    assert {"Accuracy against parameters", "Average ranks", "ours Learning curves", "ours Time and memory"} <= set(made)
    for title, spec in made.items():
        assert "<svg" in vegalite_to_svg(spec), title


def test_of_many_rows_one_a_method_is_shown_and_not_the_one_that_tests_best(tmp_path, monkeypatch):
    monkeypatch.setattr("moppa.report.plots.data.MOST_ROWS", 2)
    put(tmp_path, "method=lora", "task=dtd", percent=60)
    put(tmp_path, "method=lora", "task=dtd", "method.attach.rank=4", percent=90)
    put(tmp_path, "method=linear", "task=dtd", "train.lr=0.01", percent=90)
    put(tmp_path, "method=linear", "task=dtd", "train.lr=0.1", percent=20, tuned={"val200": 0.5, "num_settings": 2})
    [table], _ = read_tables(tmp_path, CONFIGS)
    assert list(plot_data(table).accuracies.index) == ["linear (settings tuned on val200)", "lora"]


def test_a_bar_that_joins_ranks_does_not_depend_on_the_order_of_a_set(shown):
    figure = static.critical_difference(shown)
    bars = [line for line in figure.axes[0].lines if line.get_linewidth() == 2.5]
    assert bars
    for bar in bars:
        assert list(bar.get_xdata()) == sorted(bar.get_xdata())
