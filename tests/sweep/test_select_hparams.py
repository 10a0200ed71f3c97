"""The protocols: tune cannot read the test set, `hparams=best` selects by records, best_on_test is a diagnostic."""

import json
import shutil

import numpy as np
import pytest

from moppa.data import cache
from moppa.record.cell import cell_from_config
from moppa.record.schema import read_record
from moppa.report.build import read_tables, write_tables
from moppa.sweep.select_hparams import select_hparams
from moppa.sweep.worker import lease
from moppa.utils.atomic import sha256_file
from moppa.utils.config import instantiate
from moppa.utils.errors import UserError
from run import run_cell
from tests.conftest import CONFIGS, ROOT, config_of
from tests.factories import write_predictions, write_record_file
from tests.toy_source import ToySource

EUROSAT = ["task=eurosat", "backbone=dinov2_vits14", "backbone.image_size=56", "train.epochs=10", "hparams=best"]
DINO = "61b85d0649098a1d3170df00ef9af96be265c335fa450540015e96d716e4d017"


def write_tune_record(folder, *, correct, seed=0, params=100, **settings):
    """Writes a tune record and returns its path."""
    overrides = [f"{name.replace('__', '.')}={value}" for name, value in settings.items()]
    fields = {"seed": seed, "correct": correct, "trainable_params": params}
    return write_record_file(folder, "task=eurosat", "method=lora", *overrides, protocol="tune", weights="w", **fields)


def select_best(folder, *overrides, weights_sha256="w"):
    config = config_of("task=eurosat", "method=lora", "hparams=best", f"run.results={folder}", *overrides)
    return select_hparams(config, weights_sha256=weights_sha256)


def test_best_is_the_highest_mean_over_seeds_and_names_its_records(tmp_path):
    for seed, correct in enumerate((150, 160)):
        write_tune_record(tmp_path, correct=correct, seed=seed, train__lr=1e-2)
    for seed, correct in enumerate((170, 100)):
        write_tune_record(tmp_path, correct=correct, seed=seed, train__lr=1e-3)
    config, evidence = select_best(tmp_path)
    assert (config.train.lr, config.train.epochs, config.protocol.name) == (1e-2, 100, "final")
    assert (evidence["val200"], evidence["seeds"], evidence["num_settings"]) == (310 / 400, [0, 1], 2)
    paths = [tmp_path / "records" / path for path in evidence["records"]]
    assert [read_record(path)["correct"] for path in paths] == [150, 160]
    assert list(evidence["records"].values()) == [sha256_file(path) for path in paths]
    assert list(evidence["beaten"].values()) == [270 / 400]


def test_settings_are_compared_on_the_seeds_that_all_have(tmp_path):
    write_tune_record(tmp_path, correct=150, seed=0, train__lr=1e-2)
    write_tune_record(tmp_path, correct=140, seed=0, train__lr=1e-3)
    write_tune_record(tmp_path, correct=200, seed=1, train__lr=1e-3)
    config, evidence = select_best(tmp_path)
    assert config.train.lr == 1e-2
    assert evidence["seeds"] == [0]


def test_a_finished_cell_that_is_selected_names_its_tune_records(tmp_path, capsys):
    final = write_record_file(tmp_path, "task=eurosat", "method=lora", "train.lr=1e-2", weights="w", percent=50)
    before = read_record(final)
    tune = write_tune_record(tmp_path, correct=150, train__lr=1e-2)
    write_tune_record(tmp_path, correct=140, train__lr=1e-3)
    for expected in ("done already, now with the tune records", "done already: "):
        config, evidence = select_best(tmp_path)
        cell = cell_from_config(config, weights_sha256="w", tuned=evidence)
        with lease(cell) as is_ours:
            assert not is_ours
        assert capsys.readouterr().out.startswith(expected)
        assert read_record(final) == {**before, "tuned": evidence}
    assert list(evidence["records"].values()) == [sha256_file(tune)]
    assert evidence["num_settings"] == 2


def test_among_equal_settings_the_smaller_is_selected(tmp_path):
    for rank, params in ((16, 200), (4, 50), (8, 100)):
        write_tune_record(tmp_path, correct=150, params=params, method__attach__rank=rank)
    config, _ = select_best(tmp_path)
    assert config.method.attach.rank == 4


def test_a_limit_of_the_parameters_selects_the_best_setting_below_it(tmp_path):
    for rank, params, correct in ((4, 50, 120), (8, 100, 150), (16, 200, 160)):
        write_tune_record(tmp_path, correct=correct, params=params, method__attach__rank=rank)
    config, evidence = select_best(tmp_path, "hparams_max_params=100")
    assert (config.method.attach.rank, evidence["max_params"], evidence["num_settings"]) == (8, 100, 2)
    assert select_best(tmp_path)[0].method.attach.rank == 16
    with pytest.raises(UserError, match=r"hparams_max_params=49: the smallest tuned setting has 50 parameters"):
        select_best(tmp_path, "hparams_max_params=49")
    for value, message in (("0.5", "integer of at least 0"), ("49", "add hparams=best")):
        with pytest.raises(UserError, match=rf"hparams_max_params={value}.*{message}"):
            select_best(tmp_path, f"hparams_max_params={value}", "hparams=given")


