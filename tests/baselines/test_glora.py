"""GLoRA against its paper's equation, and its merged weights."""

import copy

import pytest
import torch
import torch.nn.functional as F
from torch import einsum

from baselines import glora
from moppa.peft.inject import merge
from moppa.utils.errors import UserError
from tests.baselines.equations import (
    assert_equal_to,
    assert_masks_pass_through,
    assert_setting_is_named,
    attached,
    images,
    seeded,
    vit,
)

SETTINGS = {"rank": 3, "targets": ["qkv", "proj", "fc1", "fc2"]}


def test_glora_is_its_equation_and_merges():
    stock, model = vit(), attached(glora.attach, SETTINGS)

    def equation(p):
        def linear(path, x):
            layer = stock.get_submodule(path)
            weight, bias = f"{path}.parametrizations.weight.0", f"{path}.parametrizations.bias.0"
            a = einsum("or,ri->oi", p[f"{weight}.scale_up"], p[f"{weight}.scale_down"])
            b = einsum("or,ri->oi", p[f"{weight}.up"], p[f"{weight}.down"])
            c = einsum("ir,rp->i", p[f"{bias}.prompt_up"], p[f"{bias}.prompt_down"])
            d, e = p[f"{bias}.scale"], p[f"{bias}.shift"]
            shared = einsum("oi,...i->...o", layer.weight, x + c)  # W x + W C
            return shared + einsum("oi,...i->...o", layer.weight * a + b, x) + (1 + d) * layer.bias + e

        x = stock.norm_pre(stock._pos_embed(stock.patch_embed(images())))
        for depth, block in enumerate(stock.blocks):
            path = f"blocks.{depth}"
            qkv = linear(f"{path}.attn.qkv", block.norm1(x))
            q, k, v = qkv.unflatten(-1, (3, block.attn.num_heads, -1)).permute(2, 0, 3, 1, 4)
            attention = (q @ k.transpose(-1, -2) * q.shape[-1] ** -0.5).softmax(dim=-1)
            x = x + block.ls1(linear(f"{path}.attn.proj", (attention @ v).transpose(1, 2).flatten(2)))
            x = x + block.ls2(linear(f"{path}.mlp.fc2", F.gelu(linear(f"{path}.mlp.fc1", block.norm2(x)))))
        return stock.forward_head(stock.norm(x))

    assert_equal_to(model, equation)
    expected = model(images())
    torch.testing.assert_close(copy.deepcopy(model)(images()), expected, atol=1e-12, rtol=0)
    plain = vit()
    plain.load_state_dict(merge(model).state_dict(), strict=True)
    torch.testing.assert_close(plain(images()), expected, atol=1e-10, rtol=0)


def test_an_attention_mask_passes_through():
    assert_masks_pass_through(glora.attach, SETTINGS)


@pytest.mark.parametrize(
    ("setting", "message"),
    [({"rank": 0}, r"^rank=0"), ({"rank": 65}, r"^rank=65"), ({"targets": ["w"]}, r"^targets='w'")],
)
def test_a_bad_setting_is_named(setting, message):
    assert_setting_is_named(glora.attach, {**SETTINGS, **setting}, message)


def test_a_model_without_biases_is_named():
    with pytest.raises(UserError, match="VisionTransformer"):
        glora.attach(vit(qkv_bias=False), **SETTINGS, generator=seeded())
