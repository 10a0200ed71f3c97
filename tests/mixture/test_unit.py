"""The MoPPA unit against its equations written out plainly, and every setting that its YAML offers."""

import copy
import math
import subprocess
import sys
from itertools import product

import pytest
import timm
import torch
import torch.nn.functional as F

from moppa.mixture import physics
from moppa.mixture.fused import MixtureSolve
from moppa.mixture.unit import POSITIONS, Unit, attach
from moppa.peft.blocks import find_blocks
from moppa.peft.collect import collect_diagnostics, penalty, trainable_parameters
from moppa.peft.inject import merge
from moppa.utils.config import instantiate
from moppa.utils.errors import UserError
from tests.conftest import ROOT, config_of

SETTINGS = instantiate(config_of("task=eurosat", "method=moppa"), "method.attach", _partial_=True).keywords


def vit(**settings):
    return timm.create_model("test_vit", img_size=64, num_classes=10, **settings).requires_grad_(False)


def attached(model, **settings):
    attach(model, **{**SETTINGS, **settings}, generator=torch.Generator().manual_seed(0))
    return model


def trained_unit(**settings):
    """A unit whose every parameter is away from its start."""
    model = attached(vit(), **settings)
    unit = next(module for module in model.modules() if isinstance(module, Unit))
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in unit.parameters():
            parameter.add_(0.3 * torch.randn(parameter.shape, generator=generator))
    return unit.eval()


def test_the_unit_is_its_equation():
    unit = trained_unit(router="dynamic", poisson_gain="exact")
    z = torch.randn(3, 17, 64)
    x = torch.einsum("bnd,rd->bnr", z, unit.down)
    a = torch.softmax(unit.physics_rate * (x.mean(1) @ unit.route.T + unit.route_bias), dim=1)
    start = {name: math.log(math.expm1(value)) for name, value in unit.start.items()}
    k, c, t = (
        F.softplus(start[name] + unit.physics_rate * getattr(unit, name)) for name in ("diffusivity", "speed", "time")
    )
    grid = x[:, 1:].reshape(3, 4, 4, 8)
    y = physics.mixture(grid, k, c, t, 1 + unit.physics_rate * unit.source, a).reshape(3, 16, 8)
    y = torch.cat([(a[:, 0] + a[:, 1])[:, None, None] * x[:, :1], y], dim=1)
    expected = unit.scale * torch.einsum("bnr,dr->bnd", y, unit.up)
    torch.testing.assert_close(unit(z), expected, atol=1e-5, rtol=1e-5)


