"""A few-shot record says which draw it was trained on; its settings come from tune records of as many images."""

import pytest

from moppa.record.integrity import find_inconsistency
from moppa.report.build import read_tables
from moppa.sweep.cost import cell_flops
from moppa.sweep.select_hparams import select_hparams
from moppa.utils.config import to_plain
from moppa.utils.errors import UserError
from run import run_cell
from tests.conftest import CONFIGS, config_of
from tests.factories import record_of, write_record_file


def few_shot(number, *, seed=0, draw=None, **split):
    """Returns the fields of a record of EuroSAT in which they differ from one of `protocol=final`."""
    held = {"verdict": "official", "lineage": "tfds", "num_train": 10 * number, "shots": number}
    held |= {"draw": seed if draw is None else draw, **split}
    return {"protocol": f"few_shot_{number}", "total": 5400, "correct": 2700 + seed, "seed": seed, "split": held}


@pytest.mark.parametrize(
    ("split", "problem"),
    [
        ({}, ""),
        ({"draw": 1}, "are of draw 1 with 2 images of each class"),
        ({"shots": 4}, "with 4 images of each class"),
        ({"num_train": 1000}, "it was trained on 1000 images, not on 2 of each class"),
    ],
)
def test_an_edited_draw_is_found(split, problem):
    problem_found = find_inconsistency(record_of("task=eurosat", "method=lora", **few_shot(2, **split)))
    assert (problem in problem_found) if problem else problem_found == ""


def test_each_number_of_images_has_a_table_and_the_seeds_of_all_draws_are_one_row(tmp_path):
    for shots in (1, 4):
        for seed in (0, 1):
            write_record_file(tmp_path, "task=eurosat", "method=lora", **few_shot(shots, seed=seed))
    write_record_file(tmp_path, "task=eurosat", "method=lora", "protocol.draw=7", **few_shot(4, draw=7))
    tables, excluded = read_tables(tmp_path, CONFIGS)
    assert excluded == []
    assert [(table.protocol, [row.name for row in table.rows]) for table in tables] == [
        ("few_shot_1", ["lora"]),
        ("few_shot_4", ["lora", "lora (draw 7)"]),
    ]
    assert [len(row.records) for row in tables[1].rows] == [2, 1]
    assert "trained on 1 image per class, which the seed draws" in tables[0].caption


def test_rows_of_unproven_splits_are_marked(tmp_path):
    for task, verdict in (("fgvc/stanford_dogs", "no digest"), ("vtab_full/eurosat", "official start")):
        split = {"verdict": verdict, "lineage": "tfds", "num_train": 12000}
        write_record_file(tmp_path, f"task={task}", "method=lora", split=split)
    write_record_file(tmp_path, "task=eurosat", "method=lora")
    tables = {table.suite: table for table in read_tables(tmp_path, CONFIGS)[0]}
    assert {suite: "◊" in table.rows[0].marks for suite, table in tables.items()} == {
        "fgvc": True, "vtab_full": True, "vtab1k": False,
    }  # fmt: skip
    assert "trained on all training images" in tables["fgvc"].caption
    assert any("nothing proves that it is the published one" in fact for fact in tables["fgvc"].facts)


def test_settings_of_another_number_of_images_are_not_selected(tmp_path):
    few = ("task=eurosat", "method=lora", f"run.results={tmp_path}", "hparams=best", "protocol=few_shot_4")
    write_record_file(tmp_path, "task=eurosat", "method=lora", "train.lr=0.5", protocol="tune", weights="w")
    with pytest.raises(UserError, match=r"run it with protocol=tune \+protocol\.shots=4 first"):
        select_hparams(config_of(*few), weights_sha256="w")
    tuned = {"protocol": "tune", "weights": "w", "split": {**few_shot(4)["split"], "test": "not read"}}
    write_record_file(tmp_path, "task=eurosat", "method=lora", "train.lr=0.25", "+protocol.shots=4", **tuned)
    config, evidence = select_hparams(config_of(*few), weights_sha256="w")
    assert (config.train.lr, evidence["num_settings"]) == (0.25, 1)


@pytest.mark.slow
def test_a_plan_counts_the_drawn_images_and_those_of_an_epoch():
    def flops(*overrides):
        return cell_flops(to_plain(config_of("backbone=test_vit", "method=linear", "train.epochs=1000", *overrides)))

    few, full = flops("task=eurosat", "protocol=few_shot_4"), flops("task=eurosat")
    assert few < 0.1 * full
    by_steps = flops("task=vtab_full/eurosat", "train.epoch_images=1000")
    assert by_steps == full


@pytest.mark.slow
def test_a_real_few_shot_cell_of_eurosat(shared, tmp_path):
    common = ["task=eurosat", f"data.dir={shared / 'tfds'}", f"data.cache={tmp_path / 'cache'}", "backbone=vit_micro"]
    common += ["method=lora", "train=mini", "train.epochs=10", f"run.results={tmp_path / 'results'}"]
    for shots in (1, 16):
        run_cell(config_of(*common, f"protocol=few_shot_{shots}"))
    one, sixteen = (table.rows[0].records[0] for table in read_tables(tmp_path / "results", CONFIGS)[0])
    assert one["split"] == {**one["split"], "verdict": "official", "test": "official", "shots": 1, "draw": 0}
    assert one["split"]["num_train"] == 10
    assert sixteen.accuracy > one.accuracy + 10
