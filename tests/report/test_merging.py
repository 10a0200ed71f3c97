"""Tables and charts of merged models, from records that are made in milliseconds."""

import csv
import re
import sys
from fractions import Fraction
from statistics import stdev

import pytest
from vl_convert import vegalite_to_svg

from moppa.cli import figures, report, table
from moppa.report.merge_files import render_csv, render_markdown, write_merge_tables
from moppa.report.merge_page import write_merge_page
from moppa.report.merge_summary import write_summaries
from moppa.report.merging import merge_tables, read_merges
from moppa.report.plots.merging import merge_charts
from tests.factories import merge_record_of, write_merge_file

TASKS = {"digits": ("natural", 1, 10), "spots": ("specialized", 3, 4)}


def write_record(results, algorithm, correct, *, fitted=(60, 60), seed=0, draw=0, tasks=TASKS, method="lora", **merge):
    """Writes the record of a merge of experts with 90 and 80 of 100 correct images."""
    fields = {
        name: {
            "group": group,
            "column": column,
            "title": name.capitalize(),
            "num_classes": classes,
            "expert": {
                protocol: {"key": f"{protocol}-{name}", "correct": expert, "total": 100}
                for protocol in ("tune", "final")
            },
            "total": 100,
            "trained_head": own,
            "fitted_head": again,
        }
        for (name, (group, column, classes)), own, again, expert in zip(
            tasks.items(), correct, fitted, (90, 80), strict=False
        )
    }
    return write_merge_file(
        results,
        merge_record_of(
            algorithm, fields, names=("mini", "vit_micro", method), seed=seed, draw=draw, scale=0.5 + seed, **merge
        ),
    )


def tables_of(results):
    records, excluded = read_merges(results)
    assert not excluded
    return merge_tables(records)


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
    row = rows_of(tables_of(results))["lot"]
    assert row.mean("average") == 47
    assert row.mean("natural") == 54
    assert row.mean("normalized") == 100 * (Fraction(54, 90) + Fraction(40, 80)) / 2
    assert row.mean("chance_corrected") == 100 * (Fraction(54 - 10, 90 - 10) + Fraction(40 - 25, 80 - 25)) / 2
    assert row.mean("worst") == 50
    assert row.sd("average") is None
    ties = rows_of(tables_of(results))["ties"]
    assert ties.mean("digits") == 54
    assert ties.sd("digits") == pytest.approx(2**0.5 * 9)


def test_means_and_deviations_are_over_seeds_and_draws(tmp_path):
    for seed, draw, digits in ((0, 0, 45), (0, 1, 54), (1, 0, 63), (1, 1, 72)):
        write_record(tmp_path, "dare", (digits, 40), seed=seed, draw=draw)
    row = rows_of(tables_of(tmp_path))["dare"]
    assert len(row.records) == 4
    assert row.mean("digits") == 58.5
    assert row.sd("digits") == pytest.approx(stdev((45, 54, 63, 72)))
    assert row.mean("worst") == 50
    assert "58.5 ± 11.6" in render_markdown(tables_of(tmp_path)[0])


def test_an_expert_below_chance_has_no_corrected_accuracy(tmp_path):
    write_record(tmp_path, "ties", (5, 60), tasks={"digits": ("natural", 1, 1), "spots": ("specialized", 3, 4)})
    row = rows_of(tables_of(tmp_path))["ties"]
    assert row.mean("chance_corrected") is None
    assert " – |" in render_markdown(tables_of(tmp_path)[0])


def test_the_references_come_first_and_the_best_next(results):
    assert list(rows_of(tables_of(results))) == [
        "experts",
        "linear probe of the frozen backbone",
        "frozen",
        "ties",
        "lot",
    ]
    assert rows_of(tables_of(results))["experts"].mean("normalized") == 100
    fitted = rows_of(tables_of(results), "fitted_head")
    assert list(fitted)[:2] == ["experts", "linear probe of the frozen backbone"]
    assert fitted["ties"].mean("digits") == 60


def test_the_markdown_shows_means_deviations_and_marks(results):
    text = render_markdown(tables_of(results)[0])
    assert "| experts: algorithm" in text
    assert "54.0 ± 12.7" in text
    assert "lora: lot* " in text
    assert "* reads training images." in text.replace("\\", "")
    assert "One backbone out of 2 experts, in percent; the heads of the experts." in text


