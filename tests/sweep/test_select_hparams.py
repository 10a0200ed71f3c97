"""The protocols: tune cannot see the test set, best takes what the records prove, paper is a diagnostic apart."""

import json
import shutil

import numpy as np
import pytest

from moppa.data import cache
from moppa.record.cell import cell_from_config
from moppa.record.schema import REQUIRED, read_record
from moppa.report.build import write_tables
from moppa.sweep.select_hparams import select_hparams
from moppa.utils.atomic import sha256_file
from moppa.utils.config import instantiate
from moppa.utils.errors import UserError
from run import run_cell
from tests.conftest import CONFIGS, ROOT, config_of
from tests.toy_source import ToySource

EUROSAT = ["task=eurosat", "backbone=dinov2_vits14", "backbone.image_size=56", "train.epochs=10", "hparams=best"]
DINO = "61b85d0649098a1d3170df00ef9af96be265c335fa450540015e96d716e4d017"


def tuned_cell(folder, *, correct, seed=0, params=100, **settings):
    """A tune record as a cell would leave it, with what the choice looks at."""
    overrides = [f"{name.replace('__', '.')}={value}" for name, value in settings.items()]
    config = config_of("task=eurosat", "method=lora", "protocol=tune", f"seed={seed}", *overrides)
    cell = cell_from_config(config, weights_sha256="w")
    path = folder / "records" / cell.record.relative_to("results/records")
    path.parent.mkdir(parents=True, exist_ok=True)
    kept = dict.fromkeys(REQUIRED) | {
        "protocol": "tune",
        "config": cell.config,
        "weights": {"sha256": "w"},
        "correct": correct,
        "total": 200,
        "seed": seed,
        "key": cell.key,
        "trainable_params": params,
    }
    path.write_text(json.dumps(kept))
    return path


def best(folder, *overrides, weights_sha256="w"):
    config = config_of("task=eurosat", "method=lora", "hparams=best", f"run.results={folder}", *overrides)
    return select_hparams(config, weights_sha256=weights_sha256)


def test_best_is_the_highest_mean_over_seeds_and_names_its_records(tmp_path):
    for seed, correct in enumerate((150, 160)):
        tuned_cell(tmp_path, correct=correct, seed=seed, train__lr=1e-2)
    for seed, correct in enumerate((170, 100)):
        tuned_cell(tmp_path, correct=correct, seed=seed, train__lr=1e-3)
    config, evidence = best(tmp_path)
    assert (config.train.lr, config.train.epochs, config.protocol.name) == (1e-2, 100, "final")
    assert (evidence["val200"], evidence["seeds"], evidence["num_settings"]) == (310 / 400, [0, 1], 2)
    paths = [tmp_path / "records" / path for path in evidence["records"]]
    assert [read_record(path)["correct"] for path in paths] == [150, 160]
    assert list(evidence["records"].values()) == [sha256_file(path) for path in paths]
    assert list(evidence["beaten"].values()) == [270 / 400]


def test_settings_are_compared_on_the_seeds_that_all_have(tmp_path):
    tuned_cell(tmp_path, correct=150, seed=0, train__lr=1e-2)
    tuned_cell(tmp_path, correct=140, seed=0, train__lr=1e-3)
    tuned_cell(tmp_path, correct=200, seed=1, train__lr=1e-3)
    config, evidence = best(tmp_path)
    assert config.train.lr == 1e-2
    assert evidence["seeds"] == [0]


def test_of_equals_the_smaller_is_taken(tmp_path):
    for rank, params in ((16, 200), (4, 50), (8, 100)):
        tuned_cell(tmp_path, correct=150, params=params, method__attach__rank=rank)
    config, _ = best(tmp_path)
    assert config.method.attach.rank == 4


@pytest.mark.parametrize(
    "other",
    [{"train__epochs": 20}, {"data__lineage": "noah_jpeg"}, {"backbone__image_size": 112}, {"task__version": 2}],
)
def test_what_was_tuned_on_something_else_does_not_count(tmp_path, other):
    tuned_cell(tmp_path, correct=200, train__lr=1, **other)
    with pytest.raises(UserError, match=r"nothing was tuned for vit_b16_mae lora eurosat with train\.epochs=100"):
        best(tmp_path)
    tuned_cell(tmp_path, correct=10, train__lr=2)
    assert best(tmp_path)[0].train.lr == 2
    with pytest.raises(UserError, match="nothing was tuned"):
        best(tmp_path, weights_sha256="of others")


def test_settings_that_share_no_seed_are_not_compared(tmp_path):
    tuned_cell(tmp_path, correct=150, seed=0, train__lr=1e-2)
    tuned_cell(tmp_path, correct=150, seed=1, train__lr=1e-3)
    with pytest.raises(UserError, match=r"2 tuned settings .* share no seed"):
        best(tmp_path)