def test_settings_of_other_composed_methods_are_not_compared(tmp_path):
    overrides = ("task=eurosat", "method=compose")
    other = "method@method.attach.methods.a=ssf"
    fields = {"protocol": "tune", "weights": "w"}
    write_record_file(tmp_path, *overrides, other, percent=90, **fields)
    write_record_file(tmp_path, *overrides, "+method.attach.methods.a.layers=[0]", percent=60, **fields)
    write_record_file(tmp_path, *overrides, percent=50, **fields)
    best = select_best(tmp_path, *overrides)[0].method.attach.methods
    assert (best.a.name, best.a.layers, best.a.attach._target_) == ("lora", [0], "baselines.lora.attach")
    best = select_best(tmp_path, *overrides, other)[0].method.attach.methods
    assert (best.a.name, best.a.attach._target_) == ("ssf", "baselines.ssf.attach")


@pytest.mark.parametrize(
    "other",
    [{"train__epochs": 20}, {"data": "noah"}, {"backbone__image_size": 112}, {"task__version": 2}],
)
def test_tune_records_of_another_context_do_not_count(tmp_path, other):
    write_tune_record(tmp_path, correct=200, train__lr=1, **other)
    with pytest.raises(UserError, match=r"nothing was tuned for vit_b16_mae lora eurosat with train\.epochs=100"):
        select_best(tmp_path)
    write_tune_record(tmp_path, correct=10, train__lr=2)
    assert select_best(tmp_path)[0].train.lr == 2
    with pytest.raises(UserError, match="nothing was tuned"):
        select_best(tmp_path, weights_sha256="of others")


@pytest.mark.parametrize(("field", "value"), [("correct", 200), ("method", "moppa"), ("key", "0" * 12)])
def test_an_edited_tune_record_is_an_error(tmp_path, field, value):
    write_tune_record(tmp_path, correct=117)
    path = write_tune_record(tmp_path, correct=117, train__lr=0.01)
    content = json.loads(path.read_text())
    write_predictions(path, content)
    path.write_text(json.dumps(content | {field: value}))
    with pytest.raises(UserError, match=path.parent.name):
        select_best(tmp_path)


def test_fixed_settings_are_not_selected_and_name_the_row(tmp_path):
    write_tune_record(tmp_path, correct=190, train__lr=1e-2)
    for lr, correct in ((1e-2, 140), (1e-3, 150)):
        write_tune_record(tmp_path, correct=correct, train__lr=lr, method__attach__rank=4)
    fixed = ["method.attach.rank=4", "hparams_fixed=[method.attach.rank]"]
    config, evidence = select_best(tmp_path, *fixed)
    assert (config.method.attach.rank, config.train.lr, evidence["num_settings"]) == (4, 1e-3, 2)
    assert select_best(tmp_path)[0].method.attach.rank == 8

    final = ["task=eurosat", "method=lora", "train.lr=1e-3", *fixed]
    write_record_file(tmp_path, *final, tuned={"val200": 0.75, "num_settings": 2})
    [table] = [table for table in read_tables(tmp_path, CONFIGS)[0] if table.protocol == "final"]
    assert [row.name for row in table.rows] == ["lora (rank 4)"]

    with pytest.raises(UserError, match=r"hparams_fixed=data\.dir: it must be settings of train or method"):
        select_best(tmp_path, "hparams_fixed=[data.dir]")


def test_settings_that_share_no_seed_are_not_compared(tmp_path):
    write_tune_record(tmp_path, correct=150, seed=0, train__lr=1e-2)
    write_tune_record(tmp_path, correct=150, seed=1, train__lr=1e-3)
    with pytest.raises(UserError, match=r"2 tuned settings .* share no seed"):
        select_best(tmp_path)


def test_the_committed_tune_records_give_the_accuracies_of_the_readme(tmp_path):
    shutil.copytree(ROOT / "results" / "records", tmp_path / "records")
    common = [*EUROSAT, f"run.results={tmp_path}", "data.cache=elsewhere"]
    for method, val200 in {"lora": 89.0, "moppa": 88.5, "linear": 74.5, "adaptformer": 89.5}.items():
        version = ["method.version=1"] if method in ("linear", "adaptformer") else []  # the records are of version 1
        _, evidence = select_hparams(config_of(*common, f"method={method}", *version), weights_sha256=DINO)
        assert 100 * evidence["val200"] == pytest.approx(val200), method
        assert evidence["seeds"] == [0]
        assert len(evidence["records"]) == 1


