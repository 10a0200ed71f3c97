"""RepAdapter against its paper's equation, and its merged weights."""

import copy

import pytest
import torch
from torch import einsum

from baselines import repadapter
from moppa.peft.collect import trainable_parameters
from moppa.peft.inject import merge
from moppa.utils.errors import UserError
from tests.baselines.equations import (
    BOTTLENECK,
    assert_equal_to,
    assert_masks_pass_through,
    assert_setting_is_named,
    attached,
    forward,
    images,
    seeded,
    vit,
)

SETTINGS = {"bottleneck": BOTTLENECK, "groups": 2, "scale": 0.5}


@pytest.mark.parametrize("groups", [1, 2, 3])
def test_repadapter_is_a_linear_adapter_before_attention_and_before_the_mlp(groups):
    shape = {"embed_dim": 66, "num_heads": 3}
    stock, model = vit(**shape), attached(repadapter.attach, {**SETTINGS, "groups": groups}, **shape)

    def equation(p):
        def adapted(path, z):
            def parameter(name):
                return p[f"{path}.parametrizations.bias.0.adapter.{name}"]

            hidden = einsum("bnc,hc->bnh", z, parameter("down")) + parameter("down_bias")
            groups_out = [
                einsum("bnh,ch->bnc", part, up)
                for part, up in zip(hidden.chunk(groups, -1), parameter("up").chunk(groups), strict=True)
            ]
            return z + 0.5 * (torch.cat(groups_out, dim=-1) + parameter("up_bias"))

        return forward(
            stock,
            lambda depth, block, z: block.attn(adapted(f"blocks.{depth}.attn.qkv", z)),
            lambda depth, block, z: block.mlp(adapted(f"blocks.{depth}.mlp.fc1", z)),
        )

    assert_equal_to(model, equation)


def test_weight_and_bias_share_one_adapter_also_in_a_copy():
    stock, model = vit(), attached(repadapter.attach, SETTINGS)
    twin = copy.deepcopy(model)
    assert len(trainable_parameters(model)) == 2 * 2 * 4
    expected = model(images())
    for one in (twin, model):
        weight, bias = (one.blocks[0].mlp.fc1.parametrizations[name][0] for name in ("weight", "bias"))
        assert weight.adapter is bias.adapter
        assert bias.pretrained is one.blocks[0].mlp.fc1.parametrizations.weight.original
    assert twin.blocks[0].mlp.fc1.parametrizations.bias[0].pretrained is not bias.pretrained
    assert torch.equal(twin(images()), expected)
    stock.load_state_dict(merge(model).state_dict(), strict=True)
    torch.testing.assert_close(stock(images()), expected, atol=1e-12, rtol=0)


def test_the_merged_weight_and_bias_are_those_of_the_paper():
    stock, model = vit(), attached(repadapter.attach, SETTINGS)
    layer, pretrained = model.blocks[1].mlp.fc1, stock.blocks[1].mlp.fc1
    adapter = layer.parametrizations.bias[0].adapter
    up = torch.block_diag(*adapter.up.chunk(2))
    update = torch.eye(64, dtype=torch.float64) + 0.5 * up @ adapter.down
    shift = 0.5 * (up @ adapter.down_bias + adapter.up_bias)
    torch.testing.assert_close(layer.weight, pretrained.weight @ update, atol=1e-12, rtol=0)
    torch.testing.assert_close(layer.bias, pretrained.bias + pretrained.weight @ shift, atol=1e-12, rtol=0)


def test_an_attention_mask_passes_through():
    assert_masks_pass_through(repadapter.attach, SETTINGS)


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ({"bottleneck": 0}, r"^bottleneck=0"),
        ({"groups": 0}, r"^groups=0"),
        ({"groups": 4}, r"^groups=4.*bottleneck 6"),
        ({"groups": 3}, r"^groups=3.*width 64"),
        ({"scale": -1}, r"^scale=-1"),
    ],
)
def test_a_bad_setting_is_named(setting, message):
    assert_setting_is_named(repadapter.attach, {**SETTINGS, **setting}, message)


def test_a_model_without_biases_is_named():
    with pytest.raises(UserError, match="VisionTransformer"):
        repadapter.attach(vit(qkv_bias=False), **SETTINGS, generator=seeded())
