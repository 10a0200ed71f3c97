"""Cells: their keys, and the records that they leave."""

import json
import shutil
import subprocess
import sys

import numpy as np
import pytest

from moppa.data.task_data import TaskData
from moppa.record.cell import cell_from_config
from moppa.record.parts import FITS
from moppa.record.schema import REQUIRED, read_record, without_entries
from moppa.record.write import MEASURED
from moppa.utils.atomic import sha256_file
from moppa.utils.errors import UserError
from moppa.utils.provenance import sources_sha256
from run import run_cell
from tests.conftest import ROOT, config_of
from tests.toy_source import ToySource

ALSO = ("trained", "tuned", "predictions", "sources", "peak_memory_scope", "alone", "backbone_params")


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
        "data=noah",
        "task.label._target_=moppa.data.labels.clevr_count",
        "run.device=cuda",
        "run.precision=bf16-mixed",
    ],
)
def test_a_setting_that_can_change_the_outcome_changes_the_key(override):
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
        "+task.suite_version=2",
        "run.matmul_backend=onednn",
    ],
)
def test_a_setting_that_cannot_change_the_outcome_does_not_change_the_key(override):
    assert cell(override).key == cell().key


@pytest.mark.slow  # copies the project and starts a process
def test_moving_a_class_to_another_module_changes_no_key(tmp_path):
    """In a copy of the project, the recipe, the label rules and LoRA move; a new process computes the key there."""
    for folder in ("moppa", "configs", "baselines"):
        shutil.copytree(ROOT / folder, tmp_path / folder, ignore=shutil.ignore_patterns("__pycache__", "*.safetensors"))
    moves = {
        "moppa/train/recipe.py": ("moppa/train/moved.py", "configs/train/common.yaml"),
        "moppa/data/labels.py": ("moppa/data/moved.py", "configs/task/eurosat.yaml"),
        "baselines/lora.py": ("baselines/moved.py", "configs/method/lora.yaml"),
    }
    for old, (new, config) in moves.items():
        shutil.copy(tmp_path / old, tmp_path / new)
        old_path, new_path = (path.removesuffix(".py").replace("/", ".") for path in (old, new))
        text = (tmp_path / config).read_text(encoding="utf-8")
        assert f"{old_path}." in text
        (tmp_path / config).write_text(text.replace(f"{old_path}.", f"{new_path}."), encoding="utf-8")
    program = """
from moppa.record.cell import cell_from_config
from moppa.utils.config import compose_config, instantiate
config = compose_config(["task=eurosat", "method=lora"])
assert "moved" in str(config.train) and "moved" in str(config.task) and "moved" in str(config.method)
instantiate(config, "train"), instantiate(config, "task")
print(cell_from_config(config, weights_sha256="w").key)
"""
    done = subprocess.run([sys.executable, "-c", program], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    assert done.stdout.strip() == cell().key


def test_other_weights_are_another_cell():
    assert cell_from_config(config_of("task=eurosat", "method=lora"), weights_sha256="x").key != cell().key


def test_the_path_of_a_record_is_the_documented_one():
    path = cell("seed=3").record
    assert path.as_posix() == f"results/records/vtab1k/vit_b16_mae/eurosat/lora/{cell().key}/seed3.json"


def test_a_cell_leaves_one_complete_record(toy, tmp_path, capsys):
    run_cell(config_of(*toy, "method=lora"))
    [path] = (tmp_path / "results").rglob("seed0.json")
    record = read_record(path)
    assert set(record) == {*REQUIRED, *ALSO}
    assert record["backbone_params"] == {"pretrained": 300_096, "kept": 300_096}
    [trained] = (tmp_path / "results").rglob("seed0.safetensors")
    assert record["trained"] == {"sha256": sha256_file(trained)}
    assert record["predictions"] == {"sha256": sha256_file(path.with_suffix(".npz"))}
    assert record["sources"] == {"sha256": sources_sha256("baselines.lora"), "configs": []}
    assert record["peak_memory_scope"] in ("cell", "process")
    assert (record["suite"], record["backbone"], record["task"]) == ("vtab1k", "test_vit", "eurosat")
    assert record["split"] == {**record["split"], "verdict": "changed", "lineage": "toy", "num_train": 200}
    assert record["total"] == 120
    assert 0 <= record["correct"] <= 120
    assert record["preprocess"]["mean"] == [0.5, 0.5, 0.5]
    assert set(record["seconds"]) == {"data", "train", "evaluate"}
    assert len(record["curve"]) == 2
    assert record["trainable_params"] == 6 * 2 * 2 * 64 * 8
    assert record["head_params"] == 650
    assert len(record["weights"]["sha256"]) == 64
    assert set(record["git"]) == {"commit", "dirty"}
    predictions = np.load(path.with_suffix(".npz"))
    assert (predictions["predicted"] == predictions["label"]).sum() == record["correct"]
    assert [file.suffix for file in (tmp_path / "results").rglob("*") if file.is_file()].count(".pt") == 0
    assert "of 120 correct" in capsys.readouterr().out


def test_a_record_holds_relative_paths_only(toy, tmp_path, monkeypatch):
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
    assert sorted((record["config"]["method"]["attach"]["rank"], record["seed"]) for record in records) == [
        (4, 0),
        (8, 0),
        (8, 1),
    ]


def test_a_cell_run_twice_gives_the_same_bytes_apart_from_measurements(toy, tmp_path):
    outcomes = []
    for folder in ("a", "b"):
        run_cell(config_of(*toy, "method=moppa", f"run.results={tmp_path / folder}"))
        [path] = (tmp_path / folder).rglob("seed0.json")
        record = read_record(path)
        record["config"].pop("run")
        outcomes.append((json.dumps(without_entries(record, MEASURED)), path.with_suffix(".npz").read_bytes()))
    assert outcomes[0] == outcomes[1]


def test_the_tune_protocol_never_reads_the_test_set(toy, tmp_path, monkeypatch):
    splits = []
    examples = ToySource.examples
    monkeypatch.setattr(
        ToySource, "examples", lambda self, task, split: splits.append(split) or examples(self, task, split)
    )
    run_cell(config_of(*toy, "method=linear", "protocol=tune"))
    assert sorted(splits) == ["train800", "val200"]
    [path] = (tmp_path / "results").rglob("seed0.json")
    record = read_record(path)
    assert (record["protocol"], record["total"], record["split"]["num_train"]) == ("tune", 40, 160)


def test_the_test_set_is_read_once_after_the_last_step(toy, monkeypatch):
    order = []

    def recorded(function, name_of):
        return lambda *args, **kwargs: order.append(name_of(*args)) or function(*args, **kwargs)

    monkeypatch.setitem(FITS, "lbfgs", recorded(FITS["lbfgs"], lambda *_: "train"))
    monkeypatch.setattr(TaskData, "load", recorded(TaskData.load, lambda _self, split: split))
    run_cell(config_of(*toy, "method=linear"))
    assert order == ["train800val200", "train", "test"]


def test_an_incomplete_record_is_named(tmp_path):
    for content in ("{", "[]", '{"suite": "vtab1k"}'):
        path = tmp_path / "seed0.json"
        path.write_text(content)
        with pytest.raises(UserError, match=r"seed0\.json is not a record.*delete it"):
            read_record(path)


def test_logits_and_names_are_kept_if_asked_for(toy):
    cell = run_cell(config_of(*toy, "method=linear", "run.keep_logits=true"))
    with np.load(cell.predictions) as arrays:
        logits, predicted = arrays["logits"], arrays["predicted"]
        assert (logits.dtype, logits.shape) == (np.float16, (120, 10))
        assert (logits.argmax(axis=1) == predicted).mean() > 0.95  # float16 may round two logits to the same value
        assert list(arrays["name"][:2]) == ["test_0.png", "test_1.png"]
