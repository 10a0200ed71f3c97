"""RLRR against its paper's equation, and its merged weights."""

import pytest
import torch
import torch.nn.functional as F
from torch import einsum

from baselines import rlrr
from moppa.peft.collect import trainable_parameters
from moppa.peft.inject import merge
from moppa.utils.errors import SettingError, UserError
from tests.baselines.equations import assert_equal_to, assert_masks_pass_through, attached, images, seeded, vit


def equation(stock):
    """Returns a function of the trainable tensors; q, k and v are three layers, as in the authors' code."""

    def logits(p):
        def linear(path, x, rows=slice(None), index=0):
            layer, own = stock.get_submodule(path), f"{path}.parametrizations"
            left, right = p[f"{own}.weight.0.left"][rows], p[f"{own}.weight.0.right"][index]
            weight = layer.weight[rows] + einsum("oi,o,i->oi", layer.weight[rows], left, right)
            return einsum("...i,oi->...o", x, weight) + layer.bias[rows] + p[f"{own}.bias.0.shift"][rows]

        def scaled(path, y):
            own = f"{path}.parametrizations.weight.0.scale", f"{path}.parametrizations.bias.0.shift"
            return y * p[own[0]] + p[own[1]]

        def heads(x):
            return x.unflatten(-1, (stock.blocks[0].attn.num_heads, -1)).transpose(1, 2)

        patches = stock.patch_embed.proj(images()).permute(0, 2, 3, 1)  # as timm, which embeds the position of a grid
        x = stock._pos_embed(scaled("patch_embed.proj", patches))
        for depth, block in enumerate(stock.blocks):
            path, dim = f"blocks.{depth}", x.shape[-1]
            z = scaled(f"{path}.norm1", block.norm1(x))
            q, k, v = (
                heads(linear(f"{path}.attn.qkv", z, slice(index * dim, (index + 1) * dim), index)) for index in range(3)
            )
            attention = (q @ k.transpose(-1, -2) * q.shape[-1] ** -0.5).softmax(dim=-1)
            x = x + block.ls1(linear(f"{path}.attn.proj", (attention @ v).transpose(1, 2).flatten(2)))
            z = scaled(f"{path}.norm2", block.norm2(x))
            x = x + block.ls2(linear(f"{path}.mlp.fc2", F.gelu(linear(f"{path}.mlp.fc1", z))))
        return stock.forward_head(scaled("norm", stock.norm(x)))

    return logits


def test_rlrr_is_a_residual_rescaling_of_every_weight_and_a_shift_of_every_bias():
    stock, model = vit(), attached(rlrr.attach, {"norms": True})
    assert_equal_to(model, equation(stock))
    expected = model(images())
    stock.load_state_dict(merge(model).state_dict(), strict=True)
    torch.testing.assert_close(stock(images()), expected, atol=1e-10, rtol=0)


def test_without_norms_only_linear_layers_of_blocks_are_rescaled():
    names = trainable_parameters(attached(rlrr.attach, {"norms": False}))
    assert len(names) == 2 * 4 * 3
    assert not [name for name in names if "norm" in name or "patch_embed" in name]


def test_an_attention_mask_passes_through():
    assert_masks_pass_through(rlrr.attach, {"norms": True})


def test_a_bad_setting_and_a_model_without_biases_are_named(unchecked):
    model = vit()
    with pytest.raises(SettingError, match=r"^norms='all': it must be true or false"):
        rlrr.attach(model, norms="all", generator=seeded())
    assert not trainable_parameters(model)
    with pytest.raises(UserError, match="VisionTransformer"):
        rlrr.attach(vit(qkv_bias=False), norms=True, generator=seeded())
