"""Compares a method on a small vision transformer with its paper's equation, in double precision."""

import math

import pytest
import timm
import torch

from moppa.peft.collect import trainable_parameters
from moppa.utils.errors import SettingError

BOTTLENECK = 6


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def vit(**settings):
    """Returns a small frozen model with two registers and LayerScale; no norm, bias or gain is at its initial value."""
    settings = {"depth": 2, "img_size": (64, 48), "num_classes": 5, "reg_tokens": 2, "init_values": 0.7, **settings}
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = timm.create_model("test_vit", **settings).double().requires_grad_(False).eval()
        for parameter in model.parameters():
            if parameter.ndim == 1:
                parameter.add_(0.1 * torch.randn_like(parameter))
    return model


def attached(attach, settings, **model_settings):
    """Returns a model with a method, in double precision, whose trainable tensors are not at their initial values."""
    model = vit(**model_settings)
    attach(model, **settings, generator=seeded())
    return perturbed(model.double())


def assert_setting_is_named(attach, settings, message):
    """Asserts that an error names a bad setting, and that nothing is trained."""
    model = vit()
    with pytest.raises(SettingError, match=message):
        attach(model, **settings, generator=seeded())
    assert not trainable_parameters(model)


def images():
    return torch.randn(2, 3, 64, 48, generator=seeded(5), dtype=torch.float64)


def perturbed(model):
    """Moves every trainable tensor away from its initial value."""
    with torch.no_grad():
        for parameter in trainable_parameters(model).values():
            parameter.add_(0.3 * torch.randn(parameter.shape, generator=seeded(7), dtype=parameter.dtype))
    return model


def forward(stock, attention, mlp, after=lambda depth, x: x):
    """Returns the logits of a vision transformer with the given attention, MLP, and function after each block."""
    x = stock.norm_pre(stock._pos_embed(stock.patch_embed(images())))
    for depth, block in enumerate(stock.blocks):
        x = x + block.ls1(attention(depth, block, block.norm1(x)))
        x = x + block.ls2(mlp(depth, block, block.norm2(x)))
        x = after(depth, x)
    return stock.forward_head(stock.norm(x))


def forward_with_tokens(stock, mlp):
    """Returns the logits of a vision transformer with a function in place of each MLP: it gets x and z = norm(x)."""
    x = stock.norm_pre(stock._pos_embed(stock.patch_embed(images())))
    for depth, block in enumerate(stock.blocks):
        x = x + block.ls1(block.attn(block.norm1(x)))
        x = x + block.ls2(mlp(depth, block, x, block.norm2(x)))
    return stock.forward_head(stock.norm(x))


def assert_equal_to(model, equation):
    """Asserts that logits and all gradients equal those of `equation`, a function of the trainable tensors by name."""
    parameters = trainable_parameters(model)
    copies = {name: tensor.detach().clone().requires_grad_() for name, tensor in parameters.items()}
    actual, expected = model(images()), equation(copies)
    torch.testing.assert_close(actual, expected, atol=1e-10, rtol=1e-10)
    toward = torch.randn(actual.shape, generator=seeded(9), dtype=actual.dtype)
    actual_gradients = torch.autograd.grad((actual * toward).sum(), list(parameters.values()))
    expected_gradients = torch.autograd.grad((expected * toward).sum(), list(copies.values()))
    for name, gradient, reference in zip(parameters, actual_gradients, expected_gradients, strict=True):
        assert reference.abs().max() > 0, name
        torch.testing.assert_close(
            gradient, reference, atol=1e-10, rtol=1e-8, msg=lambda text, name=name: f"{name}: {text}"
        )


def assert_masks_pass_through(attach, settings):
    """Asserts that an attention mask reaches the attention of every block."""
    stock, model = vit(), vit()
    attach(model, **settings, generator=seeded())
    model.double()
    mask = torch.zeros(15, 15, dtype=torch.float64).masked_fill_(torch.ones(15, 15).triu(1).bool(), -torch.inf)
    masked = model.forward_features(images(), attn_mask=mask)
    assert torch.equal(masked, stock.forward_features(images(), attn_mask=mask))
    assert not torch.equal(masked, stock.forward_features(images()))


def two_levels(w):
    """Returns the binary matrix of Bi-LoRA's public code: standardized, sign times the median of |normal|, and back."""
    level = 0.6744897365570068  # in float32
    mean = w.mean()
    deviation = torch.sqrt(((w - mean) ** 2).sum() / (w.numel() - 1))
    standardized = (w - mean) / (deviation + 1e-5)
    rounded = level * (2 * (standardized > 0).to(w.dtype) - 1)
    return ((rounded - standardized).detach() + standardized) * deviation + mean


def gelu(x):
    return 0.5 * x * (1 + torch.erf(x / math.sqrt(2)))
