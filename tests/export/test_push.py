"""The repository that `moppa push` writes and uploads. A stand-in takes the place of the hub's client."""

import shutil
import sys
from pathlib import Path

import pytest
import timm
import torch
import yaml

from moppa.cli import push
from moppa.export.card import license_of, render_card
from moppa.export.facts import example_images
from moppa.export.push import repository_of
from moppa.record.schema import read_record
from moppa.record.trained import load_finished
from moppa.record.verify import verify_records
from moppa.utils.errors import UserError
from run import run_cell
from tests.conftest import TOY, config_of
from tests.factories import write_record_file


class StandIn:
    """Has the methods of `huggingface_hub.HfApi` that are called, and keeps what is uploaded."""

    endpoint = "https://hub.invalid"
    refusal = None

    def __init__(self):
        StandIn.calls = []

    def create_repo(self, repo_id, *, private, exist_ok):
        if self.refusal:
            raise OSError(self.refusal)
        self.calls.append(("create_repo", repo_id, private))

    def upload_folder(self, *, repo_id, folder_path, commit_message):
        shutil.copytree(folder_path, self.kept)
        self.calls.append(("upload_folder", repo_id))


@pytest.fixture(scope="module")
def record(tmp_path_factory):
    """The record of a trained LoRA."""
    folder = tmp_path_factory.mktemp("finished")
    places = [f"run.results={folder / 'results'}", f"data.cache={folder / 'cache'}"]
    return run_cell(config_of(*TOY, *places, "method=lora", "train.lr=1e-2", "train.epochs=1")).record


@pytest.fixture
def hub(monkeypatch, tmp_path):
    monkeypatch.setattr("huggingface_hub.HfApi", StandIn)
    monkeypatch.setattr("moppa.export.push.check_reachable", lambda url: None)
    monkeypatch.setattr(StandIn, "kept", tmp_path / "uploaded", raising=False)
    return tmp_path / "uploaded"


def run_push(monkeypatch, *words):
    monkeypatch.setattr(sys, "argv", ["moppa push", *map(str, words)])
    return push.main()


def test_a_repository_has_a_card_the_exports_and_what_verify_needs(record, hub, monkeypatch, capsys):
    assert run_push(monkeypatch, record, "hf://jane/lora-toy", "--private") == 0
    assert capsys.readouterr().out == "https://hub.invalid/jane/lora-toy\n"
    assert StandIn.calls == [("create_repo", "jane/lora-toy", True), ("upload_folder", "jane/lora-toy")]
    files = {path.relative_to(hub).parts[0] for path in hub.rglob("*")}
    assert files == {
        "README.md", "adapter_config.json", "adapter_model.safetensors", "checkpoints", "config.json",
        "model.safetensors", "records",
    }  # fmt: skip
    assert verify_records(hub).findings == []

    _, matter, text = (hub / "README.md").read_text().split("---\n", 2)
    fields, content = yaml.safe_load(matter), read_record(record)
    assert fields["license"] == "apache-2.0"
    assert fields["base_model"] == "timm/test_vit.r160_in1k"
    assert fields["model-index"][0]["results"][0]["metrics"][0]["value"] == content["correct"] / content["total"]
    for words in (
        f"{content['correct']} of {content['total']} images of test; 95% interval",
        "| split check | changed",
        content["weights"]["sha256"],
        "| license of the backbone | apache-2.0 |",
        'timm.create_model("hf-hub:jane/lora-toy", pretrained=True)',
        'PeftModel.from_pretrained(backbone, "jane/lora-toy")',
        "targets:\n    - q\n    - v",
    ):
        assert words in text

    finished = load_finished(record)
    images = example_images(finished)
    model = timm.create_model(f"local-dir:{hub}", pretrained=True).eval()
    assert model.pretrained_cfg["input_size"] == (3, 32, 32)
    assert model.pretrained_cfg["crop_pct"] == 1.0
    with torch.no_grad():
        torch.testing.assert_close(model(images), finished.model(images), atol=1e-4, rtol=1e-4)


def test_a_folder_is_written_and_a_full_one_is_left_alone(record, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(record.parents[7])
    assert run_push(monkeypatch, record.relative_to(record.parents[7]), tmp_path / "card", "--to", "peft") == 0
    files = {path.name for path in (tmp_path / "card").iterdir()}
    assert files == {"README.md", "adapter_config.json", "adapter_model.safetensors", "checkpoints", "records"}
    assert run_push(monkeypatch, record, tmp_path / "card") == 1
    assert "card is not an empty folder" in capsys.readouterr().err


def test_a_hub_that_refuses_is_one_line(record, hub, monkeypatch, capsys):
    monkeypatch.setattr(StandIn, "refusal", "401 Client Error.\nInvalid username or password.")
    assert run_push(monkeypatch, record, "hf://jane/lora-toy", "--to", "peft") == 1
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert "https://hub.invalid/jane/lora-toy was not written (401 Client Error. Invalid" in error
    assert "hf auth login" in error


@pytest.mark.parametrize("target", ["hf://jane", "hf://jane/a/b", "hf://jane/a b", "hf://jane/a..b", "hf:///x"])
def test_another_address_is_refused(target):
    with pytest.raises(UserError, match=r"expected hf://USER/REPO"):
        repository_of(target)


def test_the_card_states_the_license_of_mae_and_no_result_of_other_protocols(tmp_path):
    assert license_of("vit_base_patch16_224.mae") == "cc-by-nc-4.0"
    path = write_record_file(tmp_path, "method=lora", "task=dtd", protocol="tune", percent=75, predictions=True)
    card = render_card(read_record(path), path, "jane/x", ["peft"])
    fields = yaml.safe_load(card.split("---\n")[1])
    assert (fields["license"], fields["library_name"]) == ("cc-by-nc-4.0", "peft")
    assert "model-index" not in fields
    assert "75.0 % (150 of 200 images of val200" in card
    assert "not a result on the test set" in card
    Path(path).with_suffix(".npz").unlink()
    with pytest.raises(UserError, match="has no predictions"):
        render_card(read_record(path), path, "jane/x", ["peft"])
