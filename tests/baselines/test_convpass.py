"""Convpass against its paper's equation."""

import math

import pytest
import torch
from torch import einsum

from baselines import convpass
from tests.baselines.equations import (
    BOTTLENECK,
    assert_equal_to,
    assert_masks_pass_through,
    assert_setting_is_named,
    attached,
    forward,
    seeded,
    vit,
)

SETTINGS = {"bottleneck": BOTTLENECK, "scale": 0.5, "conv_init": "identity", "dropout": 0.0}


def test_convpass_computes_its_equation():
    stock, model = vit(), attached(convpass.attach, SETTINGS)

    def equation(p):
        def bypass(path, z):
            def parameter(name):
                return p[f"{path}.adapter.{name}"]

            hidden = einsum("bnc,hc->bnh", z, parameter("down")) + parameter("down_bias")
            hidden = hidden * torch.sigmoid(1.702 * hidden)
            # each prefix token is an image of one pixel, the patches are one of 4 x 3, and zeros surround each
            pictures = [hidden[:, None, i : i + 1] for i in range(3)] + [hidden[:, 3:].reshape(2, 4, 3, BOTTLENECK)]
            tokens = []
            for picture in pictures:
                rows, columns = picture.shape[1:3]
                padded = picture.new_zeros(2, rows + 2, columns + 2, BOTTLENECK)
                padded[:, 1:-1, 1:-1] = picture
                for i in range(rows):
                    for j in range(columns):
                        window = padded[:, i : i + 3, j : j + 3]
                        tokens.append(einsum("bijh,khij->bk", window, parameter("conv")) + parameter("conv_bias"))
            hidden = torch.stack(tokens, dim=1)
            hidden = hidden * torch.sigmoid(1.702 * hidden)
            return 0.5 * (einsum("bnh,ch->bnc", hidden, parameter("up")) + parameter("up_bias"))

        return forward(
            stock,
            lambda depth, block, z: block.attn(z) + bypass(f"blocks.{depth}.attn", z),
            lambda depth, block, z: block.mlp(z) + bypass(f"blocks.{depth}.mlp", z),
        )

    assert_equal_to(model, equation)


def test_an_attention_mask_passes_through():
    assert_masks_pass_through(convpass.attach, SETTINGS)


def test_the_kernel_starts_as_identity_or_xavier_uniform():
    model = vit()
    convpass.attach(model, **SETTINGS, generator=seeded())
    image = torch.randn(1, BOTTLENECK, 4, 3, generator=seeded())
    conv = model.blocks[0].attn.adapter.conv
    torch.testing.assert_close(torch.conv2d(image, conv, padding=1), image)
    model = vit()
    convpass.attach(model, **{**SETTINGS, "conv_init": "xavier_uniform"}, generator=seeded())
    bound = math.sqrt(6 / (2 * 9 * BOTTLENECK))
    assert 0.9 * bound < model.blocks[0].attn.adapter.conv.abs().max() <= bound


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ({"bottleneck": 0}, r"^bottleneck=0"),
        ({"scale": 0.0}, r"^scale=0\.0"),
        ({"conv_init": "zeros"}, r"^conv_init='zeros'.*identity"),
        ({"dropout": True}, r"^dropout=True"),
    ],
)
def test_a_bad_setting_is_named(setting, message):
    assert_setting_is_named(convpass.attach, {**SETTINGS, **setting}, message)
