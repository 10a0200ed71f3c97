"""Tables and charts of merged models, from records that are made in milliseconds."""

import csv
import json
import sys
from fractions import Fraction

import pytest
from vl_convert import vegalite_to_svg

from moppa.cli import figures, table
from moppa.report.merge_files import render_csv, render_markdown, write_merge_tables
from moppa.report.merge_page import write_merge_page
from moppa.report.merging import merge_tables
from moppa.report.plots.merging import merge_charts
from moppa.utils.errors import UserError

TASKS = {"digits": ("natural", 1, 10), "spots": ("specialized", 3, 4)}


def write_record(results, algorithm, correct, *, fitted=(60, 60), method="lora", seed=0, draw=0, tasks=TASKS, **merge):
    """Writes the record of a merge of experts with 90 and 80 of 100 correct images."""
    content = {
        "kind": "merge",
        "suite": "mini",
        "backbone": "vit_micro",
        "method": method,
        "algorithm": algorithm,
        "key": "0123456789ab",
        "seed": seed,
        "draw": draw,
        "config": {"merge": {"name": algorithm, "images": None, **merge}},
        "scale": 0.5 + seed,
        "tasks": {
            name: {
                "group": group,
                "column": column,
                "title": name.capitalize(),
                "num_classes": classes,
                "expert": {"final": {"correct": expert, "total": 100}},
                "total": 100,
                "trained_head": own,
                "fitted_head": again,
            }
            for (name, (group, column, classes)), own, again, expert in zip(
                tasks.items(), correct, fitted, (90, 80), strict=False
            )
        },
    }
    key = "-".join([algorithm, *map(str, merge.values()), str(len(tasks))])
    path = results / "records" / "merge" / "mini" / "vit_micro" / method / algorithm / key
    path.mkdir(parents=True, exist_ok=True)
    (path / f"merge-seed{seed}-draw{draw}.json").write_text(json.dumps(content))


@pytest.fixture
def results(tmp_path):
    write_record(tmp_path, "frozen", (18, 20))
    write_record(tmp_path, "ties", (45, 60))
    write_record(tmp_path, "ties", (63, 60), seed=1)
    write_record(tmp_path, "lot", (54, 40), images="train")
    return tmp_path


def rows_of(tables, head="trained_head"):
    [found] = [table for table in tables if table.head == head]
    return {row.algorithm: row for row in found.complete_rows}


def test_the_metrics_are_those_of_the_definitions(results):
    row = rows_of(merge_tables(results))["lot"]
    assert row.mean("average") == 47
    assert row.mean("natural") == 54
    assert row.mean("normalized") == 100 * (Fraction(54, 90) + Fraction(40, 80)) / 2
    assert row.mean("chance_corrected") == 100 * (Fraction(54 - 10, 90 - 10) + Fraction(40 - 25, 80 - 25)) / 2
    assert row.mean("worst") == 50
    assert row.sd("average") is None
    ties = rows_of(merge_tables(results))["ties"]
    assert ties.mean("digits") == 54
    assert ties.sd("digits") == pytest.approx(2**0.5 * 9)


def test_an_expert_below_chance_has_no_corrected_accuracy(tmp_path):
    write_record(tmp_path, "ties", (5, 60), tasks={"digits": ("natural", 1, 1), "spots": ("specialized", 3, 4)})
    row = rows_of(merge_tables(tmp_path))["ties"]
    assert row.mean("chance_corrected") is None
    assert " – |" in render_markdown(merge_tables(tmp_path)[0])


def test_the_references_come_first_and_the_best_next(results):
    assert list(rows_of(merge_tables(results))) == [
        "experts",
        "linear probe of the frozen backbone",
        "frozen",
        "ties",
        "lot",
    ]
    assert rows_of(merge_tables(results))["experts"].mean("normalized") == 100
    fitted = rows_of(merge_tables(results), "fitted_head")
    assert list(fitted)[:2] == ["experts", "linear probe of the frozen backbone"]
    assert fitted["ties"].mean("digits") == 60


def test_the_markdown_shows_means_deviations_and_marks(results):
    text = render_markdown(merge_tables(results)[0])
    assert "| experts: algorithm" in text
    assert "54.0 ± 12.7" in text
    assert "lora: lot* " in text
    assert "* reads training images." in text.replace("\\", "")
    assert "One backbone out of 2 experts, in percent; the heads of the experts." in text


def test_the_csv_holds_all_numbers_of_tasks(results):
    write_record(results, "ties", (81,), fitted=(60,), tasks={"digits": TASKS["digits"]})
    [first, *_] = merge_tables(results)
    lines = list(csv.DictReader(render_csv(first).splitlines()))
    assert {(line["row"], line["num_tasks"]) for line in lines} >= {("ties", "1"), ("ties", "2"), ("experts", "2")}
    one = next(line for line in lines if line["num_tasks"] == "1")
    assert (one["digits"], one["spots"], one["normalized"], one["runs"]) == ("81.0000", "", "90.0000", "1")
    assert len(first.complete_rows) == 5


def test_two_settings_of_an_algorithm_are_two_rows(results):
    write_record(results, "ties", (10, 10), keep=0.5)
    names = [name for name in rows_of(merge_tables(results)) if name.startswith("ties")]
    assert len(names) == 2
    assert all(len(name) == len("ties 012345") for name in names)


def test_the_charts_are_drawn(results):
    write_record(results, "ties", (81,), fitted=(60,), tasks={"digits": TASKS["digits"]})
    charts = merge_charts(merge_tables(results)[0])
    assert list(charts) == ["heat-map", "number-of-tasks"]
    for chart in charts.values():
        assert "Merged models: mini, vit_micro" in vegalite_to_svg(chart)


@pytest.mark.slow  # draws
def test_the_page_has_the_tables_and_the_charts(results):
    [path] = write_merge_page(results)
    text = path.read_text()
    assert "<h2>mini, vit_micro: the heads of the experts</h2>" in text
    assert "<td>54.0 ± 12.7</td>" in text
    assert text.count("data:image/svg+xml;base64,") == 2
    assert write_merge_page(results)[0].read_text() == text
    assert write_merge_page(results / "nothing") == []


def test_a_file_that_is_no_record_is_named(results):
    path = results / "records" / "merge" / "merge-seed0-draw0.json"
    path.write_text("{}")
    with pytest.raises(UserError, match=rf"{path} is not the record of a merge"):
        merge_tables(results)


@pytest.mark.slow  # draws all figures
def test_the_commands_write_tables_and_figures(results, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["moppa table", str(results)])
    assert table.main() == 0
    names = {path.name for path in (results / "tables").iterdir()}
    assert names == {
        f"merge-mini-vit_micro{heads}.{suffix}" for heads in ("", "-fitted-heads") for suffix in ("md", "csv")
    }
    assert "merge-mini-vit_micro.csv" in capsys.readouterr().out
    assert [path.read_bytes() for path in write_merge_tables(results)] == [
        (results / "tables" / path.name).read_bytes() for path in write_merge_tables(results)
    ]
    monkeypatch.setattr(sys, "argv", ["moppa figures", str(results)])
    assert figures.main() == 0
    assert (results / "figures" / "merge-mini-vit_micro-heat-map.svg").exists()
