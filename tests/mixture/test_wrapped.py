"""What timm's own model can do, one with MoPPA can: be traced, exported, wrapped, moved, and saved from its wrapper."""

import copy
import subprocess
import sys

import pytest
import timm
import torch
from safetensors.torch import load_file
from torch import nn

import moppa
from moppa.utils.errors import UserError
from tests.mixture.models import attach_to, units_in, vit


def images(count=2):
    return torch.randn(count, 3, 64, 64, generator=torch.Generator().manual_seed(0))


def small():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return timm.create_model("test_vit", depth=1, img_size=64, num_classes=3)


class Wrapper(nn.Module):
    """A module of somebody else around ours; torch.compile calls the inner one `_orig_mod`, too."""

    def __init__(self, inner):
        super().__init__()
        self._orig_mod = inner


def with_wrapped_block(model):
    model.blocks[0] = Wrapper(model.blocks[0])
    return model


@pytest.mark.parametrize(
    "wrap",
    [
        pytest.param(nn.DataParallel, id="data parallel"),
        pytest.param(lambda model: Wrapper(nn.DataParallel(model)), id="two wrappers"),
        pytest.param(with_wrapped_block, id="wrapped block"),
    ],
)
def test_the_adapter_of_a_wrapped_model_is_saved_under_its_own_names(wrap, tmp_path):
    model = moppa.attach(small(), rank=2, generator=torch.Generator().manual_seed(1))
    moppa.save(model, tmp_path / "plain.safetensors")
    moppa.save(wrap(copy.deepcopy(model)), tmp_path / "wrapped.safetensors")
    assert load_file(tmp_path / "wrapped.safetensors").keys() == load_file(tmp_path / "plain.safetensors").keys()
    loaded = moppa.load(nn.DataParallel(small()), tmp_path / "wrapped.safetensors").module
    assert torch.equal(units_in(loaded)[0].down, units_in(model)[0].down)


def test_a_path_with_a_tilde_leads_to_the_home_folder(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    moppa.save(moppa.attach(small(), rank=2), "~/adapter.safetensors")
    moppa.load(small(), "~/adapter.safetensors")
    (tmp_path / "new").touch()  # has the permissions of the umask
    assert (tmp_path / "adapter.safetensors").stat().st_mode == (tmp_path / "new").stat().st_mode


@pytest.mark.parametrize(
    ("settings", "prepare"),
    [({}, moppa.merge), ({"gate": True, "damping": 1.0, "constants_per": "frequency"}, nn.Module.eval)],
    ids=["merged", "all settings"],
)
@pytest.mark.filterwarnings("ignore")  # torch calls tracing deprecated, and timm converts sizes to numbers
@torch.no_grad()
def test_a_traced_model_gives_the_same_logits_for_any_number_of_images(settings, prepare):
    model = prepare(attach_to(vit(depth=1), rank=2, **settings).eval())
    traced = torch.jit.trace(model, images(2), check_trace=False)
    torch.testing.assert_close(traced(images(3)), model(images(3)))


COMPILED_AND_EXPORTED = """
import timm, torch, moppa
def new():
    return timm.create_model("test_vit", depth=1, num_classes=3, img_size=64)
model, x = moppa.attach(new(), rank=2).eval(), torch.randn(3, 3, 64, 64)
moppa.save(torch.compile(model), "adapter.safetensors")
moppa.load(torch.compile(new()), "adapter.safetensors")
with torch.no_grad():
    exported = torch.export.export(model, (x[:2],), dynamic_shapes=({0: torch.export.Dim("batch", min=1, max=8)},))
    torch.testing.assert_close(exported.module()(x), model(x))
"""


@pytest.mark.slow  # torch.compile and torch.export take seconds to import
def test_a_compiled_model_is_saved_and_an_exported_one_takes_any_number_of_images(tmp_path):
    command = [sys.executable, "-c", COMPILED_AND_EXPORTED]
    run = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert run.returncode == 0, run.stderr


@torch.no_grad()
def test_merged_filters_move_and_are_cast_with_the_model():
    model = moppa.merge(attach_to(vit(depth=1), rank=2).eval())
    expected = model(images())
    torch.testing.assert_close(copy.deepcopy(model).double()(images().double()).float(), expected)
    assert copy.deepcopy(model).to(torch.bfloat16)(images().bfloat16()).dtype == torch.bfloat16
    assert copy.deepcopy(model).to("meta")(images().to("meta")).shape == expected.shape


def test_a_penalty_without_a_forward_pass_says_what_to_do():
    model = moppa.attach(small(), rank=2)
    with pytest.raises(UserError, match="needs a forward pass in training mode"):
        moppa.penalty(model, 0.0)
