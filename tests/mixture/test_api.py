"""MoPPA without the harness, as the README shows it."""

import re
import subprocess
import sys

import pytest
import timm
import torch
from safetensors.torch import save_file

import moppa
from moppa.utils.errors import UserError
from tests.conftest import ROOT
from tests.mixture.test_unit import SETTINGS


def vit(size=64, **settings):
    torch.manual_seed(0)
    return timm.create_model("test_vit", img_size=size, num_classes=10, **settings)


@pytest.fixture(autouse=True)
def _untouched_generator():
    with torch.random.fork_rng():
        yield


def moved(model):
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "unit" in name:
                parameter.add_(0.1)
    return model


def test_the_public_defaults_are_those_of_the_yaml():
    model = moppa.attach(vit())
    assert model.moppa_settings == SETTINGS


def test_only_units_and_head_are_trained():
    model = moppa.attach(vit())
    trained = [name for name, parameter in model.named_parameters() if parameter.requires_grad]
    assert all(".unit." in name or name.startswith("head.") for name in trained)
    assert sum("unit.up" in name for name in trained) == 6


def test_an_adapter_that_is_saved_and_loaded_gives_the_same_logits(tmp_path):
    model = moved(moppa.attach(vit(), rank=4, priors=["heat", "poisson"], position="attn_input"))
    moppa.save(model, tmp_path / "adapter.safetensors")
    again = moppa.load(vit(), tmp_path / "adapter.safetensors")
    images = torch.randn(2, 3, 64, 64)
    again.head.load_state_dict(model.head.state_dict())
    assert torch.equal(again.eval()(images), model.eval()(images))
    assert (tmp_path / "adapter.safetensors").stat().st_size < 40_000  # the units alone


def test_what_does_not_fit_is_said(tmp_path):
    path = tmp_path / "adapter.safetensors"
    with pytest.raises(UserError, match=r"call moppa\.attach\(model\) first"):
        moppa.save(vit(), path)
    moppa.save(moppa.attach(vit()), path)
    with pytest.raises(UserError, match=r"made for the backbone test_vit\.r160_in1k, not for test_vit2"):
        moppa.load(timm.create_model("test_vit2", img_size=64), path)
    with pytest.raises(UserError, match=r"unit\.source is \(4, 4\) there and \(6, 6\) here.*image size"):
        moppa.load(vit(96), path)
    save_file({"x": torch.zeros(1)}, path)
    with pytest.raises(UserError, match="holds no MoPPA adapter"):
        moppa.load(vit(), path)
    path.write_bytes(b"")
    with pytest.raises(UserError, match="cannot be read"):
        moppa.load(vit(), path)
    with pytest.raises(AttributeError, match="it has attach, load, merge, penalty, save"):
        _ = moppa.atach


def test_the_example_of_the_readme_runs(tmp_path):
    text = (ROOT / "README.md").read_text()
    [program] = re.findall(r"```python\n(import moppa.*?)```", text, flags=re.DOTALL)
    assert len(program.splitlines()) <= 22
    done = subprocess.run([sys.executable, "-c", program], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "adapter.safetensors").exists()
