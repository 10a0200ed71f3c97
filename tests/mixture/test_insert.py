"""Where units are inserted, on each kind of backbone."""

import copy
import subprocess
import sys
from itertools import product

import pytest
import timm
import torch

from moppa.mixture.settings import POSITIONS
from moppa.mixture.unit import Unit
from moppa.peft.blocks import find_blocks
from moppa.peft.inject import merge
from moppa.utils.errors import UserError
from tests.conftest import ROOT
from tests.mixture.models import SETTINGS, attach_to, units_in, vit


def test_residual_changes_the_input_of_the_block_and_attn_input_that_of_attention():
    x = torch.randn(2, 17, 64)
    for position in POSITIONS:
        stock = vit().eval()
        model = attach_to(copy.deepcopy(stock), position=position).eval()
        unit = units_in(model)[0]
        torch.nn.init.normal_(unit.up, std=0.1, generator=torch.Generator().manual_seed(0))
        block = stock.blocks[0]
        z = block.norm1(x)
        if position == "residual":
            expected = block(x + unit(z))
        else:
            after_attention = x + block.attn(z + unit(z))
            expected = after_attention + block.mlp(block.norm2(after_attention))
        torch.testing.assert_close(model.blocks[0](x), expected, atol=1e-5, rtol=1e-5)


def test_a_grid_of_one_token_works():
    convnext = timm.create_model("test_convnext", pretrained_cfg_overlay={"input_size": (3, 32, 32)}, num_classes=3)
    assert find_blocks(convnext)[-1].grid == (1, 1)
    assert attach_to(convnext).train()(torch.randn(2, 3, 32, 32)).isfinite().all()


def test_every_stage_of_a_hierarchical_backbone_has_units_on_its_own_grid():
    swin = timm.create_model(
        "swin_tiny_patch4_window7_224", img_size=64, window_size=4, embed_dim=16, depths=(1, 2), num_heads=(2, 4)
    )
    convnext = timm.create_model("test_convnext", pretrained_cfg_overlay={"input_size": (3, 96, 64)})
    assert [block.grid for block in find_blocks(swin)] == [(16, 16), (8, 8), (8, 8)]
    assert [block.grid for block in find_blocks(convnext)][:1] == [(24, 16)]
    for position, (model, image_size) in product(POSITIONS, ((swin, (64, 64)), (convnext, (96, 64)))):
        model = attach_to(copy.deepcopy(model), position=position)
        assert model(torch.randn(1, 3, *image_size)).shape[0] == 1


def test_a_model_that_cannot_have_units_is_reported():
    with pytest.raises(UserError, match=r"ResNet has no blocks.*choose a vision transformer"):
        attach_to(timm.create_model("test_resnet"))
    with pytest.raises(UserError, match=r"has MoPPA units already"):
        attach_to(attach_to(vit()))
    with pytest.raises(UserError, match=r"^rank=65 is above the backbone's width 64"):
        attach_to(vit(), rank=65)


def test_an_image_of_another_size_is_reported():
    model = attach_to(timm.create_model("test_vit", dynamic_img_size=True, img_size=64))
    with pytest.raises(UserError, match=r"grid of 4 x 4 got 26 tokens.*image size"):
        model(torch.randn(1, 3, 80, 80))


@pytest.mark.parametrize("router", ["static", "dynamic"])
@pytest.mark.parametrize("position", ["residual", "attn_input"])
def test_merging_computes_the_filters_once_and_keeps_the_logits(router, position, monkeypatch):
    model = attach_to(vit(), router=router, position=position)
    with torch.no_grad():
        for unit in units_in(model):
            unit.up.normal_(std=0.1)
            unit.router.bias.normal_()
    images = torch.randn(4, 3, 64, 64)
    with torch.no_grad():
        expected = model.eval()(images)
        merge(model)
        monkeypatch.setattr(Unit, "filters", lambda self: pytest.fail("the filters were computed again"))
        torch.testing.assert_close(model(images), expected, atol=1e-5, rtol=0)


@pytest.mark.slow  # runs a compiler
def test_the_unit_compiles_without_graph_breaks():
    """Runs in another process, because here the run-time type checks would be compiled too."""
    program = """
import timm, torch
from moppa.mixture.insert import attach
model = timm.create_model("test_vit", img_size=64, num_classes=10)
attach(model, **SETTINGS, generator=None)
for mode in (model.train(), model.eval()):
    assert torch._dynamo.explain(mode)(torch.randn(2, 3, 64, 64)).graph_break_count == 0
    torch._dynamo.reset()
print("no graph breaks")
"""
    run = subprocess.run(
        [sys.executable, "-c", program.replace("SETTINGS", repr(SETTINGS))], cwd=ROOT, capture_output=True, text=True
    )
    assert run.stdout == "no graph breaks\n", run.stderr
