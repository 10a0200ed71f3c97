"""Export of a finished cell as plain timm weights, and the errors that all formats share."""

import json

import numpy as np
import pytest
import safetensors.torch
import timm
import torch
from safetensors import safe_open

from moppa.export.formats import export
from moppa.record.trained_file import trained_path
from moppa.utils.errors import UserError
from run import run_cell
from tests.conftest import config_of

MERGEABLE = [
    "bitfit",
    "dora",
    "fact_tk",
    "fact_tt",
    "full",
    "lora",
    "mola",
    "mos",
    "nola",
    "repadapter",
    "spt_lora",
    "ssf",
]


def run(toy, tmp_path, *overrides):
    run_cell(config_of(*toy, "train.lr=1e-2", "train.epochs=1", *overrides))
    [path] = (tmp_path / "results" / "records").rglob("seed0.json")
    return path


FAST = ("lora", "ssf")


@pytest.mark.parametrize(
    "method", [pytest.param(name, marks=() if name in FAST else pytest.mark.slow) for name in MERGEABLE]
)
def test_plain_timm_loads_the_merged_weights_and_gives_the_records_predictions(toy, tmp_path, method):
    path, out = run(toy, tmp_path, f"method={method}"), tmp_path / "out.safetensors"
    export(path, out)
    with safe_open(out, framework="pt") as file:
        metadata = file.metadata()
    model = timm.create_model(
        metadata["timm"],
        num_classes=int(metadata["num_classes"]),
        img_size=int(metadata["image_size"]),
        checkpoint_path=str(out),
    )
    assert metadata["method"] == method
    tensors = safetensors.torch.load_file(out)
    expected = timm.create_model(metadata["timm"], num_classes=10, img_size=int(metadata["image_size"])).state_dict()
    assert {name: tensor.shape for name, tensor in tensors.items()} == {n: t.shape for n, t in expected.items()}
    record = json.loads(path.read_text())
    [folder] = (tmp_path / "cache").rglob("test*/")
    images = torch.from_numpy(np.load(folder / "images.npy")).float() / 255
    mean, std = (torch.tensor(record["preprocess"][name]) for name in ("mean", "std"))
    with torch.no_grad():
        logits = model.eval()(((images - mean) / std).permute(0, 3, 1, 2))
    with np.load(path.with_suffix(".npz")) as predictions:
        assert (logits.argmax(dim=1).numpy() == predictions["predicted"]).mean() > 0.99  # rounding may decide a tie


def test_a_method_that_changes_activations_cannot_be_merged(toy, tmp_path):
    path = run(toy, tmp_path, "method=moppa")
    with pytest.raises(UserError, match=r"moppa cannot be merged.*seed0\.safetensors"):
        export(path, tmp_path / "out.safetensors")
    assert not (tmp_path / "out.safetensors").exists()


def test_missing_files_and_files_of_another_cell_are_errors(toy, tmp_path):
    path = run(toy, tmp_path, "method=lora")
    out = tmp_path / "out.safetensors"
    record = json.loads(path.read_text())
    record["weights"]["sha256"] = "0" * 64
    path.with_name("other.json").write_text(json.dumps(record))
    with pytest.raises(UserError, match=r"sha256 .*--weights FILE"):
        export(path.with_name("other.json"), out)
    trained = trained_path(path)
    trained.write_bytes(trained.read_bytes()[:-1] + b"x")
    with pytest.raises(UserError, match=r"is not the file that .* was evaluated with"):
        export(path, out)
    trained.unlink()
    with pytest.raises(UserError, match=r"keep_trained=false or on another machine"):
        export(path, out)
    (tmp_path / "elsewhere.json").write_text(path.read_text())
    with pytest.raises(UserError, match=r"is not in a results folder"):
        export(tmp_path / "elsewhere.json", out)


def test_a_pth_file_is_one_that_timm_reads_and_the_folder_of_records_may_be_a_link(toy, tmp_path):
    path = run(toy, tmp_path, "method=bitfit")
    records = tmp_path / "results" / "records"
    records.rename(tmp_path / "kept")
    records.symlink_to(tmp_path / "kept")
    for name in ("out.pth", "out.safetensors"):
        export(path, tmp_path / name)
        model = timm.create_model("test_vit", num_classes=10, img_size=32, checkpoint_path=str(tmp_path / name))
        assert model.head.weight.equal(safetensors.torch.load_file(trained_path(path))["head.weight"])
    with pytest.raises(UserError, match=r"out\.txt: timm tells weights by their suffix; choose one of \.safetensors"):
        export(path, tmp_path / "out.txt")
    with pytest.raises(UserError, match=r"there is no record at .*seed1\.json"):
        export(path.with_name("seed1.json"), tmp_path / "out.pth")


def test_keep_trained_false_keeps_no_tensors(toy, tmp_path):
    path = run(toy, tmp_path, "method=lora", "run.keep_trained=false")
    assert not trained_path(path).exists()
    assert json.loads(path.read_text())["trained"] == {"sha256": None}
