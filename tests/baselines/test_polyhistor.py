"""Polyhistor-Lite against its equation, on one width and on the widths of a Swin."""

import pytest
import torch

from baselines import polyhistor
from moppa.peft.collect import trainable_parameters
from tests.baselines.equations import (
    assert_equal_to,
    assert_masks_pass_through,
    assert_setting_is_named,
    attached,
    forward,
    gelu,
    seeded,
    vit,
)
from tests.baselines.families import SWIN, stock_model

SETTINGS = {"bottleneck": 6, "rank": 2, "embedding": 5}


def generated(tensors, place, matrix):
    """Returns a matrix (6, d) of the adapter at a place, entry by entry from sums over the embedding and the rank."""
    e = tensors[f"{place}.adapter.embedding"]
    scale = tensors[f"{place}.adapter.{matrix}_scale"]
    shared = next(name for name in tensors if name.endswith(f"adapter.{matrix}.to_p")).removesuffix("to_p")
    template = torch.einsum("nre,e,wrf,f->nw", tensors[f"{shared}to_q"], e, tensors[f"{shared}to_p"], e)
    return torch.cat([one * template for one in scale], dim=1)


def adapted(tensors, place, y):
    down, up = generated(tensors, place, "down"), generated(tensors, place, "up")
    return y + gelu(y @ down.T) @ up


def test_polyhistor_is_the_equation():
    stock = vit()

    def equation(tensors):
        return forward(
            stock,
            lambda depth, block, x: adapted(tensors, f"blocks.{depth}.attn", block.attn(x)),
            lambda depth, block, x: adapted(tensors, f"blocks.{depth}.mlp", block.mlp(x)),
        )

    assert_equal_to(attached(polyhistor.attach, SETTINGS), equation)


def test_an_adapter_of_a_wider_stage_scales_the_template():
    model = stock_model(SWIN)
    polyhistor.attach(model, **SETTINGS, generator=seeded())
    tensors, x = trainable_parameters(model), torch.randn(3, 32, generator=seeded(1))
    with torch.no_grad():
        for name, tensor in tensors.items():
            tensor.add_(0.1 * torch.randn(tensor.shape, generator=seeded(len(name))))
    adapter = model.layers[1].blocks[0].mlp.adapter
    assert adapter.down_scale.shape == (2,)
    expected = adapted(tensors, "layers.1.blocks.0.mlp", x) - x
    torch.testing.assert_close(adapter(x), expected)
    assert sum(tensor.numel() for name, tensor in tensors.items() if "to_" in name) == 2 * 5 * 2 * (16 + 6)


def test_the_first_templates_are_as_large_as_the_weights_of_a_linear_layer():
    model = vit()
    polyhistor.attach(model, bottleneck=64, rank=4, embedding=16, generator=seeded())
    assert model.blocks[0].attn.adapter.down is model.blocks[1].mlp.adapter.down
    template = model.blocks[0].attn.adapter.down(torch.ones(16)).detach()
    assert float(template.std()) == pytest.approx((3 * 64) ** -0.5, rel=0.1)


def test_masks_pass_through():
    assert_masks_pass_through(polyhistor.attach, SETTINGS)


@pytest.mark.parametrize("setting", ["bottleneck", "rank", "embedding"])
def test_a_bad_setting_is_named(setting):
    assert_setting_is_named(polyhistor.attach, {**SETTINGS, setting: 0}, rf"^{setting}=0: .*at least 1")