def test_residual_adds_before_the_block_and_attn_input_before_attention_alone():
    x = torch.randn(2, 17, 64)
    for position in ("residual", "attn_input"):
        stock = vit().eval()
        model = attached(copy.deepcopy(stock), position=position).eval()
        unit = next(module for module in model.modules() if isinstance(module, Unit))
        torch.nn.init.normal_(unit.up, std=0.1, generator=torch.Generator().manual_seed(0))
        block = stock.blocks[0]
        z = block.norm1(x)
        if position == "residual":
            expected = block(x + unit(z))
        else:
            middle = x + block.attn(z + unit(z))
            expected = middle + block.mlp(block.norm2(middle))
        torch.testing.assert_close(model.blocks[0](x), expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize(
    ("priors", "size"),
    [
        (["heat"], 2 * 64 * 8 + 16),
        (["wave"], 2 * 64 * 8 + 16),
        (["poisson"], 2 * 64 * 8 + 16),
        (["heat", "wave"], 2 * 64 * 8 + 24 + 2 * 8 + 2),
        (["heat", "poisson"], 2 * 64 * 8 + 16 + 16 + 2 * 8 + 2),
        (["wave", "poisson"], 2 * 64 * 8 + 16 + 16 + 2 * 8 + 2),
        (["heat", "wave", "poisson"], 2 * 64 * 8 + 24 + 16 + 3 * 8 + 3),
    ],
)
def test_priors_alone_and_in_pairs_hold_only_what_they_need_and_all_of_it_learns(priors, size):
    model = attached(vit(), priors=priors)
    method = trainable_parameters(model)
    assert sum(parameter.numel() for parameter in method.values()) == 6 * size
    for _ in range(2):
        model.train()
        loss = F.cross_entropy(model(torch.randn(4, 3, 64, 64)), torch.arange(4)) + penalty(model, 0.0)
        loss.backward()
        with torch.no_grad():
            for parameter in method.values():
                parameter.sub_(0.1 * parameter.grad)
    assert not [name for name, parameter in method.items() if not parameter.grad.abs().max() > 0]


def test_a_prior_alone_is_that_solution():
    z = torch.randn(2, 17, 64)
    unit = trained_unit(priors=["poisson"], poisson_gain="exact")
    x = F.linear(z, unit.down)
    y = physics.poisson(x[:, 1:].unflatten(1, (4, 4)), unit.constants()["source"]).flatten(1, 2)
    expected = unit.scale * F.linear(torch.cat([0 * x[:, :1], y], dim=1), unit.up)
    torch.testing.assert_close(unit(z), expected, atol=1e-5, rtol=1e-5)


def test_without_a_bottleneck_the_unit_is_its_equation_with_a_gain_per_channel():
    unit = trained_unit(rank=None)
    z = torch.randn(2, 17, 64)
    a, learned = unit.mixing_weights(z), unit.constants()
    k, c, t = (learned[name] for name in ("diffusivity", "speed", "time"))
    largest = unit.basis.inverse_laplace.max() * (math.pi / 4) ** 2  # 1 for the exact gain, (pi / 4)^2 for the unit one
    w = torch.stack([a[:, 0], a[:, 1], largest * a[:, 2]], dim=1)
    y = physics.mixture(z[:, 1:].unflatten(1, (4, 4)), k, c, t, learned["source"], w).flatten(1, 2)
    y = torch.cat([(a[:, 0] + a[:, 1])[:, None, None] * z[:, :1], y], dim=1)
    torch.testing.assert_close(unit(z), unit.scale * y * unit.up, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("num_prefix", [0, 1, 5])
@pytest.mark.parametrize("priors", [0, 1, 2])
@pytest.mark.parametrize("has_poisson", [True, False])
def test_the_written_out_gradient_is_the_derivative(num_prefix, priors, has_poisson):
    on = physics.basis(3, 4, dtype=torch.float64, device=torch.device("cpu"))
    shapes = [(2, num_prefix + 12, 2), (2, priors), (priors, 3, 4, 2), (2, 1), (3, 4, 2)]
    generator = torch.Generator().manual_seed(0)
    given = [torch.randn(shape, dtype=torch.float64, generator=generator, requires_grad=True) for shape in shapes]
    if not has_poisson:
        given[3:] = [None, None]
    assert torch.autograd.gradcheck(lambda *inputs: MixtureSolve.apply(*inputs, on), given)


def test_under_autocast_the_spectrum_stays_in_full_precision():
    unit = trained_unit()
    z = torch.randn(2, 17, 64)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = unit(z)
    found.sum().backward()
    torch.testing.assert_close(found.float(), unit(z), atol=0.05, rtol=0.05)


def test_without_a_bottleneck_the_whole_width_is_solved():
    model = attached(vit(), rank=None)
    per_block = 64 + 3 * 64 + 16 + 3 * 64 + 3
    assert sum(parameter.numel() for parameter in trainable_parameters(model).values()) == 6 * per_block
    assert model(torch.randn(1, 3, 64, 64)).shape == (1, 10)


def test_the_static_router_gives_every_image_the_same_weights_and_the_dynamic_its_own():
    x = torch.randn(5, 17, 8)
    static, dynamic = trained_unit(router="static"), trained_unit(router="dynamic")
    assert static.route is None
    assert static.mixing_weights(x).shape == (1, 3)
    assert len(dynamic.mixing_weights(x).unique(dim=0)) == 5
    torch.testing.assert_close(dynamic.mixing_weights(x).sum(1), torch.ones(5))


def test_the_route_penalty_is_the_divergence_from_uniform_and_ends_at_half_time():
    model = attached(vit(), route_weight=0.5).train()
    units = [module for module in model.modules() if isinstance(module, Unit)]
    with torch.no_grad():
        for unit in units:
            unit.route_bias.copy_(torch.tensor([2.0, 0.0, -1.0]) / unit.physics_rate)
    a = torch.softmax(torch.tensor([2.0, 0.0, -1.0]), dim=0)
    divergence = float((a * torch.log(a / (1 / 3))).sum())
    for progress, share in [(0.0, 1.0), (0.25, 0.5), (0.5, 0.0), (0.9, 0.0)]:
        model(torch.randn(2, 3, 64, 64))
        assert float(penalty(model, progress).detach()) == pytest.approx(0.5 * share * divergence, rel=1e-5)


def test_a_grid_of_one_token_is_solved_too():
    convnext = timm.create_model("test_convnext", pretrained_cfg_overlay={"input_size": (3, 32, 32)}, num_classes=3)
    assert find_blocks(convnext)[-1].grid == (1, 1)
    assert attached(convnext).train()(torch.randn(2, 3, 32, 32)).isfinite().all()


def test_every_stage_of_a_hierarchical_backbone_has_units_on_its_own_grid():
    swin = timm.create_model(
        "swin_tiny_patch4_window7_224", img_size=64, window_size=4, embed_dim=16, depths=(1, 2), num_heads=(2, 4)
    )
    convnext = timm.create_model("test_convnext", pretrained_cfg_overlay={"input_size": (3, 96, 64)})
    assert [place.grid for place in find_blocks(swin)] == [(16, 16), (8, 8), (8, 8)]
    assert [place.grid for place in find_blocks(convnext)][:1] == [(24, 16)]
    for position, (model, image) in product(POSITIONS, ((swin, (64, 64)), (convnext, (96, 64)))):
        model = attached(copy.deepcopy(model), position=position)
        assert model(torch.randn(1, 3, *image)).shape[0] == 1


@pytest.mark.parametrize(
    ("model", "settings", "words"),
    [
        (lambda: timm.create_model("test_resnet"), {}, r"ResNet has no blocks.*choose a vision transformer"),
        (lambda: timm.create_model("test_vit", dynamic_img_size=True, img_size=64), {}, None),
        (vit, {"rank": 65}, r"rank=65 is above the backbone's width 64"),
        (vit, {"rank": 0}, r"rank=0.*at least 1"),
        (vit, {"priors": []}, r"priors=\[\].*heat, wave, poisson"),
        (vit, {"priors": ["heat", "heat"]}, r"each once"),
        (vit, {"priors": ["diffusion"]}, r"'diffusion'.*heat, wave, poisson"),
        (lambda: attached(vit()), {}, r"has MoPPA units already"),
    ],
)
def test_what_cannot_be_attached_is_said(model, settings, words):
    if words is None:
        attached(model(), **settings)
        return
    with pytest.raises(UserError, match=words):
        attached(model(), **settings)


def test_another_image_size_than_the_grid_was_made_for_is_said():
    model = attached(timm.create_model("test_vit", dynamic_img_size=True, img_size=64))
    with pytest.raises(UserError, match=r"26 tokens.*grid of 4 x 4.*image size"):
        model(torch.randn(1, 3, 80, 80))


@pytest.mark.parametrize("router", ["static", "dynamic"])
@pytest.mark.parametrize("position", ["residual", "attn_input"])
def test_folding_computes_the_filters_once_and_keeps_the_logits(router, position, monkeypatch):
    model = attached(vit(), router=router, position=position)
    with torch.no_grad():
        for unit in (module for module in model.modules() if isinstance(module, Unit)):
            unit.up.normal_(std=0.1)
            unit.route_bias.normal_()
    images = torch.randn(4, 3, 64, 64)
    with torch.no_grad():
        expected = model.eval()(images)
        merge(model)
        monkeypatch.setattr(Unit, "filters", lambda self: pytest.fail("the filters were built again"))
        torch.testing.assert_close(model(images), expected, atol=1e-5, rtol=0)


def test_a_unit_tells_its_mean_mixing_weights_and_constants():
    model = attached(vit()).train()
    before = collect_diagnostics(model, is_last=False)
    for _ in range(3):
        model(torch.randn(2, 3, 64, 64))
        penalty(model, 0.0)
    told = collect_diagnostics(model, is_last=False)
    assert {name.rpartition("/")[2] for name in told} == {"route", "diffusivity", "speed", "time"}
    assert len(told) == 6 * 4
    for name, value in told.items():
        if name.endswith("/route"):
            assert torch.equal(before[name], torch.zeros(3))
            torch.testing.assert_close(value, torch.full((3,), 1 / 3))
        else:
            torch.testing.assert_close(value, torch.full((8,), SETTINGS["start"][name.rpartition("/")[2]]))
    assert {
        tuple(value.shape) for name, value in collect_diagnostics(model, is_last=True).items() if "source" in name
    } == {(4, 4)}
    assert all(
        not value.any() for name, value in collect_diagnostics(model, is_last=False).items() if name.endswith("/route")
    )


@pytest.mark.slow  # a compiler at work
def test_the_unit_compiles_without_graph_breaks():
    """In a process of its own: the tests' type checks would be compiled too."""
    program = """
import timm, torch
from moppa.mixture import attach
model = timm.create_model("test_vit", img_size=64, num_classes=10)
attach(model, **SETTINGS, generator=None)
for mode in (model.train(), model.eval()):
    assert torch._dynamo.explain(mode)(torch.randn(2, 3, 64, 64)).graph_break_count == 0
    torch._dynamo.reset()
print("no graph breaks")
"""
    done = subprocess.run(
        [sys.executable, "-c", program.replace("SETTINGS", repr(SETTINGS))], cwd=ROOT, capture_output=True, text=True
    )
    assert done.stdout == "no graph breaks\n", done.stderr
