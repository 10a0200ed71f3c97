"""A finished cell as plain timm weights."""

import json

import numpy as np
import pytest
import safetensors.torch
import timm
import torch
from safetensors import safe_open

from moppa.record.export import export, trained_path
from moppa.utils.errors import UserError
from run import run_cell
from tests.conftest import config_of

FOLDS = ["bitfit", "dora", "fact_tk", "fact_tt", "full", "lora", "mola", "mos", "nola", "repadapter", "spt_lora", "ssf"]


def run(toy, tmp_path, *words):
    run_cell(config_of(*toy, "train.lr=1e-2", "train.epochs=1", *words))
    [path] = (tmp_path / "results" / "records").rglob("seed0.json")
    return path


@pytest.mark.parametrize("method", FOLDS)
def test_plain_timm_loads_the_merged_weights_and_gives_the_records_answers(toy, tmp_path, method):
    path, out = run(toy, tmp_path, f"method={method}"), tmp_path / "out.safetensors"
    export(path, out)
    with safe_open(out, framework="pt") as file:
        facts = file.metadata()
    model = timm.create_model(
        facts["timm"],
        num_classes=int(facts["num_classes"]),
        img_size=int(facts["image_size"]),
        checkpoint_path=str(out),
    )
    assert facts["method"] == method
    tensors = safetensors.torch.load_file(out)
    stock = timm.create_model(facts["timm"], num_classes=10, img_size=int(facts["image_size"])).state_dict()
    assert {name: tensor.shape for name, tensor in tensors.items()} == {n: t.shape for n, t in stock.items()}
    written = json.loads(path.read_text())
    [folder] = (tmp_path / "store").rglob("test*/")
    images = torch.from_numpy(np.load(folder / "images.npy")).float() / 255
    mean, std = (torch.tensor(written["preprocess"][name]) for name in ("mean", "std"))
    with torch.no_grad():
        logits = model.eval()(((images - mean) / std).permute(0, 3, 1, 2))
    with np.load(path.with_suffix(".npz")) as kept:
        assert (logits.argmax(dim=1).numpy() == kept["predicted"]).mean() > 0.99  # rounding may turn a tie


def test_a_method_that_changes_activations_says_that_it_does_not_fold(toy, tmp_path):
    path = run(toy, tmp_path, "method=moppa")
    with pytest.raises(UserError, match=r"moppa does not fold.*seed0\.safetensors"):
        export(path, tmp_path / "out.safetensors")
    assert not (tmp_path / "out.safetensors").exists()


def test_what_is_missing_or_of_another_cell_is_said(toy, tmp_path):
    path = run(toy, tmp_path, "method=lora")
    out = tmp_path / "out.safetensors"
    written = json.loads(path.read_text())
    written["weights"]["sha256"] = "0" * 64
    path.with_name("other.json").write_text(json.dumps(written))
    with pytest.raises(UserError, match=r"sha256 .*--weights FILE"):
        export(path.with_name("other.json"), out)
    kept = trained_path(path)
    kept.write_bytes(kept.read_bytes()[:-1] + b"x")
    with pytest.raises(UserError, match=r"is not what .* was read from"):
        export(path, out)
    kept.unlink()
    with pytest.raises(UserError, match=r"keep_trained=false or on another machine"):
        export(path, out)
    (tmp_path / "lonely.json").write_text(path.read_text())
    with pytest.raises(UserError, match=r"does not lie in a results folder"):
        export(tmp_path / "lonely.json", out)


def test_the_trained_tensors_are_kept_unless_told_otherwise(toy, tmp_path):
    path = run(toy, tmp_path, "method=lora", "run.keep_trained=false")
    assert not trained_path(path).exists()
    assert json.loads(path.read_text())["trained"] == {"sha256": None}
