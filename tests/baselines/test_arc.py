"""ARC against its paper's equation, and its merged weights."""

import copy

import pytest
import torch
from torch import einsum

from baselines import arc
from moppa.peft.collect import trainable_parameters
from moppa.peft.inject import merge
from moppa.utils.errors import UserError
from tests.baselines.equations import (
    assert_equal_to,
    assert_masks_pass_through,
    assert_setting_is_named,
    attached,
    forward,
    images,
    seeded,
    vit,
)

SETTINGS = {"rank": 6, "positions": ["attn", "mlp"]}
LAYERS = {"attn": "attn.qkv", "mlp": "mlp.fc1"}


def path(depth, position):
    return f"blocks.{depth}.{LAYERS[position]}.parametrizations.bias.0.adapter"


def equation(stock, positions):
    """Returns a function of the trainable tensors: all blocks read the projections of the first one."""

    def logits(p):
        def adapted(depth, position, z):
            if position not in positions:
                return z
            projection, own = p[f"{path(0, position)}.shared.weight"], path(depth, position)
            hidden = einsum("bnc,rc->bnr", z, projection) * p[f"{own}.scale"]
            return z + einsum("bnr,rc->bnc", hidden, projection) + p[f"{own}.bias"]

        return forward(
            stock,
            lambda depth, block, z: block.attn(adapted(depth, "attn", z)),
            lambda depth, block, z: block.mlp(adapted(depth, "mlp", z)),
        )

    return logits


@pytest.mark.parametrize("positions", [["attn", "mlp"], ["attn"]])
def test_arc_is_a_rescaled_shared_projection_before_attention_and_before_the_mlp(positions):
    model = attached(arc.attach, {**SETTINGS, "positions": positions})
    assert len(trainable_parameters(model)) == len(positions) * (1 + 2 * 2)
    assert_equal_to(model, equation(vit(), positions))


def test_the_merged_model_is_plain_and_a_copy_shares_its_own_projection():
    stock, model = vit(), attached(arc.attach, SETTINGS)
    twin, expected = copy.deepcopy(model), model(images())
    first, last = (block.mlp.fc1.parametrizations.bias[0].adapter for block in twin.blocks)
    assert first.shared is last.shared
    assert first.shared is not model.get_submodule(path(0, "mlp")).shared
    torch.testing.assert_close(twin(images()), expected, atol=1e-12, rtol=0)
    stock.load_state_dict(merge(model).state_dict(), strict=True)
    torch.testing.assert_close(stock(images()), expected, atol=1e-10, rtol=0)


def test_an_attention_mask_passes_through():
    assert_masks_pass_through(arc.attach, SETTINGS)


@pytest.mark.parametrize(
    ("setting", "message"),
    [({"rank": 0}, r"^rank=0"), ({"positions": ["q"]}, r"^positions='q'.*attn, mlp")],
)
def test_a_bad_setting_is_named(setting, message):
    assert_setting_is_named(arc.attach, {**SETTINGS, **setting}, message)


def test_a_model_without_biases_is_named():
    with pytest.raises(UserError, match="VisionTransformer"):
        arc.attach(vit(qkv_bias=False), **SETTINGS, generator=seeded())
