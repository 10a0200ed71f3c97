"""Charts show the rows and numbers of the table, and figures of the same chart have the same bytes."""

import json
import subprocess
import sys
from dataclasses import replace
from fractions import Fraction

import numpy as np
import pandas as pd
import pytest

from moppa.report import published
from moppa.report.build import read_tables
from moppa.report.columns import Column, suite_columns
from moppa.report.estimate import Estimate
from moppa.report.load import load_records
from moppa.report.plots import accuracy, cost, parameters, rank_diagram, routes, search, training
from moppa.report.plots.charts import CHARTS, page_charts
from moppa.report.plots.data import PlotData, plot_data, published_plot_data
from moppa.report.plots.encodings import log_ticks
from moppa.report.plots.figure_files import number_ids, write_figure
from moppa.report.ranks import friedman
from moppa.report.rounding import round_text
from moppa.utils.errors import UserError
from tests.conftest import CONFIGS, ROOT
from tests.factories import write_record_file

COLUMNS = [Column(task=f"t{i}", title=f"Task {i}", group="natural" if i < 3 else "structured") for i in range(5)]
RENDER = """
import json, sys
from pathlib import Path
from moppa.report.plots.figure_files import write_figure
for index, spec in enumerate(json.loads(Path(sys.argv[1]).read_text(encoding="utf-8"))):
    write_figure(spec, Path(sys.argv[2]) / str(index))
"""


@pytest.fixture
def data():
    accuracies = np.random.default_rng(0).integers(5000, 9000, (4, 5))
    return PlotData(
        title="synthetic",
        columns=COLUMNS,
        cells={
            (row, column.task): Estimate(value=Fraction(int(accuracies[i, j]), 100))
            for i, row in enumerate("abcd")
            for j, column in enumerate(COLUMNS)
        },
        params=pd.Series([0.0, 1e5, 2e5, 8e7], list("abcd")),
        baseline="b",
    )


@pytest.fixture
def record_data(tmp_path):
    """Two rows on two tasks, with predictions, learning curves and costs."""
    for method, percent in (("linear", 60), ("lora", 80)):
        for task in ("dtd", "svhn"):
            for seed in (0, 1):
                write_record_file(
                    tmp_path,
                    f"method={method}",
                    f"task={task}",
                    seed=seed,
                    percent=percent + seed,
                    predictions=True,
                    alone=seed == 0,
                    peak_memory_scope="cell" if method == "lora" else "process",
                )
    [table], _ = read_tables(tmp_path, CONFIGS)
    return plot_data(table)


@pytest.fixture
def two_cells():
    """The routes of two cells with three blocks, five epochs and two priors."""
    generator = np.random.default_rng(0)
    return {
        name: routes.Routes(
            priors=["heat", "wave"],
            weights=generator.dirichlet([1, 1], (3, 5)),
            responses=list(generator.normal(size=(3, 4, 4))),
        )
        for name in ("first", "second")
    }


@pytest.fixture
def specs(data, record_data, two_cells):
    """A specification of every chart, by name."""
    specs = {chart.name: chart.spec(record_data if chart.needs_records else data) for chart in CHARTS}
    route_charts = {"routes": routes.mixing_weights, "responses": routes.impulse_responses}
    return specs | {name: chart(two_cells, "synthetic") for name, chart in route_charts.items()}


def layer_values(spec):
    """The rows of all data in a specification."""
    found = list(spec.get("data", {}).get("values", []))
    for layer in [*spec.get("layer", []), *spec.get("vconcat", []), *spec.get("hconcat", [])]:
        found += layer_values(layer)
    return found


@pytest.mark.slow
def test_figures_have_the_same_bytes_in_any_process_and_order(specs, tmp_path):
    (tmp_path / "specs.json").write_text(json.dumps(list(specs.values())[::-1]), encoding="utf-8")
    command = [sys.executable, "-c", RENDER, tmp_path / "specs.json", tmp_path / "other"]
    subprocess.run(command, check=True, cwd=ROOT)
    for index, (name, spec) in enumerate(specs.items()):
        png, svg = (path.read_bytes() for path in write_figure(spec, tmp_path / name))
        other = tmp_path / "other" / str(len(specs) - 1 - index)
        assert png.startswith(b"\x89PNG"), name
        assert svg.startswith(b"<svg"), name
        assert (png, svg) == tuple(other.with_suffix(suffix).read_bytes() for suffix in (".png", ".svg")), name


