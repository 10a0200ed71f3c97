"""The matmul backends agree, and are used where they should be."""

import ctypes
import platform
import subprocess
import sys
from types import SimpleNamespace

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from moppa.utils import matmul
from moppa.utils.device import configure_process
from moppa.utils.errors import UserError
from moppa.utils.matmul import linear, matmul_backend, set_matmul_backend, use_backend, weight_gradient
from tests.python_process import run_python


@pytest.mark.parametrize("shape", [(192,), (5, 192), (3, 1, 192), (3, 17, 192), (2, 3, 4, 192)], ids=str)
@pytest.mark.parametrize("has_bias", [True, False])
@pytest.mark.parametrize("is_transposed", [True, False])
def test_both_backends_give_the_same_output_and_gradients(shape, has_bias, is_transposed):
    results = []
    for backend in ("torch", "onednn"):
        set_matmul_backend(backend)
        generator = torch.Generator().manual_seed(0)
        x, weight = torch.randn(shape, generator=generator), torch.randn(64, 192, generator=generator) / 14
        if is_transposed:
            weight = weight.T.contiguous().T
        bias = [torch.randn(64, generator=generator)] if has_bias else []
        inputs = [tensor.requires_grad_() for tensor in (x, weight, *bias)]
        y = linear(*inputs, *([] if has_bias else [None]))
        dy = torch.randn(y.shape, generator=generator)
        results.append([y, *torch.autograd.grad(y, inputs, dy)])
        assert y.is_contiguous()
    for by_torch, by_onednn in zip(*results, strict=True):
        torch.testing.assert_close(by_onednn, by_torch, atol=1e-5, rtol=1e-5)


def test_both_backends_give_the_same_gradient_of_a_weight():
    generator = torch.Generator().manual_seed(0)
    x, dy = torch.randn(3, 17, 192, generator=generator), torch.randn(3, 17, 8, generator=generator)
    expected = weight_gradient(x, dy)
    assert torch.equal(expected, dy.flatten(0, 1).T @ x.flatten(0, 1))
    set_matmul_backend("onednn")
    torch.testing.assert_close(weight_gradient(x, dy), expected, atol=1e-5, rtol=1e-5)


def num_convolutions(function):
    """Returns how many convolutions a function starts."""
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as profile:
        function()
    return sum(event.count for event in profile.key_averages() if event.key == "aten::conv2d")


def test_a_trained_bias_of_a_frozen_weight_needs_no_gradient_of_the_weight():
    set_matmul_backend("onednn")
    x, weight, bias = torch.randn(2, 9, 64), torch.randn(64, 64), torch.zeros(64, requires_grad=True)
    y = linear(x, weight, bias)
    assert num_convolutions(lambda: linear(x, weight, bias)) == 1
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as profile:
        y.sum().backward()
    assert "aten::convolution_backward" not in {event.key for event in profile.key_averages()}
    assert torch.equal(bias.grad, torch.full((64,), 18.0))


def in_context(function, *args, **kwargs):
    """Returns a function that calls `function` while the backend is in use."""

    def call():
        with use_backend():
            return function(*args, **kwargs)

    return call


def test_only_the_context_redirects_linear_layers():
    model = nn.Sequential(nn.Linear(8, 8), nn.GELU(), nn.Linear(8, 2))
    x = torch.randn(2, 4, 8)
    assert num_convolutions(in_context(model, x)) == 0
    set_matmul_backend("onednn")
    assert num_convolutions(in_context(model, x)) == 2
    assert num_convolutions(lambda: model(x)) == 0
    with torch.inference_mode():
        assert num_convolutions(in_context(model, x)) == 2
    torch.testing.assert_close(in_context(model, x)(), model(x), atol=1e-6, rtol=1e-5)


def test_linear_is_redirected_with_keyword_arguments_and_in_subclasses_too():
    class Subclass(nn.Linear):
        pass

    set_matmul_backend("onednn")
    x, layer = torch.randn(2, 4, 8), Subclass(8, 2)
    expected = layer(x)
    assert num_convolutions(in_context(layer, x)) == 1
    for kwargs in ({"bias": layer.bias}, {}):
        call = in_context(F.linear, x, weight=layer.weight, **kwargs)
        assert num_convolutions(call) == 1
    torch.testing.assert_close(in_context(F.linear, input=x, weight=layer.weight, bias=layer.bias)(), expected)


