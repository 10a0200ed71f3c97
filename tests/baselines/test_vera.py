"""VeRA against HF peft, and where its random matrices come from."""

import pytest
import torch

from baselines import vera
from moppa.utils.errors import SettingError
from tests.baselines.low_rank import TARGETS, delta_at, perturbed, vit
from tests.baselines.peft_oracle import assert_equal_to_peft, injected

SETTINGS = {"rank": 5, "d_initial": 0.1, "targets": TARGETS, "projections_seed": 3}


def attached(**settings):
    model = vit()
    vera.attach(model, **{**SETTINGS, **settings})
    return model


@pytest.mark.parametrize("targets", [("q", "v"), TARGETS], ids=["q and v", "all"])
def test_vera_is_that_of_peft(targets):
    ours = perturbed(attached(targets=targets))
    theirs, layers = injected("VeraConfig", targets, r=5, d_initial=0.1, projection_prng_key=0)
    [projections] = {module for module in ours.modules() if isinstance(module, vera.Projections)}
    pairs = []
    for key, layer in layers.items():
        delta, index = delta_at(ours, *key)
        layer.vera_A["default"].copy_(projections.down)
        layer.vera_B["default"].copy_(projections.up)
        pairs += [
            (delta.b[index], layer.vera_lambda_b["default"]),
            (delta.d[index], layer.vera_lambda_d["default"]),
        ]
    assert_equal_to_peft(ours, theirs, pairs)


def test_the_projections_are_kaimings_come_from_their_seed_and_are_never_saved():
    one, same, other = (
        attached(**settings).blocks[1].mlp.fc1.parametrizations.weight[0].projections
        for settings in ({}, {"d_initial": 1.0}, {"projections_seed": 4})
    )
    assert torch.equal(one.down, same.down)
    assert not torch.equal(one.down, other.down)
    assert {name: tuple(matrix.shape) for name, matrix in one.named_buffers()} == {"down": (5, 192), "up": (192, 5)}
    for matrix in one.buffers():
        bound = (6 / matrix.shape[1]) ** 0.5
        assert 0.95 * bound < matrix.abs().max() <= bound
    assert not [name for name in attached().state_dict() if "projections" in name]


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ({"rank": 0}, r"^rank=0: .*at least 1"),
        ({"d_initial": 0}, r"^d_initial=0: .*above 0"),
        ({"projections_seed": -1}, r"^projections_seed=-1: .*at least 0"),
    ],
)
def test_a_bad_setting_is_named(setting, message):
    with pytest.raises(SettingError, match=message):
        attached(**setting)
