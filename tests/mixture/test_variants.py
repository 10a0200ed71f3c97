"""Laws of a method, for MoPPA with settings that are not its defaults."""

import pytest
import torch
import torch.nn.functional as F

import moppa
from moppa.mixture import physics
from moppa.mixture.settings import POSITIONS, parse_settings
from moppa.peft.collect import collect_diagnostics, penalty, trainable_parameters
from moppa.peft.inject import merge
from moppa.sweep.expand import expand_cells
from tests.conftest import CONFIGS
from tests.mixture.models import SETTINGS, attach_to, random_unit, units_in, vit
from tests.models import frozen_model

ALL_PRIORS = ["identity", "heat", "wave", "poisson"]
VARIANTS = {
    "position": {"position": "attn_parallel", "priors": ALL_PRIORS},
    "frequency": {"position": "qv", "priors": ALL_PRIORS, "constants_per": "frequency"},
    "damped": {"position": "mlp_parallel", "damping": 0.1, "priors": ["identity", "wave"]},
    "gate": {"position": "attn_parallel", "gate": True, "router": "static"},
    "near identity": {"start": {"diffusivity": 0.01, "speed": 0.01, "time": 1.0}, "physics_rate": 10.0},
    "full width": {"position": "qv", "rank": None, "priors": ["identity", "heat"], "damping": None},
}
YAMLS = sorted(path.stem for path in (CONFIGS / "variant").glob("*.yaml"))


def test_every_variant_of_the_configs_is_a_valid_setting_of_its_own():
    cells = expand_cells(CONFIGS, ["task=eurosat", "method=moppa", f"+variant={','.join(YAMLS)}"])
    settings = [{**cell["method"]["attach"]} for cell in cells]
    for variant in settings:
        variant.pop("_target_")
        assert variant.keys() == SETTINGS.keys()
        parse_settings(variant)
    assert all(settings.count(variant) == 1 for variant in settings)


@pytest.mark.parametrize(
    ("name", "backbone"),
    [
        ("position", "registers"),
        ("frequency", "swin"),
        ("frequency", "no prefix"),
        ("damped", "convnext"),
        ("gate", "swin"),
        ("near identity", "class token"),
        ("full width", "class token"),
    ],
)
def test_training_starts_from_the_stock_logits_trains_every_tensor_and_merges(name, backbone):
    stock, model = frozen_model(backbone), attach_to(frozen_model(backbone), **VARIANTS[name])
    images, labels = torch.randn(3, 3, 64, 64), torch.arange(3)
    with torch.no_grad():
        assert torch.equal(model.eval()(images), stock.eval()(images))
    optimizer = torch.optim.AdamW(trainable_parameters(model).values(), lr=1e-2)
    largest = dict.fromkeys(trainable_parameters(model), 0.0)
    for _ in range(2):
        optimizer.zero_grad()
        (F.cross_entropy(model.train()(images), labels) + penalty(model, 0.0)).backward()
        for parameter, tensor in trainable_parameters(model).items():
            largest[parameter] = max(largest[parameter], float(tensor.grad.abs().max()))
        optimizer.step()
    without_gradient = [parameter for parameter, size in largest.items() if size == 0]
    # a head that reads one token, or the mean of all, sees only the zero frequency of a unit beside the last attention
    [*_, last] = (path for path, module in model.named_modules() if path.endswith((".unit", ".units.q")))
    assert all(parameter.startswith(last) for parameter in without_gradient)
    assert all(".operator." in parameter or ".router." in parameter for parameter in without_gradient)
    with torch.no_grad():
        expected = model.eval()(images)
        torch.testing.assert_close(merge(model)(images), expected, atol=1e-5, rtol=0)


@pytest.mark.parametrize(
    ("settings", "num_parameters"),
    [
        ({"priors": ["identity"]}, 6 * 2 * 64 * 8),
        ({"priors": ["identity"], "position": "qv"}, 6 * 2 * 2 * 64 * 8),
        ({"priors": ALL_PRIORS, "router": "static"}, 6 * (2 * 64 * 8 + 24 + 16 + 4)),
        ({"priors": ["identity", "heat"], "position": "qv"}, 12 * (2 * 64 * 8 + 16 + 2 * 8 + 2)),
        ({"priors": ["wave"], "damping": 0.1}, 6 * (2 * 64 * 8 + 16 + 16)),
        ({"priors": ["heat"], "gate": True}, 6 * (2 * 64 * 8 + 16 + 64 + 24)),
        ({"priors": ["heat"], "constants_per": "frequency"}, 6 * (2 * 64 * 8 + 16 + 64) + 16 * 8),
    ],
)
def test_each_part_has_its_number_of_parameters(settings, num_parameters):
    parameters = trainable_parameters(attach_to(vit(), **settings))
    assert sum(parameter.numel() for parameter in parameters.values()) == num_parameters