def test_ids_of_an_svg_are_numbered_in_order_of_appearance():
    svg = '<clipPath id="clip7"/><linearGradient id="gradient_3"/><g clip-path="url(#clip7)" fill="url(#gradient_3)"/>'
    assert number_ids(svg) == (
        '<clipPath id="clip0"/><linearGradient id="gradient_1"/><g clip-path="url(#clip0)" fill="url(#gradient_1)"/>'
    )


def test_a_figure_shows_titles_and_rows(specs, record_data, tmp_path):
    _, svg = write_figure(specs["cost"], tmp_path / "cost")
    text = svg.read_text(encoding="utf-8")
    for shown in (record_data.title, "linear", "lora", "peak memory of a cell (GiB)", "measured on x86_64"):
        assert shown in text, shown


def test_the_heat_map_shows_differences_from_the_baseline(data, tmp_path):
    _, svg = write_figure(accuracy.heat_map(data), tmp_path / "map")
    text = svg.read_text(encoding="utf-8")
    assert "accuracy minus that of the baseline, in points; baseline:" in text
    for row, task in data.cells:
        difference = data.cells[row, task].value - data.cells["b", task].value
        assert f">{round_text(difference, signed=True).replace('-', '−')}<" in text


def test_group_bars_show_the_mean_of_each_group(data):
    values = accuracy.group_bars(data)["data"]["values"]
    means = {(value["group"], value["row"]): value["mean"] for value in values}
    assert means["Natural: mean of 3 tasks", "c"] == pytest.approx(data.accuracies.loc["c"].iloc[:3].mean(), abs=1e-3)
    assert means["Structured: mean of 2 tasks", "a"] == pytest.approx(
        data.accuracies.loc["a"].iloc[3:].mean(), abs=1e-3
    )


def test_learning_curves_show_mean_and_range_over_seeds(tmp_path):
    for seed, losses in enumerate(([2.0, 1.0], [4.0, 3.0])):
        write_record_file(tmp_path, "method=lora", "task=dtd", seed=seed, curve=[{"loss": loss} for loss in losses])
    [table], _ = read_tables(tmp_path, CONFIGS)
    values = training.learning_curves(plot_data(table))["data"]["values"]
    assert [(value["epoch"], value["loss"], value["low"], value["high"]) for value in values] == [
        (1, 3.0, 2.0, 4.0),
        (2, 2.0, 1.0, 3.0),
    ]


def test_cost_uses_only_cells_that_ran_alone_and_memory_that_is_the_cells_own(record_data):
    """Both rows have a seed that ran alone, of 60 seconds; another seed took 61. The memory of one is its process's."""
    time, memory = cost.cost(record_data)["hconcat"]
    seconds = {value["row"]: value["cost"] for value in time["layer"][0]["data"]["values"]}
    assert seconds == {"linear": 60, "lora": 60}
    [value] = memory["layer"][0]["data"]["values"]
    assert (value["row"], value["cost"]) == ("lora", pytest.approx(1.5e9 / 2**30, rel=1e-5))
    assert "(1 of 2 rows)" in " ".join(cost.cost(record_data)["title"]["subtitle"])


def test_cost_is_not_drawn_if_no_record_says_that_its_cell_ran_alone(tmp_path):
    write_record_file(tmp_path, "method=lora", "task=dtd")
    [table], _ = read_tables(tmp_path, CONFIGS)
    with pytest.raises(UserError, match="ran alone"):
        cost.cost(plot_data(table))


def test_a_mean_lies_within_its_interval_and_published_rows_have_none(record_data, data):
    mean = record_data.mean("lora", ["dtd", "svhn"]).interval()
    assert float(mean.value) == pytest.approx(80.5, abs=0.05)
    assert mean.low < mean.value < mean.high
    assert data.mean("a", ["t0"]).interval().low == data.mean("a", ["t0"]).interval().high


