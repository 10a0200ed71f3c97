"""Marks: how often equal methods get one, and what keeps a column from having one."""

import re

import pytest

from moppa.report.build import write_tables
from tests.conftest import CONFIGS, ROOT
from tests.factories import write_record_file
from tests.report.null_simulation import CASES, DEVIATIONS, ONE_TASK, marked_percent, simulated_rates

TUNED = {"val200": 0.8, "num_settings": 4, "seeds": [0], "records": {}, "beaten": {}}


def marks_of(results, task="dtd"):
    """Returns the marks in the column of a task, by row."""
    return {row.name: row.values[task].mark for row in write_tables(results, CONFIGS).tables[0].rows}


def write_row(results, *overrides, percents, task="dtd", **fields):
    for seed, percent in enumerate(percents):
        write_record_file(
            results, *overrides, f"task={task}", seed=seed, percent=percent, predictions=True, shift=37 * seed, **fields
        )


def test_equal_methods_are_rarely_marked_and_different_ones_often():
    assert marked_percent(ONE_TASK, (0, 0), 1.5, num_seeds=3, num_tables=200) <= 7
    assert marked_percent(ONE_TASK, (0, 0), 3, num_seeds=1, num_tables=20) == 0
    assert marked_percent(ONE_TASK, (0, -6), 0.5, num_seeds=3, num_tables=20) >= 90


@pytest.mark.slow
def test_the_rates_in_the_docs_are_those_of_the_simulation():
    rates = simulated_rates(scale=0.25)
    text = (ROOT / "docs" / "statistics.md").read_text()
    for name, (*_, num_tables) in CASES.items():
        [line] = re.findall(rf"\| {re.escape(name)} \({num_tables} tables\) \| (.*) \|", text)
        for deviation, stated in zip(DEVIATIONS, map(float, line.split(" | ")), strict=True):
            rate = rates[name, deviation]
            noise = (max(stated, 1) * (100 - stated) / (num_tables / 4)) ** 0.5  # standard error of the smaller run
            assert abs(rate - stated) <= 4 * noise, (name, deviation)
            if "better" not in name:
                assert stated <= 5, (name, deviation)


def test_a_column_with_a_row_of_fewer_than_three_seeds_has_no_mark(tmp_path):
    write_row(tmp_path, "method=lora", percents=(80, 80.2, 80.4))
    write_row(tmp_path, "method=linear", percents=(50, 50.2, 50.4))
    assert marks_of(tmp_path) == {"linear": "", "lora": "best"}
    write_row(tmp_path, "method=moppa", percents=(60, 60.2))
    assert set(marks_of(tmp_path).values()) == {""}


SMALL = {"size": 112, "mean": [0.5] * 3, "std": [0.5] * 3}


@pytest.mark.parametrize(
    ("overrides", "fields", "fact"),
    [
        (("train.epochs=20",), {}, "epochs 20 to 100"),
        (("backbone.image_size=112",), {"preprocess": SMALL}, "image size 112 to 224"),
        ((), {"tuned": TUNED}, "settings tried 1 to 4"),
    ],
)
def test_rows_of_unequal_budgets_are_not_marked_and_the_table_says_so(overrides, fields, fact, tmp_path):
    write_row(tmp_path, "method=lora", percents=(80, 80.2, 80.4))
    write_row(tmp_path, "method=linear", *overrides, percents=(50, 50.2, 50.4), **fields)
    [table] = write_tables(tmp_path, CONFIGS).tables
    assert {row.values["dtd"].mark for row in table.rows} == {""}
    assert any(f"unequal budgets ({fact})" in text for text in table.facts)


def test_a_mark_claims_every_pair_and_not_only_the_next_row(tmp_path):
    """The second row is far behind, but the third, whose seeds differ by 40 points, cannot be told from the first."""
    write_row(tmp_path, "method=lora", percents=(80, 80.2, 80.4))
    write_row(tmp_path, "method=linear", percents=(70, 70.2, 70.4))
    assert marks_of(tmp_path)["lora"] == "best"
    write_row(tmp_path, "method=moppa", percents=(85, 45, 75))
    assert set(marks_of(tmp_path).values()) == {""}


def test_how_a_setting_was_chosen_does_not_split_its_seeds(tmp_path):
    write_row(tmp_path, "method=lora", "train.lr=0.005", percents=(90,), tuned=TUNED)
    for seed in (1, 2):
        write_record_file(tmp_path, "method=lora", "task=dtd", "train.lr=0.005", seed=seed, percent=90 + seed)
    write_record_file(tmp_path, "method=lora", "task=svhn", "train.lr=0.01", tuned={**TUNED, "num_settings": 7})
    write_record_file(tmp_path, "method=lora", "task=svhn", "train.lr=0.02")
    table = write_tables(tmp_path, CONFIGS).tables[0]
    rows = {row.name: row for row in table.rows}
    assert set(rows) == {"lora (settings tuned on val200)", "lora (lr 0.02)"}
    tuned = rows["lora (settings tuned on val200)"]
    assert tuned.values["dtd"].num_seeds == 3
    assert float(tuned.values["dtd"].mean) == pytest.approx(91, abs=0.05)
    markdown = (tmp_path / "tables" / f"{table.name}.md").read_text(encoding="utf-8")
    assert re.search(r"tuned on val200.*\| +4 to 7 \|", markdown)
    assert re.search(r"lr 0.02.*\| +given \|", markdown)
