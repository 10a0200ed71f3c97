"""Export of a finished cell as an adapter that HF peft loads over the plain timm model."""

import json
import warnings
from pathlib import Path

import numpy as np
import pytest
import safetensors.torch
import timm
import torch

from moppa.cli import main as cli
from moppa.export.peft_adapter import check_peft_path, write_peft
from moppa.record.trained import Finished
from moppa.utils.errors import UserError
from run import run_cell
from tests.conftest import config_of
from tests.models import frozen_model, logits_of, model_with, perturbed

LOW_RANK = ("bi_lora", "dora", "fact_tk", "fact_tt", "lora", "lora_noah", "mola", "mos", "nola")
ON_SWIN = ("dora", "lora", "lora_noah", "nola")
PAIRS = [*((method, "class token") for method in (*LOW_RANK, "lntune")), *((method, "swin") for method in ON_SWIN)]


def finished_with(method, backbone="class token"):
    """Returns a trained model as a finished cell."""
    record = {"method": method, "config": {"backbone": {"timm": "test_vit"}}}
    model = perturbed(model_with(method, backbone)).eval()
    return Finished(path=Path("seed0.json"), record=record, model=model, backbone=frozen_model(backbone))


def with_adapter(model, folder):
    """Returns a timm model with the adapter of a folder, as a user of peft loads it."""
    from peft import PeftModel

    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Unsupported layer type", UserWarning)  # of each LayerNorm of timm
        return PeftModel.from_pretrained(model, folder)


@pytest.mark.parametrize(
    ("method", "backbone"),
    [pytest.param(*pair, marks=() if pair == ("lora", "class token") else pytest.mark.slow) for pair in PAIRS],
)
def test_peft_gives_the_same_logits(method, backbone, tmp_path, unchecked):
    finished = finished_with(method, backbone)
    expected = logits_of(finished.model)
    write_peft(finished, tmp_path / "adapter")
    model = with_adapter(frozen_model(backbone, seed=5), tmp_path / "adapter")
    torch.testing.assert_close(logits_of(model), expected, atol=1e-4, rtol=1e-4)
    with model.disable_adapter():
        assert not torch.allclose(logits_of(model), expected, atol=1e-2)


def test_the_files_say_what_was_adapted_and_keep_rank_and_alpha(tmp_path):
    finished = finished_with("mola")  # a rank for each depth, on q and v of three stacked matrices
    write_peft(finished, tmp_path)
    config = json.loads((tmp_path / "adapter_config.json").read_text())
    tensors = safetensors.torch.load_file(tmp_path / "adapter_model.safetensors")
    assert config["target_modules"] == [f"blocks.{depth}.attn.qkv" for depth in range(3)]
    ranks = [config["rank_pattern"].get(name, config["r"]) for name in config["target_modules"]]
    alphas = [config["alpha_pattern"].get(name, config["lora_alpha"]) for name in config["target_modules"]]
    assert ranks == alphas == [4, 12, 16]
    assert config["modules_to_save"] == ["head"]
    prefix = "base_model.model."
    assert tensors[f"{prefix}head.bias"].equal(finished.model.head.bias)
    assert tensors[f"{prefix}blocks.0.attn.qkv.lora_B.weight"][64:128].abs().max() == 0  # k
    assert set(tensors) == {
        *(f"{prefix}{name}.lora_{side}.weight" for name in config["target_modules"] for side in "AB"),
        f"{prefix}head.weight",
        f"{prefix}head.bias",
    }


@pytest.mark.parametrize(
    ("method", "reason"),
    [
        ("moppa", "changes activations"),
        ("vpt_deep", "changes activations"),
        ("bitfit", "changes patch_embed.proj.bias"),
        ("ssf", "changes "),
        ("linear", "changes the head alone"),
    ],
)
def test_a_method_that_peft_lacks_is_refused_in_one_line(method, reason, tmp_path):
    with pytest.raises(UserError, match=f"^HF peft has no method like {method} .*{reason}.*--to onnx") as error:
        write_peft(finished_with(method), tmp_path / "adapter")
    assert "\n" not in str(error.value)
    assert not (tmp_path / "adapter").exists()


def test_a_file_is_no_place_for_an_adapter(tmp_path):
    with pytest.raises(UserError, match=r"out\.safetensors: HF peft reads a folder"):
        check_peft_path(tmp_path / "out.safetensors")


@pytest.mark.slow
def test_an_exported_cell_gives_the_predictions_of_its_record(toy, tmp_path, monkeypatch, capsys):
    path = run_cell(config_of(*toy, "method=dora", "train.lr=1e-2", "train.epochs=1")).record
    monkeypatch.setattr("sys.argv", ["moppa", "export", str(path), str(tmp_path / "adapter"), "--to", "peft"])
    assert cli.main() == 0
    assert capsys.readouterr().out.endswith(f"{tmp_path / 'adapter'}\n")
    record = json.loads(path.read_text())
    plain = timm.create_model("test_vit", num_classes=10, img_size=32)
    pretrained = config_of(*toy)
    from moppa.utils.config import instantiate

    state = instantiate(pretrained, "backbone").load(drop_path=0.0).state_dict()
    plain.load_state_dict(state, strict=False)
    model = with_adapter(plain, tmp_path / "adapter").eval()
    [folder] = (tmp_path / "cache").rglob("test*/")
    images = torch.from_numpy(np.load(folder / "images.npy")).float() / 255
    mean, std = (torch.tensor(record["preprocess"][name]) for name in ("mean", "std"))
    with torch.no_grad():
        logits = model(((images - mean) / std).permute(0, 3, 1, 2))
    with np.load(path.with_suffix(".npz")) as predictions:
        assert (logits.argmax(dim=1).numpy() == predictions["predicted"]).mean() > 0.99  # rounding may decide a tie