def test_the_unit_with_every_part_is_its_equation():
    unit = random_unit(priors=ALL_PRIORS, constants_per="frequency", damping=0.5, gate=True, poisson_gain="exact")
    z, operator, gate = torch.randn(3, 17, 64), unit.operator, unit.gate
    x = F.linear(z, unit.down)
    a = torch.softmax(x.mean(1) @ unit.router.weight.T + unit.router.bias, dim=1)[:, :, None, None, None]

    def constant(name, start, embedding=None):
        part = operator.positive[name]
        offset = part.offset if embedding is None else embedding @ part.weight.T + part.offset
        return F.softplus(torch.log(torch.expm1(torch.tensor(start))) + offset)

    e = operator.positive["speed"].embedding.values
    assert e is operator.positive["diffusivity"].embedding.values
    k, c = constant("diffusivity", 1.0, e), constant("speed", 1.0, e)
    t, damping, source = constant("time", 1.0), constant("damping", 0.5), 1 + operator.source
    assert k.shape == (4, 4, 8)
    grid = x[:, 1:].unflatten(1, (4, 4))
    solutions = (
        grid,
        physics.heat(grid, k, t),
        physics.damped_wave(grid, c, t, damping, operator.velocity),
        physics.poisson(grid, source),
    )
    y = sum(a[:, i] * solution for i, solution in enumerate(solutions)).flatten(1, 2)
    at_zero = physics.damped_wave_gain(torch.zeros(1, 1), c[0, 0], t, damping, operator.velocity)[0]
    prefix = (a[:, 0, 0] + a[:, 1, 0] + a[:, 2, 0] * at_zero) * x[:, :1]
    y = torch.cat([prefix, y], dim=1)
    y = F.layer_norm(y, (8,), gate.norm.weight, gate.norm.bias) * F.silu(x @ gate.weight.T + gate.bias)
    torch.testing.assert_close(unit(z), F.linear(y, unit.scale * unit.up), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("position", POSITIONS)
def test_heat_and_wave_with_tiny_constants_are_the_identity(position):
    """The control is the limit of the operator at k t = c t = 0."""
    start = {"diffusivity": 1e-6, "speed": 1e-6, "time": 1.0}
    outputs = []
    for settings in ({"priors": ["identity"]}, {"priors": ["identity", "heat", "wave"], "start": start}):
        model = attach_to(vit_of_seed_0(), position=position, **settings)
        for unit in units_in(model):
            torch.nn.init.normal_(unit.up, std=0.1, generator=torch.Generator().manual_seed(0))
        with torch.no_grad():
            outputs.append(model.eval()(torch.ones(2, 3, 64, 64).tril()))
    torch.testing.assert_close(outputs[0], outputs[1], atol=1e-4, rtol=1e-4)


def vit_of_seed_0():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return vit()


def test_a_saved_adapter_with_a_shared_embedding_loads(tmp_path):
    settings = {"constants_per": "frequency", "position": "qv", "gate": True, "damping": 0.1}
    model = moppa.attach(vit_of_seed_0(), **settings)
    with torch.no_grad():
        for unit in units_in(model):
            for parameter in unit.parameters():
                parameter.add_(0.1 * torch.randn_like(parameter))
    moppa.save(model, tmp_path / "adapter.safetensors")
    loaded = moppa.load(vit_of_seed_0(), tmp_path / "adapter.safetensors")
    images = torch.randn(2, 3, 64, 64)
    assert torch.equal(loaded.eval()(images), model.eval()(images))


def test_diagnostics_of_constants_per_frequency_are_their_means():
    model = attach_to(vit(), constants_per="frequency", damping=0.1, position="qv")
    diagnostics = collect_diagnostics(model, is_last=True)
    shapes = {name.rpartition("/")[2]: tuple(value.shape) for name, value in diagnostics.items()}
    per_channel = dict.fromkeys(["diffusivity", "speed", "time", "damping", "velocity"], (8,))
    assert shapes == {"route": (3,), **per_channel, "source": (4, 4), "response": (4, 4)}
    assert len(diagnostics) == 12 * len(shapes)