def test_the_context_of_the_torch_backend_is_free():
    with use_backend():
        assert torch.overrides._get_current_function_mode() is None
    set_matmul_backend("onednn")
    with use_backend():
        assert torch.overrides._get_current_function_mode() is not None


@pytest.mark.slow  # imports the compiler
def test_a_compiled_graph_has_no_convolutions():
    """In a separate process, because the tests' type checks would be compiled too."""
    program = """
import torch
from moppa.utils.matmul import set_matmul_backend, use_backend

def keep_graph(graph, inputs):
    print(*[node.target.__name__ for node in graph.graph.nodes if node.op == "call_function"])
    return graph.forward

set_matmul_backend("onednn")
model, x = torch.nn.Linear(8, 2), torch.randn(2, 4, 8)
with use_backend():
    y = torch.compile(model, backend=keep_graph, fullgraph=True)(x)
torch.testing.assert_close(y, model(x))
"""
    done = run_python("-c", program)
    assert done.stdout.split() == ["linear"], done.stderr


def test_the_same_backend_gives_the_same_bytes():
    set_matmul_backend("onednn")
    x, weight = torch.randn(3, 65, 192), torch.randn(768, 192)
    assert torch.equal(linear(x, weight, None), linear(x.clone(), weight.clone(), None))


def test_few_tokens_other_types_and_autocast_stay_with_torch():
    set_matmul_backend("onednn")
    x, weight = torch.randn(2, 4, 8), torch.randn(2, 8)
    assert num_convolutions(lambda: linear(x.double(), weight.double(), None)) == 0
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert num_convolutions(lambda: linear(x, weight, None)) == 0
        assert torch.equal(linear(x, weight, None), F.linear(x, weight))
    assert num_convolutions(lambda: linear(x[:, :2], weight, None)) == 0
    assert num_convolutions(lambda: linear(x[0], weight, None)) == 0
    assert linear(x.to("meta"), weight.to("meta"), None).shape == (2, 4, 2)


@pytest.mark.parametrize(
    ("cpu_info", "capability", "expected"),
    [
        ("vendor_id : AuthenticAMD", "AVX512", "onednn"),
        ("vendor_id : AuthenticAMD", "AVX2", "torch"),
        ("vendor_id : GenuineIntel", "AVX512", "torch"),
        ("", "DEFAULT", "torch"),
    ],
)
def test_auto_is_onednn_if_mkl_would_leave_units_idle(cpu_info, capability, expected, monkeypatch):
    monkeypatch.setattr(matmul, "cpu_info", lambda: cpu_info)
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: capability)
    monkeypatch.setattr(torch.backends.mkl, "is_available", lambda: True)
    monkeypatch.setattr(torch.backends.mkldnn, "is_available", lambda: True)
    set_matmul_backend("auto")
    assert matmul_backend() == expected
    monkeypatch.setattr(torch.backends.mkl, "is_available", lambda: False)
    set_matmul_backend("auto")
    assert matmul_backend() == "torch"


def test_an_unknown_backend_is_named():
    with pytest.raises(UserError, match=r"run\.matmul_backend='mkl': it must be one of auto, torch, onednn"):
        set_matmul_backend("mkl")


@pytest.mark.parametrize(("library", "expected"), [("glibc", [(-1, -1), (-3, 32 << 20)]), ("", [])])
def test_only_glibc_is_told_to_keep_freed_memory(library, expected, monkeypatch):
    calls = []
    monkeypatch.setattr(platform, "libc_ver", lambda: (library, ""))
    monkeypatch.setattr(ctypes, "CDLL", lambda _: SimpleNamespace(mallopt=lambda *args: calls.append(args)))
    configure_process(threads=1, backend="torch", keep_memory=False)
    assert calls == []
    configure_process(threads=1, backend="torch", keep_memory=True)
    assert calls == expected


@pytest.mark.slow  # measures a process of its own
@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="only glibc has the setting")
def test_freed_memory_is_not_requested_from_the_system_again():
    """In a separate process. Without the setting most processes have 90,000 page faults per step here."""
    program = """
import resource, torch
from moppa.utils.device import configure_process
configure_process(threads=1, backend="torch", keep_memory=True)

def step():
    tensors = [torch.ones(4_000_000) for _ in range(24)]
    while tensors:
        tensors.pop()

for _ in range(3):
    step()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(5):
    step()
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""
    done = subprocess.run([sys.executable, "-c", program], text=True, capture_output=True, check=True)
    assert int(done.stdout) < 100