def test_the_committed_tuning_leads_to_the_accuracies_of_the_readme(tmp_path):
    shutil.copytree(ROOT / "results" / "records", tmp_path / "records")
    common = [*EUROSAT, f"run.results={tmp_path}", "data.cache=elsewhere"]
    for method, val200 in {"lora": 89.0, "moppa": 88.5, "linear": 74.5, "adaptformer": 89.5}.items():
        _, evidence = select_hparams(config_of(*common, f"method={method}"), weights_sha256=DINO)
        assert 100 * evidence["val200"] == pytest.approx(val200), method
        assert evidence["seeds"] == [0]
        assert len(evidence["records"]) == 1


def test_a_final_record_names_the_tune_records_that_it_rests_on(toy, tmp_path):
    for lr in (1e-6, 1e-2):
        run_cell(config_of(*toy, "method=linear", "protocol=tune", f"train.lr={lr}"))
    run_cell(config_of(*toy, "method=linear", "hparams=best"))
    records = {path: read_record(path) for path in (tmp_path / "results" / "records").rglob("seed0.json")}
    [final] = [one for one in records.values() if one["protocol"] == "final"]
    assert final["config"]["train"]["lr"] == 1e-2
    [path] = final["tuned"]["records"]
    rested_on = records[tmp_path / "results" / "records" / path]
    assert (rested_on["protocol"], rested_on["config"]["train"]["lr"]) == ("tune", 1e-2)
    assert final["tuned"]["val200"] == rested_on["correct"] / 200


def test_tuning_cannot_read_the_test_set_whoever_asks(toy, monkeypatch):
    protocol = instantiate(config_of("task=eurosat", "protocol=tune"), "protocol")
    read = []
    load = protocol.only(read.append)
    for split in ("test", "train800val200"):
        with pytest.raises(UserError, match=f"protocol=tune reads train800 and val200, never {split}"):
            load(split)
    load("val200")
    assert read == ["val200"]

    examples = ToySource.examples

    def no_test_set(self, task, part):
        assert part != "test"
        return examples(self, task, part)

    monkeypatch.setattr(ToySource, "examples", no_test_set)
    run_cell(config_of(*toy, "method=linear", "protocol=tune"))
    final = config_of(*toy, "method=linear")
    with pytest.raises(AssertionError):
        run_cell(final)


def test_a_method_that_looks_at_images_before_training_gets_none_of_val200(toy, monkeypatch):
    asked, load = [], cache.load_split
    monkeypatch.setattr(
        "run.cache.load_split", lambda task, split, **named: asked.append(split) or load(task, split, **named)
    )
    run_cell(config_of(*toy, "method=spt_lora", "protocol=tune"))
    assert asked == ["train800", "train800", "val200"]


def test_the_papers_diagnostic_keeps_the_best_reading_beside_the_last_and_changes_nothing(toy, tmp_path):
    common = [*toy, "method=moppa", "train.epochs=3"]
    run_cell(config_of(*common))
    run_cell(config_of(*common, "protocol=best_on_test", "protocol.every=2"))
    found = {one["protocol"]: one for one in map(read_record, (tmp_path / "results" / "records").rglob("seed0.json"))}
    final, paper = found["final"], found["best_on_test"]
    readings = paper["best_on_test"]["evaluations"]
    assert [one["epoch"] for one in readings] == [2, 3]
    assert readings[-1]["correct"] == paper["correct"] == final["correct"]
    assert paper["best_on_test"]["correct"] == max(one["correct"] for one in readings)
    assert paper["curve"] == final["curve"]
    assert "best_on_test" not in final


def test_a_diagnostic_never_enters_the_main_table(toy, tmp_path):
    run_cell(config_of(*toy, "method=linear"))

    def tables():
        return [path for path in write_tables(tmp_path / "results", CONFIGS).written if path.suffix == ".md"]

    [before] = tables()
    text = before.read_text()
    run_cell(config_of(*toy, "method=lora", "protocol=best_on_test"))
    written = tables()
    assert [path.stem.rpartition("-")[2] for path in written] == ["final", "best_on_test"]
    assert written[0].read_text() == text


def test_a_reading_survives_a_resumed_training(toy, tmp_path, monkeypatch):
    words = [
        *toy,
        "method=linear",
        "train.epochs=4",
        "protocol=best_on_test",
        "protocol.every=2",
        "run.checkpoint_epochs=2",
    ]
    run_cell(config_of(*words, f"run.results={tmp_path / 'whole'}"))

    def die(*_, **__):
        raise ConnectionError

    monkeypatch.setattr("run.predict", die)
    with pytest.raises(ConnectionError):
        run_cell(config_of(*words))
    monkeypatch.undo()
    run_cell(config_of(*words))
    whole, resumed = (
        read_record(next((tmp_path / place / "records").rglob("seed0.json"))) for place in ("whole", "results")
    )
    assert resumed["best_on_test"] == whole["best_on_test"]
    assert np.isfinite(resumed["curve"][-1]["loss"])
