"""AdaptFormer against its equation, with the tokens before and after the norm."""

import copy

import pytest
import timm
import torch
from torch import einsum

from baselines import adaptformer
from moppa.utils.errors import UserError
from tests.baselines.equations import (
    BOTTLENECK,
    assert_equal_to,
    assert_masks_pass_through,
    assert_setting_is_named,
    attached,
    forward_with_tokens,
    seeded,
    vit,
)
from tests.models import frozen_model

SETTINGS = {
    "bottleneck": BOTTLENECK,
    "activation": "relu",
    "scale": 0.1,
    "init": "kaiming_uniform",
    "dropout": 0.0,
    "reads": "before_norm",
}


@pytest.mark.parametrize("reads", ["before_norm", "after_norm"])
def test_adaptformer_computes_its_equation(reads):
    stock, model = vit(), attached(adaptformer.attach, {**SETTINGS, "reads": reads})

    def equation(p):
        def mlp(depth, block, x, z):
            path, read = f"blocks.{depth}.mlp.adapter.", x if reads == "before_norm" else z
            hidden = (einsum("bnc,hc->bnh", read, p[path + "down"]) + p[path + "down_bias"]).clamp(min=0)
            return block.mlp(z) + 0.1 * (einsum("bnh,ch->bnc", hidden, p[path + "up"]) + p[path + "up_bias"])

        return forward_with_tokens(stock, mlp)

    assert_equal_to(model, equation)


@pytest.mark.parametrize("reads", ["before_norm", "after_norm"])
def test_every_mlp_of_a_swin_has_an_adapter_that_reads_its_tokens(reads):
    model = frozen_model("swin").double()
    stock = copy.deepcopy(model)
    adaptformer.attach(model, **{**SETTINGS, "reads": reads}, generator=seeded())
    block, block_of_stock = model.layers[1].blocks[0], stock.layers[1].blocks[0]
    adapter = block.mlp.adapter.double()
    torch.nn.init.normal_(adapter.up, generator=seeded())
    x = torch.randn(1, 8, 8, 32, generator=seeded(), dtype=torch.float64)
    middle = x + block_of_stock._attn(block_of_stock.norm1(x))
    z = block_of_stock.norm2(middle)
    expected = middle + block_of_stock.mlp(z) + adapter(middle if reads == "before_norm" else z)
    torch.testing.assert_close(block(x), expected, rtol=0, atol=1e-12)


def test_a_block_whose_norm_comes_last_has_no_tokens_before_it():
    model = timm.create_model("test_vit", block_fn=timm.models.vision_transformer.ResPostBlock, init_values=1.0)
    with pytest.raises(UserError, match=r"reads=before_norm: ResPostBlock .*use after_norm"):
        adaptformer.attach(model, **SETTINGS, generator=seeded())
    adaptformer.attach(model, **{**SETTINGS, "reads": "after_norm"}, generator=seeded())


def test_an_attention_mask_passes_through():
    assert_masks_pass_through(adaptformer.attach, SETTINGS)


@pytest.mark.parametrize(
    ("setting", "message"),
    [({"bottleneck": 0}, r"^bottleneck=0"), ({"reads": "norm"}, r"^reads='norm'.*before_norm, after_norm")],
)
def test_a_bad_setting_is_named(setting, message):
    assert_setting_is_named(adaptformer.attach, {**SETTINGS, **setting}, message)
