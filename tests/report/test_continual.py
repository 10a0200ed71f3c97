"""The table of continual experiments, from records that are made in milliseconds."""

import csv
import json
from fractions import Fraction

import pytest

from moppa.report.continual import continual_tables, write_continual_tables
from moppa.utils.errors import UserError

TASKS = {"digits": 1, "spots": 3, "shapes": 5}
ORDER = ("spots", "digits", "shapes")


def write_sequence(results, strategy, correct, *, seed=0, lr=0.1, search=(), order=ORDER, method=None):
    """Writes the records of a sequence; `correct` has the correct images of 100 for each task after each step."""
    for number, counts in enumerate(correct, start=1):
        names = order[:number]
        record = {
            "suite": "mini",
            "backbone": "vit_micro",
            "method": "lora",
            "strategy": strategy,
            "protocol": "final",
            "seed": seed,
            "num_tasks": len(order),
            "config": {
                "continual": {"name": strategy, "strategy": {"alpha": 0.5}},
                "search": [{"settings": {"train.lr": value}, "accuracy": 0.5} for value in search],
                **({} if method is None else {"method": method}),
            },
            "train": {"lr": lr},
            "dtype": "float32",
            "tasks": [{"name": name, "column": TASKS[name], "title": name.capitalize()} for name in names],
            "correct": dict(zip(names, counts, strict=True)),
            "total": dict.fromkeys(names, 100),
        }
        path = results / "records" / "continual" / "mini" / "vit_micro" / strategy / f"{'-'.join(order)}{lr}"
        path.mkdir(parents=True, exist_ok=True)
        (path / f"step{number}-seed{seed}.json").write_text(json.dumps(record))


SEQUENCE = [(80,), (60, 90), (70, 50, 40)]  # spots forgets and recovers in part, digits forgets


def test_the_metrics_are_those_of_the_papers(tmp_path):
    write_sequence(tmp_path, "sequential", SEQUENCE)
    [table] = continual_tables(tmp_path)
    [[sequence]] = table.rows.values()
    assert sequence.metrics() == {
        "accuracy": Fraction(70 + 50 + 40, 3),
        "forgetting": Fraction((80 - 70) + (90 - 50), 2),
        "backward_transfer": Fraction((70 - 80) + (50 - 90), 2),
        "learning_accuracy": Fraction(80 + 90 + 40, 3),
    }
    assert list(table.tasks) == ["digits", "spots", "shapes"]


def test_forgetting_counts_from_the_best_step_and_backward_transfer_from_the_own_one(tmp_path):
    write_sequence(tmp_path, "sequential", [(50,), (80, 90), (70, 90, 40)])
    [[sequence]] = continual_tables(tmp_path)[0].rows.values()
    assert sequence.metrics()["forgetting"] == Fraction((80 - 70) + 0, 2)
    assert sequence.metrics()["backward_transfer"] == Fraction((70 - 50) + 0, 2)


def test_seeds_and_orders_are_one_row_and_other_settings_another(tmp_path):
    write_sequence(tmp_path, "sequential", SEQUENCE)
    write_sequence(tmp_path, "sequential", SEQUENCE, seed=1)
    write_sequence(tmp_path, "sequential", SEQUENCE, order=("digits", "shapes", "spots"))
    write_sequence(tmp_path, "sequential", SEQUENCE, lr=0.2)
    write_sequence(tmp_path, "opcm", SEQUENCE, lr=0.1, search=(0.1, 0.2))
    write_sequence(tmp_path, "opcm", SEQUENCE, lr=0.2, search=(0.1, 0.2), seed=1)
    [table] = continual_tables(tmp_path)
    assert {name: len(rows) for name, rows in table.rows.items()} == {
        "lora: sequential (lr 0.1)": 3,
        "lora: sequential (lr 0.2)": 1,
        "lora: opcm": 2,
    }


def test_the_settings_of_the_method_and_the_candidates_name_a_row_too(tmp_path):
    write_sequence(tmp_path, "opcm", SEQUENCE, method={"attach": {"rank": 4}})
    write_sequence(tmp_path, "opcm", SEQUENCE, seed=1, method={"attach": {"rank": 8}})
    write_sequence(tmp_path, "share", SEQUENCE, lr=0.1, search=(0.1, 0.2))
    write_sequence(tmp_path, "share", SEQUENCE, lr=0.3, seed=1, search=(0.1, 0.3))
    first, second, *searched = continual_tables(tmp_path)[0].rows
    assert [first, second] == ["lora: opcm (rank 4)", "lora: opcm (rank 8)"]
    assert [name[:-8] for name in searched] == ["lora: share (tried 2"] * 2
    assert len(set(searched)) == 2


def test_tables_are_written_and_an_unfinished_sequence_is_left_out(tmp_path):
    write_sequence(tmp_path, "sequential", SEQUENCE)
    write_sequence(tmp_path, "sequential", SEQUENCE, seed=1)
    write_sequence(tmp_path, "share", SEQUENCE[:2])
    markdown, table = write_continual_tables(tmp_path)
    assert markdown.name == "continual-mini-vit_micro-final.md"
    text = markdown.read_text()
    [line] = [line for line in text.splitlines() if line.startswith("| lora: sequential ")]
    cells = [cell.strip() for cell in line.strip("|").split("|")]
    assert cells[:6] == ["lora: sequential", "2", "53.3 ± 0.0", "25.0 ± 0.0", "-25.0 ± 0.0", "70.0 ± 0.0"]
    assert cells[6:] == ["50.0 ± 0.0", "70.0 ± 0.0", "40.0 ± 0.0"]
    assert "share" not in text
    [row] = csv.DictReader(table.read_text().splitlines())
    assert (row["row"], row["forgetting"], row["forgetting_sd"], row["spots"]) == (
        "lora: sequential",
        "25.0000",
        "0.0000",
        "70.0000",
    )


def test_fewer_tasks_have_a_table_of_their_own(tmp_path):
    write_sequence(tmp_path, "sequential", SEQUENCE)
    write_sequence(tmp_path, "sequential", SEQUENCE[:2], order=ORDER[:2])
    names = [table.name for table in continual_tables(tmp_path)]
    assert sorted(names) == ["continual-mini-vit_micro-final", "continual-mini-vit_micro-final-digits-spots"]


def test_a_file_that_is_no_record_is_named(tmp_path):
    write_sequence(tmp_path, "sequential", SEQUENCE)
    next((tmp_path / "records").rglob("step2-*")).write_text("{}")
    with pytest.raises(UserError, match=r"step2-seed0\.json is not the record of a continual step .*run the sequence"):
        continual_tables(tmp_path)