def test_points_are_labeled_with_names_or_with_the_numbers_of_the_legend(data, tmp_path):
    _, svg = write_figure(parameters.against_parameters(data), tmp_path / "short")
    assert all(f">{name}<" in svg.read_text(encoding="utf-8") for name in "abcd")
    names = {row: f"{row} (settings tuned on val200, epochs 10)" for row in "abcd"}
    cells = {(names[row], task): estimate for (row, task), estimate in data.cells.items()}
    long = replace(data, cells=cells, params=data.params.rename(names), baseline=names["b"])
    _, svg = write_figure(parameters.against_parameters(long), tmp_path / "long")
    text = svg.read_text(encoding="utf-8")
    for number, name in enumerate(names.values(), start=1):
        assert f">{number}<" in text
        assert f">{number}  {name}<" in text


def test_many_rows_on_one_task_have_a_panel_each(tmp_path):
    for step in range(9):
        write_record_file(tmp_path, "method=lora", "task=dtd", f"train.lr={step + 2}e-3")
    [table], _ = read_tables(tmp_path, CONFIGS)
    spec = training.learning_curves(plot_data(table))
    assert len({value["panel"] for value in spec["data"]["values"]}) == 9
    assert spec["resolve"]["scale"]["y"] == "shared"


def test_the_pareto_front_of_five_rows():
    params = pd.Series({"a": 0.0, "b": 10.0, "c": 10.0, "d": 20.0, "e": 30.0})
    accuracies = pd.Series({"a": 50.0, "b": 60.0, "c": 61.0, "d": 55.0, "e": 62.0})
    assert parameters.pareto_front(params, accuracies) == ["a", "c", "e"]


def test_ticks_of_a_logarithmic_axis_cover_its_range():
    assert log_ticks(0.08, 500) == pytest.approx([0.05, 0.1, 1, 10, 100, 1000][1:])
    assert log_ticks(12_000, 40_000) == [10_000, 20_000, 30_000, 50_000]


def test_two_rows_have_no_critical_difference(record_data):
    with pytest.raises(UserError, match="3 methods"):
        rank_diagram.critical_difference(record_data)


def test_bars_join_exactly_the_ranks_within_the_critical_difference():
    assert rank_diagram.indistinct_ranges([1.0, 2.0, 2.9, 3.5, 9.0], 2.0) == [(0, 2), (1, 3)]
    assert rank_diagram.indistinct_ranges([1.0, 4.0, 7.0], 2.0) == []
    assert rank_diagram.indistinct_ranges([2.0, 2.0, 2.0], 1.0) == [(0, 2)]


def test_the_rank_diagram_labels_every_row_with_its_rank(data):
    values = layer_values(rank_diagram.critical_difference(data))
    shown = {value["label"] for value in values if "label" in value}
    bar = next(value for value in values if "text" in value)
    assert bar["to"] - bar["from"] == pytest.approx(friedman(data.accuracies).critical_difference)
    ranks = friedman(data.accuracies).average_ranks
    assert shown == {
        *(f"{n}  {round_text(r, 2)}" for n, r in ranks[:2].items()),
        *(f"{round_text(r, 2)}  {n}" for n, r in ranks[2:].items()),
    }


def test_routes_show_every_block_epoch_and_prior(two_cells):
    values = routes.mixing_weights(two_cells, "synthetic")["data"]["values"]
    weights = two_cells["second"].weights
    shown = {(v["row"], v["block"], v["epoch"], v["order"]): v["weight"] for v in values}
    assert len(shown) == 2 * weights.size
    assert shown["second", 3, 5, 1] == pytest.approx(weights[2, 4, 1], rel=1e-5)
    last = weights[:, -1, 0].mean()
    assert f"heat (last epoch: {last:.2f})" in {value["prior"] for value in values}


