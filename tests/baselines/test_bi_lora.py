"""Bi-LoRA against its paper's equation."""

import math

import pytest
from torch import einsum

from baselines import bi_lora
from tests.baselines.equations import (
    BOTTLENECK,
    assert_equal_to,
    assert_masks_pass_through,
    assert_setting_is_named,
    attached,
    forward,
    two_levels,
    vit,
)

SETTINGS = {"rank": BOTTLENECK, "scale": 0.5, "targets": ["q", "v"]}


def test_bi_lora_computes_its_equation():
    stock, model = vit(), attached(bi_lora.attach, SETTINGS)

    def equation(p):
        def attention(depth, block, z):
            def update(index):
                down, up = (p[f"blocks.{depth}.attn.qkv.parametrizations.weight.0.{n}.{index}"] for n in ("down", "up"))
                return 0.5 * einsum("bnc,hc,dh->bnd", z, two_levels(down), two_levels(up))

            q, k, v = block.attn.qkv(z).chunk(3, dim=-1)
            heads = [matrix.unflatten(-1, (block.attn.num_heads, -1)) for matrix in (q + update(0), k, v + update(1))]
            weights = einsum("bnhd,bmhd->bhnm", heads[0], heads[1]) / math.sqrt(heads[0].shape[-1])
            return block.attn.proj(einsum("bhnm,bmhd->bnhd", weights.softmax(-1), heads[2]).flatten(2))

        return forward(stock, attention, lambda depth, block, z: block.mlp(z))

    assert_equal_to(model, equation)


def test_an_attention_mask_passes_through():
    assert_masks_pass_through(bi_lora.attach, SETTINGS)


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ({"rank": 0}, r"^rank=0"),
        ({"scale": 0}, r"^scale=0"),
        ({"targets": ["query"]}, r"^targets='query'"),
    ],
)
def test_a_bad_setting_is_named(setting, message):
    assert_setting_is_named(bi_lora.attach, {**SETTINGS, **setting}, message)
