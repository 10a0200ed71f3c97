"""The MoPPA unit against its equations, for every setting of its YAML."""

import math

import pytest
import torch
import torch.nn.functional as F

from moppa.mixture import physics
from moppa.mixture.fused import MixtureSolve
from moppa.peft.collect import collect_diagnostics, penalty, trainable_parameters
from tests.mixture.models import BEFORE_ATTENTION, attach_to, random_unit, units_in, vit


def test_the_unit_is_its_equation():
    unit = random_unit(router="dynamic", poisson_gain="exact")
    rate, scale, operator = BEFORE_ATTENTION["physics_rate"], unit.scale, unit.operator
    z = torch.randn(3, 17, 64)
    x = torch.einsum("bnd,rd->bnr", z, unit.down)
    a = torch.softmax(rate * (x.mean(1) @ unit.router.weight.T + unit.router.bias), dim=1)
    start = {name: math.log(math.expm1(value)) for name, value in BEFORE_ATTENTION["start"].items()}
    k, c, t = (
        F.softplus(start[name] + rate * operator.positive[name].offset) for name in ("diffusivity", "speed", "time")
    )
    grid = x[:, 1:].reshape(3, 4, 4, 8)
    y = physics.mixture(grid, k, c, t, 1 + rate * operator.source, a).reshape(3, 16, 8)
    y = torch.cat([(a[:, 0] + a[:, 1])[:, None, None] * x[:, :1], y], dim=1)
    expected = scale * torch.einsum("bnr,dr->bnd", y, unit.up)
    torch.testing.assert_close(unit(z), expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize(
    ("priors", "num_parameters"),
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
def test_any_set_of_priors_has_only_the_parameters_it_needs_and_trains_them_all(priors, num_parameters):
    model = attach_to(vit(), priors=priors)
    parameters = trainable_parameters(model)
    assert sum(parameter.numel() for parameter in parameters.values()) == 6 * num_parameters
    for _ in range(2):
        model.train()
        loss = F.cross_entropy(model(torch.randn(4, 3, 64, 64)), torch.arange(4)) + penalty(model, 0.0)
        loss.backward()
        with torch.no_grad():
            for parameter in parameters.values():
                parameter.sub_(0.1 * parameter.grad)
    assert not [name for name, parameter in parameters.items() if not parameter.grad.abs().max() > 0]


def test_a_single_prior_is_its_solution():
    z = torch.randn(2, 17, 64)
    unit = random_unit(priors=["poisson"], poisson_gain="exact")
    x = F.linear(z, unit.down)
    y = physics.poisson(x[:, 1:].unflatten(1, (4, 4)), unit.operator.constants()["source"]).flatten(1, 2)
    expected = unit.scale * F.linear(torch.cat([0 * x[:, :1], y], dim=1), unit.up)
    torch.testing.assert_close(unit(z), expected, atol=1e-5, rtol=1e-5)


def test_without_a_bottleneck_the_unit_is_its_equation_with_one_gain_per_channel():
    unit = random_unit(rank=None)
    z = torch.randn(2, 17, 64)
    a, constants = unit.router.mixing_weights(z), unit.operator.constants()
    k, c, t = (constants[name] for name in ("diffusivity", "speed", "time"))
    max_gain = unit.operator.basis.inverse_laplace.max() * (math.pi / 4) ** 2  # 1 for "exact", (pi / 4)^2 for "unit"
    weights = torch.stack([a[:, 0], a[:, 1], max_gain * a[:, 2]], dim=1)
    y = physics.mixture(z[:, 1:].unflatten(1, (4, 4)), k, c, t, constants["source"], weights).flatten(1, 2)
    y = torch.cat([(a[:, 0] + a[:, 1])[:, None, None] * z[:, :1], y], dim=1)
    torch.testing.assert_close(unit(z), unit.scale * y * unit.up, atol=1e-5, rtol=1e-5)


def test_without_a_bottleneck_the_unit_has_the_full_width():
    model = attach_to(vit(), rank=None)
    num_per_block = 64 + 3 * 64 + 16 + 3 * 64 + 3
    assert sum(parameter.numel() for parameter in trainable_parameters(model).values()) == 6 * num_per_block
    assert model(torch.randn(1, 3, 64, 64)).shape == (1, 10)


@pytest.mark.parametrize("num_prefix", [0, 1, 5])
@pytest.mark.parametrize("num_priors", [0, pytest.param(1, marks=pytest.mark.slow), 2])
@pytest.mark.parametrize("has_poisson", [True, False])
def test_the_handwritten_gradient_is_the_derivative(num_prefix, num_priors, has_poisson):
    basis = physics.make_basis(3, 4, dtype=torch.float64, device=torch.device("cpu"))
    shapes = [(2, num_prefix + 12, 2), (2, num_priors), (num_priors, 3, 4, 2), (2, 1), (3, 4, 2)]
    generator = torch.Generator().manual_seed(0)
    inputs = [torch.randn(shape, dtype=torch.float64, generator=generator, requires_grad=True) for shape in shapes]
    if not has_poisson:
        inputs[3:] = [None, None]
    assert torch.autograd.gradcheck(lambda *tensors: MixtureSolve.apply(*tensors, basis), inputs)


def test_under_autocast_the_spectrum_stays_in_full_precision():
    unit = random_unit()
    z = torch.randn(2, 17, 64)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        output = unit(z)
    output.sum().backward()
    torch.testing.assert_close(output.float(), unit(z), atol=0.05, rtol=0.05)


def test_a_static_router_gives_all_images_the_same_weights_and_a_dynamic_router_one_row_each():
    x = torch.randn(5, 17, 8)
    static, dynamic = random_unit(router="static").router, random_unit(router="dynamic").router
    assert static.weight is None
    assert static(x).shape == (1, 3)
    assert len(dynamic(x).unique(dim=0)) == 5
    torch.testing.assert_close(dynamic(x).sum(1), torch.ones(5))


def test_the_route_penalty_is_the_divergence_from_uniform_and_ends_at_half_of_the_training():
    model = attach_to(vit(), route_weight=0.5).train()
    with torch.no_grad():
        for unit in units_in(model):
            unit.router.bias.copy_(torch.tensor([2.0, 0.0, -1.0]) / BEFORE_ATTENTION["physics_rate"])
    a = torch.softmax(torch.tensor([2.0, 0.0, -1.0]), dim=0)
    divergence = float((a * torch.log(a / (1 / 3))).sum())
    for progress, share in [(0.0, 1.0), (0.25, 0.5), (0.5, 0.0), (0.9, 0.0)]:
        model(torch.randn(2, 3, 64, 64))
        assert float(penalty(model, progress).detach()) == pytest.approx(0.5 * share * divergence, rel=1e-5)


def test_diagnostics_are_the_mean_mixing_weights_and_the_constants():
    model = attach_to(vit()).train()
    before = collect_diagnostics(model, is_last=False)
    for _ in range(3):
        model(torch.randn(2, 3, 64, 64))
        penalty(model, 0.0)
    diagnostics = collect_diagnostics(model, is_last=False)
    assert {name.rpartition("/")[2] for name in diagnostics} == {"route", "diffusivity", "speed", "time"}
    assert {name.rpartition("/")[0] for name in diagnostics} == {f"blocks.{depth}.norm1.unit" for depth in range(6)}
    assert len(diagnostics) == 6 * 4
    for name, value in diagnostics.items():
        if name.endswith("/route"):
            assert torch.equal(before[name], torch.zeros(3))
            torch.testing.assert_close(value, torch.full((3,), 1 / 3))
        else:
            torch.testing.assert_close(value, torch.full((8,), BEFORE_ATTENTION["start"][name.rpartition("/")[2]]))
    last = collect_diagnostics(model, is_last=True)
    assert {tuple(value.shape) for name, value in last.items() if "source" in name} == {(4, 4)}
    assert {tuple(value.shape) for name, value in last.items() if "response" in name} == {(4, 4)}
    assert all(not value.any() for name, value in last.items() if name.endswith("/route"))
