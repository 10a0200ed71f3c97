"""On a processor without bfloat16 units, products of bfloat16 are computed in float32 and rounded once."""

import contextlib

import pytest
import torch
import torch.nn.functional as F
from torch.profiler import ProfilerActivity, profile

from moppa.utils import bf16_matmul
from moppa.utils.bf16_matmul import ProductsInFloat32, bf16_products
from moppa.utils.device import forward_context

CPU = torch.device("cpu")


def numbers(*shape):
    return torch.linspace(-1, 1, torch.Size(shape).numel()).cos().reshape(shape).bfloat16()


def linear():
    weight = numbers(6, 8).requires_grad_()
    return F.linear(numbers(2, 3, 8), weight, numbers(6)), weight


def attention():
    tokens = numbers(2, 1, 4, 8).requires_grad_()
    return F.scaled_dot_product_attention(tokens, tokens.flip(2), tokens), tokens


def convolution():
    weight = numbers(2, 3, 2, 2).requires_grad_()
    return F.conv2d(numbers(2, 3, 4, 4), weight, numbers(2), stride=2), weight


def result_and_gradient(product, context):
    with context:
        y, leaf = product()
        y.float().square().sum().backward()
    return y.detach(), leaf.grad


@pytest.mark.parametrize("product", [linear, attention, convolution])
def test_results_and_gradients_are_those_of_torch_up_to_rounding(product):
    expected = result_and_gradient(product, contextlib.nullcontext())
    actual = result_and_gradient(product, ProductsInFloat32())
    for one, other in zip(expected, actual, strict=True):
        assert one.dtype == other.dtype == torch.bfloat16
        torch.testing.assert_close(one, other, rtol=2**-5, atol=2**-5)


def dtypes_of_products(profiled):
    """Returns the dtypes of the matrices that each kind of product was called with."""
    products = ("aten::mm", "aten::addmm", "aten::_scaled_dot_product_flash_attention_for_cpu")
    events = [event for event in profiled.events() or [] if event.name in products]
    return {event.name: {dtype for dtype in event.input_dtypes if dtype} for event in events}


def test_no_matrix_of_bfloat16_is_multiplied_without_units(monkeypatch):
    monkeypatch.setattr(bf16_matmul, "has_bf16_units", lambda: False)
    layer, x = torch.nn.Linear(8, 8), torch.randn(1, 1, 4, 8)
    for is_training in (True, False):
        with profile(activities=[ProfilerActivity.CPU], record_shapes=True) as profiled:
            with forward_context(CPU, "bf16-mixed"), torch.inference_mode(not is_training):
                y = layer(x)
                loss = F.scaled_dot_product_attention(y, y, y).sum()
            if is_training:
                with bf16_products(CPU, "bf16-mixed"):
                    loss.backward()
        dtypes = dtypes_of_products(profiled)
        assert len(dtypes) == 2 + is_training, dtypes
        assert not any("BFloat16" in dtype for kinds in dtypes.values() for dtype in kinds), dtypes


@pytest.mark.parametrize(
    ("device", "precision", "has_units"), [("cpu", "float32", False), ("cuda", "bf16", False), ("cpu", "bf16", True)]
)
def test_otherwise_nothing_is_changed(monkeypatch, device, precision, has_units):
    monkeypatch.setattr(bf16_matmul, "has_bf16_units", lambda: has_units)
    assert isinstance(bf16_products(torch.device(device), precision), contextlib.nullcontext)