def test_a_final_record_names_its_tune_records(toy, tmp_path):
    for penalty in (1e3, 1e-3):
        run_cell(config_of(*toy, "method=linear", "protocol=tune", f"train.weight_decay={penalty}"))
    run_cell(config_of(*toy, "method=linear", "hparams=best"))
    records = {path: read_record(path) for path in (tmp_path / "results" / "records").rglob("seed0.json")}
    [final] = [record for record in records.values() if record["protocol"] == "final"]
    assert final["config"]["train"]["weight_decay"] == 1e-3
    [path] = final["tuned"]["records"]
    tune = records[tmp_path / "results" / "records" / path]
    assert (tune["protocol"], tune["config"]["train"]["weight_decay"]) == ("tune", 1e-3)
    assert final["tuned"]["val200"] == tune["correct"] / tune["total"]


def test_nothing_can_read_the_test_set_under_tune(toy, monkeypatch):
    protocol = instantiate(config_of("task=eurosat", "protocol=tune"), "protocol")
    read = []
    load = protocol.restrict(read.append)
    for split in ("test", "train800val200"):
        with pytest.raises(UserError, match=f"protocol=tune reads train800 and val200, never {split}"):
            load(split)
    load("val200")
    assert read == ["val200"]

    examples = ToySource.examples

    def no_test_set(self, task, split):
        assert split != "test"
        return examples(self, task, split)

    monkeypatch.setattr(ToySource, "examples", no_test_set)
    run_cell(config_of(*toy, "method=linear", "protocol=tune"))
    final = config_of(*toy, "method=linear")
    with pytest.raises(AssertionError):
        run_cell(final)


@pytest.mark.slow  # prepares a task and trains a cell
def test_a_method_that_reads_images_before_training_gets_none_of_val200(toy, monkeypatch):
    splits, load = [], cache.load_folders
    monkeypatch.setattr(
        "moppa.data.cache.load_folders",
        lambda task, split, *args, **kwargs: splits.append(split) or load(task, split, *args, **kwargs),
    )
    run_cell(config_of(*toy, "method=spt_lora", "protocol=tune"))
    assert splits == ["train800", "train800", "val200"]


@pytest.mark.slow  # trains two cells with an evaluation after every epoch
def test_best_on_test_records_every_evaluation_and_does_not_change_the_training(toy, tmp_path):
    common = [*toy, "method=bitfit", "train.epochs=3"]
    run_cell(config_of(*common))
    run_cell(config_of(*common, "protocol=best_on_test", "protocol.every=2"))
    records = [read_record(path) for path in (tmp_path / "results" / "records").rglob("seed0.json")]
    [final] = [record for record in records if record["protocol"] == "final"]
    [diagnostic] = [record for record in records if record["protocol"] == "best_on_test"]
    evaluations = diagnostic["best_on_test"]["evaluations"]
    assert [evaluation["epoch"] for evaluation in evaluations] == [2, 3]
    assert evaluations[-1]["correct"] == diagnostic["correct"] == final["correct"]
    assert diagnostic["best_on_test"]["correct"] == max(evaluation["correct"] for evaluation in evaluations)
    assert diagnostic["curve"] == final["curve"]
    assert "best_on_test" not in final


@pytest.mark.slow  # trains two cells
def test_a_diagnostic_record_does_not_change_the_main_table(toy, tmp_path):
    run_cell(config_of(*toy, "method=linear"))

    def tables():
        return [path for path in write_tables(tmp_path / "results", CONFIGS).written if path.suffix == ".md"]

    [main_table] = tables()
    text = main_table.read_text()
    run_cell(config_of(*toy, "method=lora", "protocol=best_on_test"))
    assert {path.stem.rpartition("-")[2] for path in tables()} == {"final", "best_on_test"}
    assert main_table.read_text() == text


@pytest.mark.slow  # trains two cells with an evaluation every second epoch
def test_evaluations_survive_a_resumed_training(toy, tmp_path, monkeypatch):
    overrides = [
        *toy,
        "method=linear",
        "train.epochs=4",
        "protocol=best_on_test",
        "protocol.every=2",
        "run.checkpoint_epochs=2",
    ]
    run_cell(config_of(*overrides, f"run.results={tmp_path / 'whole'}"))

    def die(*_, **__):
        raise ConnectionError

    monkeypatch.setattr("run.save_trained", die)  # after the training
    with pytest.raises(ConnectionError):
        run_cell(config_of(*overrides))
    monkeypatch.undo()
    run_cell(config_of(*overrides))
    whole, resumed = (
        read_record(next((tmp_path / name / "records").rglob("seed0.json"))) for name in ("whole", "results")
    )
    assert resumed["best_on_test"] == whole["best_on_test"]
    assert np.isfinite(resumed["curve"][-1]["loss"])
