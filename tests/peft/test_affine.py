"""Affine maps before and after a layer: the fast output and the merged weight agree."""

import copy

import pytest
import torch
from torch import nn

from moppa.peft.affine import append_scale_and_shift, prepend_affine
from moppa.peft.inject import disable_output_deltas, merge


def drawn(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def linear(d_in=6, d_out=4):
    layer = nn.Linear(d_in, d_out).double().requires_grad_(False)
    layer.weight.copy_(drawn(d_out, d_in, seed=1))
    layer.bias.copy_(drawn(d_out, seed=2))
    return layer


def affine(dim=6):
    adapter = nn.Linear(dim, dim).double()
    with torch.no_grad():
        adapter.weight.copy_(drawn(dim, dim, seed=3))
        adapter.bias.copy_(drawn(dim, seed=4))
    return adapter


def output_and_gradients(layer, x):
    y = layer(x)
    parameters = [parameter for parameter in layer.parameters() if parameter.requires_grad]
    return [y, *torch.autograd.grad((y * drawn(*y.shape, seed=5)).sum(), parameters)]


def assert_paths_agree(layer, expected, x):
    """The fast path, the full weight and the merged layer give `expected`; both paths give the same gradients."""
    fast = output_and_gradients(layer, x)
    torch.testing.assert_close(fast[0], expected, atol=1e-12, rtol=0)
    full = output_and_gradients(disable_output_deltas(copy.deepcopy(layer)), x)
    for fast_tensor, full_tensor in zip(fast, full, strict=True):
        torch.testing.assert_close(fast_tensor, full_tensor, atol=1e-12, rtol=0)
    merge(layer)
    assert type(layer) is nn.Linear
    torch.testing.assert_close(layer(x), expected, atol=1e-12, rtol=0)


@pytest.mark.parametrize("shape", [(6,), (5, 6), (2, 3, 6)], ids=str)
def test_an_affine_map_before_a_layer_merges_into_it(shape):
    layer, adapter, x = linear(), affine(), drawn(*shape, seed=6)
    expected = linear()(affine()(x))
    prepend_affine(layer, adapter)
    assert_paths_agree(layer, expected, x)


@pytest.mark.parametrize("shape", [(6,), (5, 6), (2, 3, 6)], ids=str)
def test_a_scale_and_a_shift_after_a_layer_merge_into_it(shape):
    layer, x = linear(), drawn(*shape, seed=6)
    scale, shift = nn.Parameter(drawn(4, seed=7)), nn.Parameter(drawn(4, seed=8))
    expected = scale * linear()(x) + shift
    append_scale_and_shift(layer, scale, shift)
    assert_paths_agree(layer, expected, x)


def test_a_scale_and_a_shift_after_a_convolution_and_a_norm_merge_into_them():
    for layer, x in ((nn.Conv2d(3, 4, 2).double(), drawn(2, 3, 5, 5)), (nn.LayerNorm(4).double(), drawn(2, 4))):
        layer.requires_grad_(False)
        scale, shift = nn.Parameter(drawn(4, seed=7)), nn.Parameter(drawn(4, seed=8))
        channels = (-1, 1, 1) if isinstance(layer, nn.Conv2d) else (-1,)
        expected = scale.view(channels) * layer(x) + shift.view(channels)
        append_scale_and_shift(layer, scale, shift)
        torch.testing.assert_close(layer(x), expected, atol=1e-12, rtol=0)
        torch.testing.assert_close(merge(layer)(x), expected, atol=1e-12, rtol=0)
