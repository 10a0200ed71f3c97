"""Bi-AdaptFormer and its binary matrices against the paper and its public code."""

import math

import pytest
import torch
from torch import einsum

from baselines import bi_adaptformer
from moppa.peft.binary import binarize
from tests.baselines.equations import (
    BOTTLENECK,
    assert_equal_to,
    assert_masks_pass_through,
    assert_setting_is_named,
    attached,
    forward_with_tokens,
    seeded,
    two_levels,
    vit,
)

SETTINGS = {"bottleneck": BOTTLENECK, "scale": 0.5, "dropout": 0.0, "reads": "before_norm"}


def test_a_binary_matrix_has_two_levels_around_its_mean_and_the_papers_gradient():
    latent = torch.randn(5, 7, generator=seeded(), dtype=torch.float64).add_(0.3).requires_grad_()
    toward = torch.randn(5, 7, generator=seeded(1), dtype=torch.float64)
    matrix = binarize(latent)
    low, high = matrix.min(), matrix.max()
    assert torch.all(torch.isclose(matrix, low) | torch.isclose(matrix, high))
    torch.testing.assert_close((low + high) / 2, latent.mean())
    torch.testing.assert_close(matrix, two_levels(latent))
    [gradient] = torch.autograd.grad((matrix * toward).sum(), latent)
    [reference] = torch.autograd.grad((two_levels(latent) * toward).sum(), latent)
    torch.testing.assert_close(gradient, reference)


def test_a_zero_latent_gives_the_zero_matrix_and_an_unrounded_gradient():
    latent = torch.zeros(4, 3, requires_grad=True)
    toward = torch.randn(4, 3, generator=seeded())
    assert not binarize(latent).any()
    (binarize(latent) * toward).sum().backward()
    assert torch.equal(latent.grad, toward)
    tiny = 1e-9 * torch.randn(4, 3, generator=seeded())  # as after the first step of a warmup
    assert len(binarize(tiny).div(1e-9).round(decimals=3).unique()) == 2


@pytest.mark.parametrize("reads", ["before_norm", "after_norm"])
def test_bi_adaptformer_computes_its_equation(reads):
    stock, model = vit(), attached(bi_adaptformer.attach, {**SETTINGS, "reads": reads})

    def equation(p):
        def mlp(depth, block, x, z):
            path, read = f"blocks.{depth}.mlp.adapter.", x if reads == "before_norm" else z
            hidden = einsum("bnc,hc->bnh", read, two_levels(p[path + "down"])).clamp(min=0)
            return block.mlp(z) + 0.5 * einsum("bnh,ch->bnc", hidden, two_levels(p[path + "up"]))

        return forward_with_tokens(stock, mlp)

    assert_equal_to(model, equation)


def test_an_attention_mask_passes_through():
    assert_masks_pass_through(bi_adaptformer.attach, SETTINGS)


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ({"bottleneck": 0}, r"^bottleneck=0"),
        ({"scale": math.nan}, r"^scale=nan"),
        ({"dropout": 1}, r"^dropout=1"),
        ({"reads": "norm"}, r"^reads='norm'.*before_norm, after_norm"),
    ],
)
def test_a_bad_setting_is_named(setting, message):
    assert_setting_is_named(bi_adaptformer.attach, {**SETTINGS, **setting}, message)
