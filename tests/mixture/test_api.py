"""MoPPA without the harness."""

import re
import subprocess
import sys
from dataclasses import replace

import pytest
import timm
import torch
from safetensors.torch import save_file

import moppa
from moppa.mixture.settings import MixtureSettings
from moppa.utils.errors import UserError
from tests import python_process
from tests.conftest import ROOT

HARNESS_ONLY = ("hydra", "omegaconf", "tensorflow_datasets", "pandas", "matplotlib", "rich", "beartype", "wandb")


def vit(size=64, **settings):
    torch.manual_seed(0)
    return timm.create_model("test_vit", img_size=size, num_classes=10, **settings)


@pytest.fixture(autouse=True)
def _restore_global_generator():
    with torch.random.fork_rng():
        yield


def shift_units(model):
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "unit" in name:
                parameter.add_(0.1)
    return model


def run_python(program, folder):
    return subprocess.run([sys.executable, "-c", program], cwd=folder, capture_output=True, text=True)


def test_attach_uses_the_default_settings():
    model = moppa.attach(vit())
    settings = MixtureSettings(**model.moppa_settings)
    assert replace(settings, priors=tuple(settings.priors)) == MixtureSettings()


def test_only_units_and_head_are_trainable():
    model = moppa.attach(vit())
    trainable = [name for name, parameter in model.named_parameters() if parameter.requires_grad]
    assert all(".unit." in name or name.startswith("head.") for name in trainable)
    assert sum("unit.up" in name for name in trainable) == 6


def test_a_saved_and_loaded_adapter_gives_the_same_logits(tmp_path):
    path = tmp_path / "adapter.safetensors"
    model = shift_units(moppa.attach(vit(), rank=4, priors=["heat", "poisson"], position="attn_input"))
    moppa.save(model, path)
    loaded = moppa.load(vit(), path)
    images = torch.randn(2, 3, 64, 64)
    loaded.head.load_state_dict(model.head.state_dict())
    assert torch.equal(loaded.eval()(images), model.eval()(images))
    assert path.stat().st_size < 40_000  # the units alone


def test_a_wrong_setting_is_named_as_the_argument():
    with pytest.raises(UserError, match=r"^rank=0: it must be an integer of at least 1$"):
        moppa.attach(vit(), rank=0)
    with pytest.raises(UserError, match=r"^rank=65 is above the backbone's width 64"):
        moppa.attach(vit(), rank=65)
    with pytest.raises(UserError, match=r"^rnak: there is no such setting; choose from rank, priors"):
        moppa.attach(vit(), rnak=4)


def test_load_and_save_report_what_does_not_fit(tmp_path):
    path = tmp_path / "adapter.safetensors"
    with pytest.raises(UserError, match=r"call moppa\.attach\(model\) first"):
        moppa.save(vit(), path)
    moppa.save(moppa.attach(vit()), path)
    with pytest.raises(UserError, match=r"belongs to the backbone test_vit\.r160_in1k, not to test_vit2"):
        moppa.load(timm.create_model("test_vit2", img_size=64), path)
    with pytest.raises(
        UserError, match=r"unit\.operator\.source is \(4, 4\) in the file and \(6, 6\) in the model.*image size"
    ):
        moppa.load(vit(96), path)
    save_file({"x": torch.zeros(1)}, path)
    with pytest.raises(UserError, match="holds no method"):
        moppa.load(vit(), path)
    path.write_bytes(b"")
    with pytest.raises(UserError, match="cannot be read"):
        moppa.load(vit(), path)
    with pytest.raises(AttributeError, match="it has after_step, attach, load, merge, penalty, save"):
        _ = moppa.atach


def test_importing_the_library_does_not_import_the_harness(tmp_path):
    program = f"""
import sys, moppa
assert "torch" not in sys.modules, "import moppa must be fast"
for name in moppa.__all__:
    getattr(moppa, name)
print([name for name in {HARNESS_ONLY} if name in sys.modules])
"""
    run = run_python(program, tmp_path)
    assert run.stdout == "[]\n", run.stdout + run.stderr


def test_the_example_in_the_readme_runs(tmp_path):
    text = (ROOT / "README.md").read_text()
    [program] = re.findall(r"```python\n(import moppa.*?)```", text, flags=re.DOTALL)
    assert len(program.splitlines()) <= 22
    run = python_process.run_python("-c", f"import os\nos.chdir({str(tmp_path)!r})\n{program}")
    assert run.returncode == 0, run.stderr
    assert (tmp_path / "adapter.safetensors").exists()
