"""`moppa verify --reevaluate` finds predictions that the kept tensors do not give, even if everything else agrees."""

import sys

import pytest

from moppa.cli import verify
from moppa.record.reevaluate import NotEvaluatedError, evaluation_config, is_same_machine, reevaluate
from moppa.record.schema import read_record
from moppa.record.verify import verify_records
from moppa.utils.device import get_device
from moppa.utils.errors import UserError
from run import run_cell
from tests.conftest import config_of
from tests.factories import write_record_file
from tests.integrity.forgery import forge


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """The record of a finished cell. Its images are in the cache beside it."""
    folder = tmp_path_factory.mktemp("finished")
    from tests.conftest import TOY

    places = [f"run.results={folder / 'results'}", f"data.cache={folder / 'cache'}"]
    return run_cell(config_of(*TOY, *places, "method=lora", "train.epochs=1")).record


def test_the_kept_tensors_give_the_recorded_predictions(record):
    assert is_same_machine(read_record(record), get_device("cpu"))
    assert reevaluate(record, {}) == ""


def test_predictions_count_and_digest_edited_together_are_found(record, monkeypatch, capsys):
    forge(record, num_images=1)
    results = record.parents[6]
    assert verify_records(results).findings == []
    monkeypatch.setattr(sys, "argv", ["moppa verify", str(results), "--reevaluate"])
    assert verify.main() == 1
    output = capsys.readouterr().out
    assert "its trained tensors give other predictions for 1 of 120 images" in output
    assert "1 of 1 records evaluated again" in output


def test_on_another_processor_half_a_percent_may_differ(record, monkeypatch):
    forge(record, num_images=1)
    monkeypatch.setattr("moppa.record.reevaluate.is_same_machine", lambda *_: False)
    monkeypatch.setattr("moppa.record.reevaluate.TOLERANCE", 1 / 120)
    assert reevaluate(record, {}) == ""
    forge(record, num_images=1)
    assert "2 of 120" in reevaluate(record, {})


def test_a_record_without_tensors_images_or_weights_is_counted_and_is_no_problem(record, monkeypatch, capsys, tmp_path):
    with pytest.raises(NotEvaluatedError, match="weights"):
        reevaluate(record, {"backbone.weights": str(tmp_path / "none.safetensors")})
    next(record.parents[6].rglob("seed0.safetensors")).unlink()
    monkeypatch.setattr(sys, "argv", ["moppa verify", str(record.parents[6]), "--reevaluate"])
    assert verify.main() == 0
    output = capsys.readouterr().out
    assert "not evaluated again: 1 record: its trained tensors or predictions were not kept" in output
    assert "0 of 1 records evaluated again" in output


def test_only_the_places_of_images_and_weights_can_be_set(record):
    with pytest.raises(UserError, match=r"train\.lr cannot be set .*data\.dir, data\.cache, backbone\.weights"):
        evaluation_config(read_record(record), {"train.lr": "1"})
    with pytest.raises(UserError, match="expected NAME=VALUE"):
        verify.parse_setting("--reevaluate", "results")


def test_seeds_of_different_backends_are_a_warning(tmp_path, monkeypatch, capsys):
    method = ("backbone=test_vit", "method=lora", "task=dtd")
    for seed, backend in ((0, "torch"), (1, "onednn"), (2, "torch")):
        device = {"type": "cpu", "name": "x86_64", "threads": 1, "matmul_backend": backend}
        git = {"commit": None, "dirty": None}
        write_record_file(tmp_path, *method, seed=seed, percent=80 + seed, predictions=True, device=device, git=git)
    monkeypatch.setattr(sys, "argv", ["moppa verify", str(tmp_path), "--no-recount"])
    assert verify.main() == 0
    output = capsys.readouterr().out
    assert output.count("warning: ") == 1
    assert "its seeds were computed in different ways: cpu onednn, cpu torch" in output
