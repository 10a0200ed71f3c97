"""NOLA against a sum of its random matrices, and where these come from."""

import pytest
import torch

from baselines import nola
from moppa.peft.collect import trainable_parameters
from moppa.utils.errors import SettingError
from tests.baselines.low_rank import TARGETS, assert_close, attached, backward, perturbed, vit

SETTINGS = {"rank": 3, "num_bases": 7, "scale": 2, "targets": TARGETS, "bases_seed": 5}


def test_nola_is_a_sum_of_random_matrices():
    model, reference = perturbed(attached(nola, **SETTINGS), size=1.0), vit()
    reference.head.load_state_dict(model.head.state_dict())
    coefficients = {}
    for before, after in zip(reference.blocks, model.blocks, strict=True):
        for old, new in (
            (before.attn.qkv, after.attn.qkv),
            (before.attn.proj, after.attn.proj),
            (before.mlp.fc1, after.mlp.fc1),
            (before.mlp.fc2, after.mlp.fc2),
        ):
            [delta] = new.parametrizations.weight
            copies = [parameter.detach().clone().requires_grad_() for parameter in (delta.alpha, delta.beta)]
            coefficients |= dict(zip((delta.alpha, delta.beta), copies, strict=True))
            count, d_in = len(delta.alpha), old.in_features
            d_out = old.out_features // count
            a = getattr(delta.bases, f"down_{d_in}").view(7, 3, d_in)
            b = getattr(delta.bases, f"up_{d_out}").view(7, d_out, 3)
            update = torch.einsum("pi,pj,ird,jor->pod", *copies, a, b).reshape(old.weight.shape)
            frozen = old.weight
            del old.weight
            old.weight = frozen + 2 / 3 * update
    assert_close(backward(model), backward(reference))
    assert len(coefficients) == 2 * 4 * 2
    for parameter, leaf in coefficients.items():
        assert leaf.grad.abs().max() > 1e-4
        assert_close(parameter.grad, leaf.grad)


def test_all_layers_share_one_set_of_bases_which_is_never_saved():
    model = attached(nola, **SETTINGS)
    [bases] = {module for module in model.modules() if isinstance(module, nola.Bases)}
    assert {name: tuple(basis.shape) for name, basis in bases.named_buffers()} == {
        "down_64": (7, 192),
        "down_192": (7, 576),
        "up_64": (7, 192),
        "up_192": (7, 576),
    }
    assert not [name for name in model.state_dict() if "bases" in name]
    assert not [name for name in trainable_parameters(model) if "bases" in name]
    for basis in bases.buffers():
        bound = basis.shape[1] ** -0.5
        assert 0.95 * bound < basis.abs().max() <= bound
        assert basis.unique().numel() > 0.99 * basis.numel()


def test_the_bases_depend_on_their_own_seed_only():
    def delta(seed=0, **settings):
        model = attached(nola, seed=seed, **{**SETTINGS, **settings})
        return model.blocks[0].mlp.fc1.parametrizations.weight[0]

    before = torch.get_rng_state()
    one, same, other = delta(), delta(seed=1, targets=["fc1"]), delta(bases_seed=6)
    assert torch.equal(torch.get_rng_state(), before)
    assert torch.equal(one.bases.down_64, same.bases.down_64)
    assert torch.equal(one.bases.up_192, same.bases.up_192)
    assert not torch.equal(one.alpha, same.alpha)
    assert not torch.equal(one.bases.down_64, other.bases.down_64)
    assert torch.equal(one.alpha, other.alpha)


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ({"rank": 65}, r"^rank=65 .*64"),
        ({"num_bases": 0}, r"^num_bases=0: .*at least 1"),
        ({"bases_seed": -1}, r"^bases_seed=-1: .*at least 0"),
        ({"scale": 0}, r"^scale=0: .*above 0"),
        ({"targets": []}, r"^targets=\[\]"),
    ],
)
def test_a_bad_setting_is_named(setting, message):
    with pytest.raises(SettingError, match=message):
        attached(nola, **{**SETTINGS, **setting})
