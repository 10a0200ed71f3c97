import copy
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
from moppa.utils.matmul import as_chosen, linear, matmul_backend, set_matmul_backend, weight_gradient


@pytest.mark.parametrize("shape", [(192,), (5, 192), (3, 1, 192), (3, 17, 192), (2, 3, 4, 192)], ids=str)
@pytest.mark.parametrize("has_bias", [True, False])
@pytest.mark.parametrize("is_turned", [True, False])
def test_both_ways_give_the_same_output_and_gradients(shape, has_bias, is_turned):
    found = []
    for way in ("torch", "onednn"):
        set_matmul_backend(way)
        draws = torch.Generator().manual_seed(0)
        x, weight = torch.randn(shape, generator=draws), torch.randn(64, 192, generator=draws) / 14
        if is_turned:
            weight = weight.T.contiguous().T
        given = [one.requires_grad_() for one in (x, weight, *([torch.randn(64, generator=draws)] if has_bias else []))]
        y = linear(*given, *([] if has_bias else [None]))
        dy = torch.randn(y.shape, generator=draws)
        found.append([y, *torch.autograd.grad(y, given, dy)])
        assert y.is_contiguous()
    for plain, other in zip(*found, strict=True):
        torch.testing.assert_close(other, plain, atol=1e-5, rtol=1e-5)


def test_both_ways_give_the_same_gradient_of_a_weight():
    draws = torch.Generator().manual_seed(0)
    x, dy = torch.randn(3, 17, 192, generator=draws), torch.randn(3, 17, 8, generator=draws)
    expected = weight_gradient(x, dy)
    assert torch.equal(expected, dy.flatten(0, 1).T @ x.flatten(0, 1))
    set_matmul_backend("onednn")
    torch.testing.assert_close(weight_gradient(x, dy), expected, atol=1e-5, rtol=1e-5)


def convolutions(work):
    """How many convolutions a work starts."""
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as profile:
        work()
    return sum(event.count for event in profile.key_averages() if event.key == "aten::conv2d")


def test_a_trained_bias_beside_a_frozen_weight_costs_no_gradient_of_the_weight():
    set_matmul_backend("onednn")
    x, weight, bias = torch.randn(2, 9, 64), torch.randn(64, 64), torch.zeros(64, requires_grad=True)
    y = linear(x, weight, bias)
    assert convolutions(lambda: linear(x, weight, bias)) == 1
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as profile:
        y.sum().backward()
    assert "aten::convolution_backward" not in {event.key for event in profile.key_averages()}
    assert torch.equal(bias.grad, torch.full((64,), 18.0))


def test_the_way_is_chosen_when_a_layer_computes_and_for_all_alike():
    model = as_chosen(nn.Sequential(nn.Linear(8, 8), nn.GELU(), nn.Linear(8, 2)))
    x = torch.randn(2, 4, 8)
    assert convolutions(lambda: model(x)) == 0
    set_matmul_backend("onednn")
    assert convolutions(lambda: model(x)) == convolutions(lambda: copy.deepcopy(model)(x)) == 2
    with torch.inference_mode():
        assert convolutions(lambda: model(x)) == 2


def test_the_same_way_gives_the_same_bytes():
    set_matmul_backend("onednn")
    x, weight = torch.randn(3, 65, 192), torch.randn(768, 192)
    assert torch.equal(linear(x, weight, None), linear(x.clone(), weight.clone(), None))


def test_few_tokens_and_what_is_no_float32_or_under_autocast_stay_torchs():
    set_matmul_backend("onednn")
    x, weight = torch.randn(2, 4, 8), torch.randn(2, 8)
    assert convolutions(lambda: linear(x.double(), weight.double(), None)) == 0
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert convolutions(lambda: linear(x, weight, None)) == 0
        assert torch.equal(linear(x, weight, None), F.linear(x, weight))
    assert convolutions(lambda: linear(x[:, :2], weight, None)) == convolutions(lambda: linear(x[0], weight, None)) == 0
    assert linear(x.to("meta"), weight.to("meta"), None).shape == (2, 4, 2)


def test_a_layer_of_another_class_stays_what_it_is():
    class Own(nn.Linear):
        pass

    model = as_chosen(nn.ModuleDict({"own": Own(2, 2), "stock": nn.Linear(2, 2)}))
    assert type(model["own"]) is Own
    assert type(model["stock"]) is matmul.Linear
    assert isinstance(model["stock"], nn.Linear)


@pytest.mark.parametrize(
    ("maker", "capability", "expected"),
    [
        ("vendor_id : AuthenticAMD", "AVX512", "onednn"),
        ("vendor_id : AuthenticAMD", "AVX2", "torch"),
        ("vendor_id : GenuineIntel", "AVX512", "torch"),
        ("", "DEFAULT", "torch"),
    ],
)
def test_auto_takes_onednn_where_mkl_leaves_units_idle(maker, capability, expected, monkeypatch):
    monkeypatch.setattr(matmul, "maker", lambda: maker)
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: capability)
    monkeypatch.setattr(torch.backends.mkl, "is_available", lambda: True)
    monkeypatch.setattr(torch.backends.mkldnn, "is_available", lambda: True)
    set_matmul_backend("auto")
    assert matmul_backend() == expected
    monkeypatch.setattr(torch.backends.mkl, "is_available", lambda: False)
    set_matmul_backend("auto")
    assert matmul_backend() == "torch"


def test_an_unknown_way_is_named():
    with pytest.raises(UserError, match=r"run\.matmul_backend='mkl': it must be one of auto, torch, onednn"):
        set_matmul_backend("mkl")


@pytest.mark.parametrize(("library", "asked"), [("glibc", [(-1, -1), (-3, 32 << 20)]), ("", [])])
def test_glibc_alone_is_asked_to_keep_freed_memory(library, asked, monkeypatch):
    seen = []
    monkeypatch.setattr(platform, "libc_ver", lambda: (library, ""))
    monkeypatch.setattr(ctypes, "CDLL", lambda _: SimpleNamespace(mallopt=lambda *given: seen.append(given)))
    configure_process(1, "torch", keep_memory=False)
    assert seen == []
    configure_process(1, "torch", keep_memory=True)
    assert seen == asked


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="glibc alone has the setting")
def test_kept_memory_is_not_asked_of_the_system_again():
    """In a process of its own; without the setting this makes 90,000 page faults a step, in most processes."""
    program = """
import resource, torch
from moppa.machine import prepare_process
prepare_process(1, "torch", keep_memory=True)

def step():
    parts = [torch.ones(4_000_000) for _ in range(24)]
    while parts:
        parts.pop()

for _ in range(3):
    step()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(5):
    step()
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""
    done = subprocess.run([sys.executable, "-c", program], text=True, capture_output=True, check=True)
    assert int(done.stdout) < 100
