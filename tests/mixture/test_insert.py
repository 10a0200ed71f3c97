"""Where units are inserted, on each kind of backbone."""

import copy
import subprocess
import sys
from itertools import product

import pytest
import timm
import torch
import torch.nn.functional as F

from moppa.mixture.operator import Operator
from moppa.mixture.settings import POSITIONS
from moppa.peft.blocks import find_blocks
from moppa.peft.collect import count_parameters, penalty
from moppa.peft.inject import merge
from moppa.utils.config import instantiate
from moppa.utils.errors import UserError
from tests.conftest import ROOT, config_of
from tests.mixture.models import SETTINGS, attach_to, units_in, vit


class Returns(torch.nn.Module):
    def __init__(self, value):
        super().__init__()
        self.value = value

    def forward(self, _):
        return self.value


def test_each_position_changes_its_place_in_the_block():
    x = torch.randn(2, 17, 64)
    for position in POSITIONS:
        stock = vit().eval()
        model = attach_to(copy.deepcopy(stock), position=position).eval()
        units = units_in(model)
        for unit in units:
            torch.nn.init.normal_(unit.up, std=0.1, generator=torch.Generator().manual_seed(0))
        block, unit = stock.blocks[0], units[0]
        z = block.norm1(x)
        attention, mlp = block.attn(z), block.mlp
        if position == "residual":
            x_in = x + unit(z)
            attention = block.attn(block.norm1(x_in))
        elif position == "attn_input":
            x_in, attention = x, block.attn(z + unit(z))
        elif position == "attn_parallel":
            x_in, attention = x, attention + unit(z)
        elif position == "qv":
            x_in, layer = x, block.attn.qkv
            q, k, v = layer(z).chunk(3, dim=-1)
            changed = torch.cat([q + unit(z), k, v + units[1](z)], dim=-1)
            block.attn.qkv = Returns(changed)
            attention = block.attn(z)
        else:
            x_in, mlp = x, lambda z2, block=block, unit=unit: block.mlp(z2) + unit(z2)
        after_attention = x_in + attention
        expected = after_attention + mlp(block.norm2(after_attention))
        torch.testing.assert_close(model.blocks[0](x), expected, atol=1e-5, rtol=1e-5)


def test_units_on_q_and_v_with_the_identity_alone_are_lora_and_merge_into_stock_weights():
    stock = vit()
    lora, units = copy.deepcopy(stock), copy.deepcopy(stock)
    config = config_of("task=eurosat", "method=lora", "method.attach.rank=4")  # alpha is 8
    instantiate(config, "method.attach", _partial_=True)(lora, generator=torch.Generator().manual_seed(0))
    attach_to(units, rank=4, scale=2.0, position="qv", priors=["identity"])
    images, labels = torch.randn(4, 3, 64, 64), torch.arange(4)
    for model in (lora, units):
        parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
        optimizer = torch.optim.SGD(parameters, lr=0.1)
        for _ in range(3):
            optimizer.zero_grad()
            (F.cross_entropy(model(images), labels) + penalty(model, 0.0)).backward()
            optimizer.step()
    assert count_parameters(lora) == count_parameters(units)
    with torch.no_grad():
        expected = lora.eval()(images)
        assert not torch.allclose(expected, stock.eval()(images), atol=1e-2)
        torch.testing.assert_close(units.eval()(images), expected, atol=1e-5, rtol=1e-5)
        merge(lora), merge(units)
        assert not units_in(units)
        torch.testing.assert_close(units(images), expected, atol=1e-5, rtol=1e-5)
        merged = units.blocks[3].attn.qkv.inner.weight
        torch.testing.assert_close(merged, lora.blocks[3].attn.qkv.weight, atol=1e-5, rtol=1e-5)


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
    images = {"swin": torch.randn(1, 3, 64, 64), "convnext": torch.randn(1, 3, 96, 64)}
    stocks = {"swin": swin, "convnext": convnext}
    for position, name in product(POSITIONS, stocks):
        if (position, name) == ("qv", "convnext"):
            continue
        model = attach_to(copy.deepcopy(stocks[name]), position=position)
        before = model.eval()(images[name])
        assert torch.equal(before, stocks[name].eval()(images[name]))
        for unit in units_in(model):
            torch.nn.init.normal_(unit.up)
        assert not torch.equal(model(images[name]), before)  # a ConvNeXt scales its branch by 1e-6
        sees_windows = name == "swin" and position in ("attn_parallel", "qv")
        grids = [(4, 4) if sees_windows else block.grid for block in find_blocks(stocks[name])]
        assert [unit.grid for unit in units_in(model)] == [
            grid for grid in grids for _ in range(1 + (position == "qv"))
        ]


def test_a_model_that_cannot_have_units_is_reported():
    with pytest.raises(UserError, match=r"ResNet has no blocks.*choose a vision transformer"):
        attach_to(timm.create_model("test_resnet"))
    with pytest.raises(UserError, match=r"has MoPPA units already"):
        attach_to(attach_to(vit()))
    with pytest.raises(UserError, match=r"^rank=65 is above the backbone's width 64"):
        attach_to(vit(), rank=65)
    with pytest.raises(UserError, match=r"^position=qv: a ConvNeXt has no q and v; choose another position"):
        attach_to(timm.create_model("test_convnext"), position="qv")


def test_an_image_of_another_size_is_reported():
    model = attach_to(timm.create_model("test_vit", dynamic_img_size=True, img_size=64))
    with pytest.raises(UserError, match=r"grid of 4 x 4 got 26 tokens.*image size"):
        model(torch.randn(1, 3, 80, 80))


@pytest.mark.parametrize("router", ["static", "dynamic"])
@pytest.mark.parametrize(
    "settings",
    [
        {"position": "residual"},
        {"position": "attn_input", "priors": ["poisson"]},
        {"position": "qv", "priors": ["identity", "heat", "wave", "poisson"], "damping": 0.1},
        {"position": "attn_parallel", "constants_per": "frequency", "gate": True},
        {"position": "mlp_parallel", "rank": None},
    ],
    ids=lambda settings: settings["position"],
)
def test_merging_computes_the_filters_once_and_keeps_the_logits(router, settings, monkeypatch):
    model = attach_to(vit(), router=router, **settings)
    with torch.no_grad():
        for unit in units_in(model):
            for parameter in unit.parameters():
                parameter.add_(0.1 * torch.randn_like(parameter))
    images = torch.randn(4, 3, 64, 64)
    with torch.no_grad():
        expected = model.eval()(images)
        merge(model)
        monkeypatch.setattr(Operator, "filters", lambda *_: pytest.fail("the filters were computed again"))
        torch.testing.assert_close(model(images), expected, atol=1e-5, rtol=0)
    is_fixed = router == "static" or settings.get("priors") == ["poisson"]
    assert {len(unit.operator.merged[0]) == 1 for unit in units_in(model)} == {is_fixed}


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