def test_complete_rows_are_drawn_if_there_are_two_else_the_shared_tasks(tmp_path):
    write_record_file(tmp_path, "method=lora", "task=dtd")
    write_record_file(tmp_path, "method=lora", "task=svhn")
    write_record_file(tmp_path, "method=linear", "task=dtd")
    [table], _ = read_tables(tmp_path, CONFIGS)
    data = plot_data(table)
    assert data.tasks == ["dtd"]
    assert data.mean_label == "DTD"
    assert data.baseline == "linear"
    assert plot_data(table, "lora").baseline == "lora"
    with pytest.raises(UserError, match="vera"):
        plot_data(table, "vera")
    write_record_file(tmp_path, "method=moppa", "task=kitti")
    [table], _ = read_tables(tmp_path, CONFIGS)
    assert plot_data(table) is None


def test_every_chart_of_the_page_is_a_valid_vega_lite_specification(data, record_data):
    from vl_convert import vegalite_to_svg

    charts = page_charts(data) | {f"records: {heading}": spec for heading, spec in page_charts(record_data).items()}
    assert {"Average ranks", "records: Learning curves", "records: Time and memory"} <= set(charts)
    assert not {"Learning curves", "Time and memory", "records: Average ranks"} & set(charts)
    for heading, spec in charts.items():
        assert "<svg" in vegalite_to_svg(spec), heading


def test_of_many_rows_one_for_each_method_is_drawn_but_not_the_one_with_the_best_test_accuracy(tmp_path, monkeypatch):
    monkeypatch.setattr("moppa.report.plots.data.MAX_ROWS", 2)
    write_record_file(tmp_path, "method=lora", "task=dtd", percent=60)
    write_record_file(tmp_path, "method=lora", "task=dtd", "method.attach.rank=4", percent=90)
    write_record_file(tmp_path, "method=linear", "task=dtd", "train.lr=0.01", percent=90)
    write_record_file(
        tmp_path, "method=linear", "task=dtd", "train.lr=0.1", percent=20, tuned={"val200": 0.5, "num_settings": 2}
    )
    [table], _ = read_tables(tmp_path, CONFIGS)
    assert plot_data(table).row_names == ["linear (settings tuned on val200)", "lora"]


def test_published_data_are_the_rows_tuned_on_val200():
    [(suite, rows)] = published.load(ROOT / "results" / "published.csv", CONFIGS).items()
    columns = suite_columns(suite, CONFIGS)
    data = published_plot_data(rows, columns, "LoRA")
    assert data.baseline == "LoRA"
    assert len(data.row_names) == sum(row.selection == "last_epoch" for row in rows)
    assert "OSU" in data.title
    assert not any("OSU" in name for name in data.row_names)
    assert published_plot_data(rows, columns, "nowhere").baseline == data.row_names[0]
    assert published_plot_data([], columns) is None


def test_the_pareto_front_of_a_search_has_no_setting_that_a_smaller_one_beats(tmp_path):
    found = {2: (100, 70), 4: (200, 65), 8: (300, 80), 16: (300, 75), 32: (400, 80)}  # rank: parameters, accuracy
    for rank, (params, percent) in found.items():
        for seed, change in ((0, -1), (1, 1)):
            overrides = ["method=compose", "task=eurosat", f"method.attach.methods.a.attach.rank={rank}"]
            fields = {"seed": seed, "percent": percent + change, "trainable_params": params, "protocol": "tune"}
            write_record_file(tmp_path, *overrides, **fields)
    write_record_file(tmp_path, "method=lora", "task=eurosat", protocol="tune", trainable_params=1)
    [found_search] = search.searches(load_records(tmp_path)[0])
    assert found_search.name == "vtab1k-vit_b16_mae-tune-compose-eurosat-pareto"
    assert [(found_search.params[key], found_search.accuracy[key]) for key in found_search.front] == [
        (100, 70),
        (300, 80),
    ]
    values = layer_values(search.pareto_chart(found_search))
    assert len(values) == 2 + 5
    assert sum(value["kind"] == "Pareto front" for value in values) == 2 + 2
    written = write_figure(search.pareto_chart(found_search), tmp_path / "figure")
    assert "accuracy on val200" in written[1].read_text()
