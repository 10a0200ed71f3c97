"""Records that were edited by hand: each edit is found by `moppa verify`, and no table counts such a record."""

import json
import shutil
import sys

import numpy as np
import pytest

from moppa.cli import verify
from moppa.record.verify import verify_records
from moppa.report.build import write_tables
from moppa.utils.errors import UserError
from tests.conftest import CONFIGS
from tests.factories import write_predictions, write_record_file

LORA = ("backbone=test_vit", "method=lora", "task=dtd")
COUNTS = {"trainable_params": 6 * 2 * 2 * 64 * 8, "head_params": 65 * 47}


@pytest.fixture
def results(tmp_path):
    """Two seeds of LoRA and of a linear probe, and a tune record that LoRA's seeds name."""
    linear = ("backbone=test_vit", "method=linear", "task=dtd")
    tune = write_record_file(tmp_path, *LORA, protocol="tune", percent=75, predictions=True, **COUNTS)
    for seed in (0, 1):
        fields = {"seed": seed, "percent": 80 + seed, "predictions": True, "git": {"commit": None, "dirty": None}}
        write_record_file(tmp_path, *linear, **fields, trainable_params=0, head_params=65 * 47)
        write_record_file(tmp_path, *LORA, **fields, **COUNTS, tuned=tuned_by(tune, tmp_path))
    edit(tune, git={"commit": None, "dirty": None})
    for path in lora_paths(tmp_path):
        edit(path, tuned=tuned_by(tune, tmp_path))
    return tmp_path


def tuned_by(tune, results):
    from moppa.utils.atomic import sha256_file

    path = tune.relative_to(results / "records").as_posix()
    return {"val200": 0.75, "seeds": [0], "num_settings": 1, "records": {path: sha256_file(tune)}, "beaten": {}}


def lora_paths(results):
    paths = sorted((results / "records").rglob("lora/*/seed*.json"))
    return [path for path in paths if json.loads(path.read_text())["protocol"] == "final"]


def edit(path, **fields):
    path.write_text(json.dumps(json.loads(path.read_text()) | fields))


def run_verify(results, monkeypatch, capsys):
    """Returns the exit status and the output of `moppa verify`."""
    monkeypatch.setattr(sys, "argv", ["moppa verify", str(results)])
    status = verify.main()
    return status, capsys.readouterr().out


def test_records_that_nobody_edited_are_verified(results, monkeypatch, capsys):
    status, output = run_verify(results, monkeypatch, capsys)
    assert (status, output.splitlines()) == (0, [f"5 of 5 records verified in {results / 'records'}"])
    assert write_tables(results, CONFIGS, strict=True).excluded == []


def raise_count_without_predictions(path, _):
    path.with_suffix(".npz").unlink()
    edit(path, correct=json.loads(path.read_text())["total"])


def raise_count_with_predictions(path, _):
    content = json.loads(path.read_text()) | {"correct": 1800}
    write_predictions(path, content)
    edit(path, correct=1800)


def change_labels_too(path, _):
    """The record, its predictions and its digest agree: only the other records of the task tell."""
    from moppa.utils.atomic import sha256_file

    content = json.loads(path.read_text())
    file = path.with_suffix(".npz")
    label = np.zeros(content["total"], dtype=np.int16)
    np.savez_compressed(file, predicted=label, label=label)
    edit(path, correct=content["total"], predictions={"sha256": sha256_file(file)})


def copy_seed(path, _):
    for suffix in (".json", ".npz"):
        shutil.copy(path.with_suffix(suffix), path.with_name(f"seed2{suffix}"))
    copy = path.with_name("seed2.json")
    config = json.loads(copy.read_text())["config"] | {"seed": 2}
    edit(copy, seed=2, config=config)


def zero_trained_tensors(path, results):
    file = (results / "checkpoints" / path.relative_to(results / "records")).with_suffix(".safetensors")
    file.parent.mkdir(parents=True)
    file.write_bytes(b"zeros")
    edit(path, trained={"sha256": "0" * 64})


def forge_tuned(path, _):
    tuned = json.loads(path.read_text())["tuned"]
    edit(path, tuned=tuned | {"val200": 0.95})


def edit_tune_record(_, results):
    [tune] = [
        path
        for path in (results / "records").rglob("lora/*/seed0.json")
        if json.loads(path.read_text())["protocol"] == "tune"
    ]
    edit(tune, correct=200)


EDITS = {
    "predictions deleted and the count raised": (raise_count_without_predictions, "predictions"),
    "predictions and the count edited together": (raise_count_with_predictions, "has changed since its record"),
    "predictions, labels, count and digest edited": (change_labels_too, "labels differ from those of other records"),
    "an invented split check": (
        lambda path, _: edit(path, split={**json.loads(path.read_text())["split"], "verdict": "official!!"}),
        "split check is 'official!!'",
    ),
    "another fingerprint": (
        lambda path, _: edit(
            path, split={**json.loads(path.read_text())["split"], "fingerprint": {"train800_sorted": "0" * 64}}
        ),
        "split check is official, but train800_sorted is not",
    ),
    "another lineage": (
        lambda path, _: edit(path, split={**json.loads(path.read_text())["split"], "lineage": "noah_jpeg"}),
        "its lineage is noah_jpeg, its data source reads tfds",
    ),
    "a seed copied as another": (copy_seed, "predictions and losses are those of"),
    "trained tensors replaced": (zero_trained_tensors, "trained tensors"),
    "a forged accuracy of the tuning": (forge_tuned, "it states 0.95 on val200, its tune records give 0.75"),
    "an edited tune record": (edit_tune_record, "was tuned on"),
}


@pytest.mark.parametrize("name", EDITS)
def test_an_edit_is_found_and_stops_strict_tables(name, results, monkeypatch, capsys):
    apply, problem = EDITS[name]
    apply(lora_paths(results)[0], results)
    assert any(problem in finding.problem for finding in verify_records(results).findings)
    status, output = run_verify(results, monkeypatch, capsys)
    assert status == 1
    assert problem in output
    with pytest.raises(UserError, match="nothing was written"):
        write_tables(results, CONFIGS, strict=True)
    assert not (results / "tables").exists()


def test_a_number_of_parameters_that_the_config_does_not_give_is_found(results, monkeypatch, capsys):
    edit(lora_paths(results)[0], trainable_params=100)
    status, output = run_verify(results, monkeypatch, capsys)
    assert status == 1
    assert "its trainable_params is 100, its config gives 12,288" in output
    edit(lora_paths(results)[0], trainable_params=12_288, backbone_params={"pretrained": 300_096, "kept": 1})
    status, output = run_verify(results, monkeypatch, capsys)
    assert status == 1
    assert "its backbone_params is 1 kept, 300,096 pretrained, its config gives 300,096 kept, 300,096 p" in output


def test_a_commit_that_does_not_exist_is_found(results, monkeypatch, capsys):
    monkeypatch.setattr("moppa.cli.verify.has_commit", lambda commit: commit != "deadbeef")
    edit(lora_paths(results)[0], git={"commit": "deadbeef", "dirty": False})
    status, output = run_verify(results, monkeypatch, capsys)
    assert status == 1
    assert "its commit deadbeef is not in this repository" in output