def test_the_summary_has_every_method_with_both_kinds_of_heads(results):
    write_record(results, "ties", (90, 80), fitted=(81, 72), method="ssf")
    [path] = write_summaries(tables_of(results), results)
    assert path.name == "merge-mini-vit_micro-summary.md"
    lines = [[cell.strip() for cell in line.split("|")[1:-1]] for line in path.read_text().splitlines() if "|" in line]
    assert lines[0] == ["algorithm", "lora", "ssf", "lora, fitted", "ssf, fitted"]
    found = {name: values for name, *values in lines[2:]}
    assert list(found) == ["linear probe of the frozen backbone", "frozen", "ties", "lot*"]
    assert found["ties"] == ["67.5 ± 7.1", "100.0", "70.8 ± 0.0", "90.0"]
    assert found["frozen"] == ["22.5", "", "", ""]


def test_the_csv_holds_all_numbers_of_tasks(results):
    write_record(results, "ties", (81,), fitted=(60,), tasks={"digits": TASKS["digits"]})
    [first, *_] = tables_of(results)
    lines = list(csv.DictReader(render_csv(first).splitlines()))
    assert {(line["row"], line["num_tasks"]) for line in lines} >= {("ties", "1"), ("ties", "2"), ("experts", "2")}
    one = next(line for line in lines if line["num_tasks"] == "1")
    assert (one["digits"], one["spots"], one["normalized"], one["runs"]) == ("81.0000", "", "90.0000", "1")
    assert len(first.complete_rows) == 5


def test_two_settings_of_an_algorithm_are_two_rows(results):
    write_record(results, "ties", (10, 10), keep=0.5)
    names = [name for name in rows_of(tables_of(results)) if name.startswith("ties")]
    assert sorted(names) == ["ties (keep 0.5)", "ties (keep None)"]


def test_the_charts_are_drawn(results):
    write_record(results, "ties", (81,), fitted=(60,), tasks={"digits": TASKS["digits"]})
    charts = merge_charts(tables_of(results)[0])
    assert list(charts) == ["heat-map", "number-of-tasks"]
    for chart in charts.values():
        assert "Merged models: mini, vit_micro" in vegalite_to_svg(chart)


@pytest.mark.slow  # draws
def test_the_page_has_the_tables_and_the_charts(results):
    tables = tables_of(results)
    [path] = write_merge_page(tables, results / "report")
    text = path.read_text()
    assert '<h2 id="merge-mini-vit_micro">mini, vit_micro: the heads of the experts</h2>' in text
    assert "<td>54.0 ± 12.7</td>" in text
    assert text.count("data:image/svg+xml;base64,") == 2
    assert write_merge_page(tables, results / "report")[0].read_text() == text
    assert write_merge_page([], results / "report") == []


@pytest.mark.slow  # draws, and writes the library of the charts
def test_the_page_of_all_results_links_the_tables_of_merges(results, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["moppa report", str(results)])
    assert report.main() == 0
    index, merging = ((results / "report" / name).read_text() for name in ("index.html", "merging.html"))
    links = re.findall(r'<a href="merging\.html#([^"]+)">', index)
    assert links == ["merge-mini-vit_micro", "merge-mini-vit_micro-fitted-heads"]
    assert links == re.findall(r'<h2 id="([^"]+)">', merging)
    assert '<a href="index.html">' in merging


def test_a_file_that_is_no_record_is_excluded_and_named(results, monkeypatch, capsys):
    place = "merge/mini/vit_micro/lora/ties/0/merge-seed0-draw0.json"
    path = results / "records" / place
    path.parent.mkdir(parents=True)
    for text, reason in {"{": "it is not JSON", "{}": "its fields are not those of the record of a merge"}.items():
        path.write_text(text)
        records, [excluded] = read_merges(results)
        assert len(records) == 4
        assert excluded.relative_path == place
        assert reason in excluded.reason
    monkeypatch.setattr(sys, "argv", ["moppa table", str(results), "--quiet"])
    assert table.main() == 3
    assert f"excluded: {path}: its fields are not" in capsys.readouterr().err


@pytest.mark.slow  # draws all figures
def test_the_commands_write_tables_and_figures(results, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["moppa table", str(results)])
    assert table.main() == 0
    names = {path.name for path in (results / "tables").iterdir()}
    assert names == {
        "merge-mini-vit_micro-summary.md",
        *(f"merge-mini-vit_micro{heads}.{suffix}" for heads in ("", "-fitted-heads") for suffix in ("md", "csv")),
    }
    assert "merge-mini-vit_micro.csv" in capsys.readouterr().out
    written = {path: path.read_bytes() for path in (results / "tables").iterdir()}
    write_merge_tables(tables_of(results), results)
    assert {path: path.read_bytes() for path in (results / "tables").iterdir()} == written
    monkeypatch.setattr(sys, "argv", ["moppa figures", str(results)])
    assert figures.main() == 0
    assert (results / "figures" / "merge-mini-vit_micro-heat-map.svg").exists()
