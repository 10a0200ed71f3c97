import json

import numpy as np
import pytest

from moppa.data import cache
from moppa.record.cell import MEASURED, cell_from_config
from moppa.record.schema import REQUIRED, read_record, without_entries
from moppa.train.loop import train
from moppa.utils.atomic import sha256_file
from moppa.utils.errors import UserError
from run import run_cell
from tests.conftest import config_of
from tests.toy_source import ToySource


def cell(*overrides):
    return cell_from_config(config_of("task=eurosat", "method=lora", *overrides), weights_sha256="w")


@pytest.mark.parametrize(
    "override",
    [
        "method.attach.rank=4",
        "method=moppa",
        "task=dtd",
        "task.num_classes=11",
        "train.epochs=20",
        "train.optimizer=sgd",
        "backbone=vit_b16_in21k",
        "backbone.image_size=112",
        "protocol=tune",
        "data.lineage=noah_jpeg",
    ],
)
def test_what_can_change_the_outcome_changes_the_key(override):
    assert cell(override).key != cell().key


@pytest.mark.parametrize(
    "override",
    [
        "seed=5",
        "run.device=cpu",
        "run.results=elsewhere",
        "run.eval_batch=7",
        "run.checkpoint_epochs=1",
        "run.keep_trained=false",
        "run.threads=1",
        "hparams=best",
        "logger=wandb",
        "data.dir=elsewhere",
        "data.cache=elsewhere",
        "backbone.weights=elsewhere.pth",
        "task.title=Other",
    ],
)
def test_what_cannot_change_the_outcome_does_not_change_the_key(override):
    assert cell(override).key == cell().key


def test_other_weights_are_another_cell():
    assert cell_from_config(config_of("task=eurosat", "method=lora"), weights_sha256="x").key != cell().key


def test_a_record_lies_where_the_readme_says():
    path = cell("seed=3").record
    assert path.as_posix() == f"results/records/vtab1k/vit_b16_mae/eurosat/lora/{cell().key}/seed3.json"


def test_a_cell_leaves_one_record_with_all_its_facts(toy, tmp_path, capsys):
    run_cell(config_of(*toy, "method=lora"))
    [path] = (tmp_path / "results").rglob("seed0.json")
    written = read_record(path)
    assert set(written) == {*REQUIRED, "trained", "tuned"}
    [trained] = (tmp_path / "results").rglob("seed0.safetensors")
    assert written["trained"] == {"sha256": sha256_file(trained)}
    assert (written["suite"], written["backbone"], written["task"]) == ("vtab1k", "test_vit", "eurosat")
    assert written["split"] == {**written["split"], "verdict": "no names", "lineage": "toy", "num_train": 1000}
    assert written["total"] == 120
    assert 0 <= written["correct"] <= 120
    assert written["preprocess"]["mean"] == [0.5, 0.5, 0.5]
    assert set(written["seconds"]) == {"data", "train", "evaluate"}
    assert len(written["curve"]) == 2
    assert written["trainable_params"] == 6 * 2 * 2 * 64 * 8
    assert written["head_params"] == 650
    assert len(written["weights"]["sha256"]) == 64
    assert set(written["git"]) == {"commit", "dirty"}
    kept = np.load(path.with_suffix(".npz"))
    assert (kept["predicted"] == kept["label"]).sum() == written["correct"]
    assert [file.suffix for file in (tmp_path / "results").rglob("*") if file.is_file()].count(".pt") == 0
    assert "of 120 correct" in capsys.readouterr().out


def test_a_record_keeps_paths_that_lead_there_from_here_and_no_absolute_ones(toy, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    run_cell(config_of(*toy, "method=linear", f"run.results={tmp_path / 'results'}"))
    [path] = (tmp_path / "results").rglob("seed0.json")
    config = read_record(path)["config"]
    assert config["run"]["results"] == "results"
    assert not [
        value
        for group in config.values()
        if isinstance(group, dict)
        for value in group.values()
        if str(value).startswith("/")
    ]


def test_a_finished_cell_is_skipped_and_another_setting_is_not(toy, tmp_path, capsys, monkeypatch):
    run_cell(config_of(*toy, "method=lora"))
    run_cell(config_of(*toy, "method=lora"))
    assert capsys.readouterr().out.splitlines()[-1].startswith("done already: ")
    run_cell(config_of(*toy, "method=lora", "method.attach.rank=4"))
    run_cell(config_of(*toy, "method=lora", "seed=1"))
    records = [read_record(path) for path in (tmp_path / "results").rglob("seed*.json")]
    assert sorted((one["config"]["method"]["attach"]["rank"], one["seed"]) for one in records) == [
        (4, 0),
        (8, 0),
        (8, 1),
    ]


def test_the_same_cell_gives_the_same_record_but_for_what_is_measured(toy, tmp_path):
    found = []
    for place in ("a", "b"):
        run_cell(config_of(*toy, "method=moppa", f"run.results={tmp_path / place}"))
        [path] = (tmp_path / place).rglob("seed0.json")
        written = read_record(path)
        written["config"].pop("run")
        found.append((json.dumps(without_entries(written, MEASURED)), path.with_suffix(".npz").read_bytes()))
    assert found[0] == found[1]


def test_tuning_never_opens_the_test_set(toy, tmp_path, monkeypatch):
    asked = []
    examples = ToySource.examples
    monkeypatch.setattr(
        ToySource, "examples", lambda self, task, part: asked.append(part) or examples(self, task, part)
    )
    run_cell(config_of(*toy, "method=linear", "protocol=tune"))
    assert sorted(asked) == ["train800", "val200"]
    [path] = (tmp_path / "results").rglob("seed0.json")
    written = read_record(path)
    assert (written["protocol"], written["total"], written["split"]["num_train"]) == ("tune", 200, 800)


def test_the_test_set_is_read_once_after_the_last_step(toy, monkeypatch):
    order = []

    def noted(call, name_of):
        return lambda *words, **named: order.append(name_of(*words)) or call(*words, **named)

    monkeypatch.setattr("run.train", noted(train, lambda *_: "train"))
    monkeypatch.setattr("run.cache.load_split", noted(cache.load_split, lambda _task, split, *_: split))
    run_cell(config_of(*toy, "method=linear"))
    assert order == ["train800val200", "train", "test"]


def test_a_record_that_is_not_whole_is_named(tmp_path):
    for content in ("{", "[]", '{"suite": "vtab1k"}'):
        path = tmp_path / "seed0.json"
        path.write_text(content)
        with pytest.raises(UserError, match=r"seed0\.json is not a record.*delete it"):
            read_record(path)
