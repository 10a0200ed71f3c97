"""The Triton kernels against the definition in float64: on a GPU, or without one in Triton's interpreter."""

import copy
import os
import subprocess
import sys

import numpy as np
import pytest
import torch
from torch.library import opcheck

from moppa.mixture import kernel_op, physics
from moppa.mixture.operator import Operator
from moppa.mixture.settings import parse_settings
from tests.conftest import ROOT
from tests.mixture.models import attach_to, units_in, vit

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"

pytest.importorskip("triton", reason="Triton is only on Linux")
pytestmark = pytest.mark.gpu

ALL = ["heat", "wave", "identity", "poisson"]  # not in the order of the kernel's arguments
CASES = {  # grid, width, prefix tokens, priors, rows of weights
    "every prior": ((3, 5), 3, 5, ALL, 2),
    "two tiles of channels, shared weights": ((2, 4), 9, 0, ["wave", "poisson"], 1),
}
MORE_CASES = {
    "the default": ((4, 4), 2, 1, ["heat", "wave", "poisson"], 2),
    "heat": ((1, 17), 1, 2, ["heat"], 2),
    "wave": ((17, 2), 4, 1, ["wave", "identity"], 3),
    "poisson": ((4, 1), 1, 1, ["poisson"], 2),
    "identity": ((1, 1), 5, 0, ["identity"], 1),
    "the largest": ((32, 32), 64, 1, ["heat", "wave", "poisson"], 2),
    "five prefix tokens": ((16, 16), 32, 5, ALL, 3),
    "ViT-B/16": ((14, 14), 8, 1, ["heat", "wave", "poisson"], 2),
    "windows": ((7, 7), 8, 0, ["heat", "wave", "poisson"], 5),
}


def case(grid, width, num_prefix, priors, num_rows, *, dtype=torch.float32, num_images=2):
    """An operator that uses the kernel, with random parameters, its arguments and a gradient."""
    generator = torch.Generator().manual_seed(0)

    def draw(*shape):
        return torch.randn(shape, generator=generator)

    settings = parse_settings({"priors": priors, "physics_rate": 2.0})
    operator = Operator(width, grid, settings, embedding=None, generator=None)
    for parameter in operator.parameters():
        parameter.data = 0.3 * draw(*parameter.shape)
    operator.to(DEVICE).uses_kernel = True
    num_images = max(num_images, num_rows)
    x, dy = draw(2, num_images, num_prefix + grid[0] * grid[1], width).to(DEVICE, dtype)
    weights = draw(num_rows, len(priors)).softmax(dim=1).to(DEVICE)
    return operator, x.requires_grad_(), weights.requires_grad_(), dy


def outputs(operator, x, weights, dy):
    """The solution, and the gradients of tokens, weights and parameters."""
    y = operator(x, weights, None)
    return y, *torch.autograd.grad(y, (x, weights, *operator.parameters()), dy)


def expected_outputs(operator, x, weights, dy):
    """The same from the definition and autograd, in float64."""
    operator = copy.deepcopy(operator).double()
    inputs = [tensor.detach().double().requires_grad_() for tensor in (x, weights)]
    y = physics.filter_tokens(
        inputs[0],
        *gains_and_weights(operator, inputs[1].expand(len(x), -1)),
        operator.basis,
    )
    return y, *torch.autograd.grad(y, (*inputs, *operator.parameters()), dy.double())


def gains_and_weights(operator, weights):
    """The arguments of `physics.filter_tokens`."""
    (gains, source), (a, b) = operator.filters(None), operator.split_weights(weights)
    return a, gains, b, source


def assert_as_defined(operator, *arguments, tolerance):
    for actual, expected in zip(outputs(operator, *arguments), expected_outputs(operator, *arguments), strict=True):
        assert actual.shape == expected.shape
        scale = max(1.0, float(expected.detach().abs().max()))
        # the basis is rounded to float32
        torch.testing.assert_close(actual.double(), expected, atol=tolerance * scale, rtol=0)


@pytest.mark.parametrize("name", CASES)
def test_solution_and_all_gradients_are_those_of_the_definition(name):
    assert_as_defined(*case(*CASES[name]), tolerance=2e-6)


@pytest.mark.slow
@pytest.mark.parametrize("name", MORE_CASES)
def test_more_grids_and_priors_are_as_defined(name):
    assert_as_defined(*case(*MORE_CASES[name]), tolerance=1e-5)


@pytest.mark.parametrize(
    "number", [pytest.param(0, marks=pytest.mark.slow), pytest.param(1, marks=pytest.mark.slow), 2, 3]
)
def test_the_kernel_agrees_with_the_reference_vectors(shared, number):
    vectors = shared / "vectors" / "moppa_operator.npz"
    if not vectors.exists():
        pytest.skip(f"needs {vectors}, which only developers have")
    arrays = np.load(vectors)
    x, k, c, t, source, weights = (torch.from_numpy(arrays[f"{number}_{name}"]).float().to(DEVICE) for name in "XkctSa")
    x, expected = (grid[:1].flatten(1, 2) for grid in (x, torch.from_numpy(arrays[f"{number}_Y"]).float().to(DEVICE)))
    basis = physics.make_basis(*source.shape, dtype=torch.float32, device=x.device)
    offsets = [torch.log(torch.expm1(constant)) - 0.5 for constant in (k, c, t)]
    y = kernel_op.solve(
        x,
        weights[:1],
        kernel_op.Parameters(*offsets, source - 1),
        basis,
        priors=["heat", "wave", "poisson"],
        starts=[0.5] * 3,
        rate=1.0,
    )
    torch.testing.assert_close(y, expected, atol=1e-5 * float(expected.abs().max()), rtol=0)


def test_with_bfloat16_only_the_results_are_rounded():
    operator, x, weights, dy = case((2, 3), 4, 1, ["heat", "wave", "poisson"], 2, dtype=torch.bfloat16)
    actual, expected = outputs(operator, x, weights, dy), expected_outputs(operator, x, weights, dy)
    assert [value.dtype for value in actual] == [torch.bfloat16] * 2 + [torch.float32] * 5
    for value, exact in zip(actual, expected, strict=True):
        rtol = (
            (2**-8 if DEVICE == "cuda" else 2**-7) if value.dtype == torch.bfloat16 else 1e-5
        )  # Triton's interpreter truncates
        torch.testing.assert_close(value.double(), exact, rtol=rtol, atol=1e-5)


def test_tiny_constants_keep_their_digits():
    """softplus(x) is log(1 + e^x), which float32 rounds to 0 or 1.2e-7 where it is near 1e-7.

    The time is long, so that the change of the tokens is not lost in their own rounding.
    """
    operator, x, weights, _ = case((2, 2), 1, 0, ["heat"], 1)
    starts, offset = [-16.0, 0.0, 1e6], torch.zeros(1, device=DEVICE)
    parameters = kernel_op.Parameters(offset, None, offset, None)
    y = kernel_op.solve(
        x.detach(), weights.detach(), parameters, operator.basis, priors=["heat"], starts=starts, rate=1.0
    )
    k, t = (float(torch.nn.functional.softplus(torch.tensor(start).double())) for start in (-16.0, 1e6))
    change = physics.heat(x.detach().double().view(-1, 2, 2, 1), 1e3 * k, t / 1e3).view_as(x) - x
    torch.testing.assert_close(y.double() - x, change, rtol=1e-3, atol=1e-6)


@pytest.mark.slow
def test_torch_sees_an_operator_with_a_gradient():
    operator, x, weights, _ = case((1, 2), 1, 1, ["identity"], 1)
    arguments = (x, weights, *[None] * 4, *operator.basis, [0, -1, -1, -1], [0.0, 0.0, 0.0, 1.0])
    checks = ["test_schema", "test_autograd_registration", "test_faketensor"]
    opcheck(torch.ops.moppa.mixture.default, arguments, test_utils=checks)


TRACE = """
import torch
from tests.mixture.models import attach_to, units_in, vit

device = "cuda" if torch.cuda.is_available() else "cpu"
unit = units_in(attach_to(vit()))[0].to(device)
unit.operator.uses_kernel = True
torch.nn.init.normal_(unit.up)
z, results = torch.randn(2, 17, 64, device=device), []
for function in (unit, torch.compile(unit, backend="aot_eager", fullgraph=True)):
    y = function(z)
    results.append([y, *torch.autograd.grad(y.square().sum(), list(unit.parameters()))])
torch.testing.assert_close(*results)
print("number of gradients", len(results[1]) - 1)
"""


def run_program(program, **environment):
    """The output of a program in a process without type checks."""
    environment = {**os.environ, **environment}
    command = [sys.executable, "-c", program]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


@pytest.mark.slow
def test_a_unit_with_the_kernel_is_one_graph_for_the_compiler():
    assert "number of gradients 8" in run_program(TRACE)


COMPILE = """
import torch
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource, compile
from moppa.mixture import kernel, kernel_op, physics

def compile_for(target, function, grid, width, counts):
    basis = physics.make_basis(*grid, dtype=torch.float32, device="cpu")
    x = torch.zeros(1, 1 + basis.laplace.numel(), width)
    values = {**kernel_op.tile_shape(x, [None] * 4 + [*basis], range(4)), **counts}
    options = {name: values.pop(name) for name in ("num_warps", "enable_fp_fusion")}
    types = dict.fromkeys(function.arg_names, "*fp32") | dict.fromkeys(["x", "y", "dx", "dy"], "*bf16")
    types |= dict.fromkeys(["start_diffusivity", "start_speed", "start_time", "rate"], "fp32")
    types["weight_stride"] = "i32"
    signature = {name: "constexpr" if name in values else types[name] for name in function.arg_names}
    constants = {(function.arg_names.index(name),): value for name, value in values.items()}
    return compile(ASTSource(function, signature, constants), GPUTarget(*target), options)

for grid, width in (((14, 14), 8), ((32, 32), 64)):
    compile_for(("cuda", 90, 32), kernel.forward_kernel, grid, width, {})
    counts = {"NUM_TILES": -(-width // 8), "NUM_WEIGHTS": 4, "NUM_CONSTANTS": 3}
    compiled = compile_for(("cuda", 90, 32), kernel.backward_kernel, grid, width, counts)
    print("bytes", len(compiled.asm["cubin"]), compiled.metadata.shared)
"""


@pytest.mark.slow
def test_the_kernels_compile_for_a_gpu_that_is_not_here(tmp_path):
    """The interpreter takes more than the compiler. The shared memory is below the least of any GPU, 48 kB."""
    output = run_program(COMPILE, TRITON_INTERPRET="0", TRITON_CACHE_DIR=str(tmp_path))
    sizes = [list(map(int, line.split()[1:])) for line in output.splitlines() if line.startswith("bytes")]
    assert len(sizes) == 2
    assert all(num_bytes > 1000 and shared <= 48 * 1024 for num_bytes, shared in sizes)


@pytest.fixture
def everywhere(monkeypatch):
    """Lets the kernel run on every device."""
    monkeypatch.setattr(kernel_op, "works", lambda device: True)


@pytest.mark.parametrize(
    ("settings", "uses_kernel"),
    [
        ({}, True),
        ({"router": "static", "gate": True, "poisson_gain": "exact"}, True),
        ({"rank": 64, "position": "qv"}, True),
        ({"constants_per": "frequency"}, False),
        ({"damping": 0.1}, False),
    ],
)
def test_an_operator_takes_the_kernel_if_it_can(settings, uses_kernel, everywhere):
    units = units_in(attach_to(vit(), **settings))
    assert {unit.operator.uses_kernel for unit in units} == {uses_kernel}


def test_a_large_grid_or_another_dtype_or_device_has_no_kernel(everywhere, monkeypatch):
    [unit, *_] = units_in(attach_to(vit()))
    assert not unit.to(torch.float64).operator.uses_kernel
    assert unit.to(torch.float32).operator.uses_kernel
    monkeypatch.setattr(kernel_op, "works", lambda device: False)
    assert not unit.to("cpu").operator.uses_kernel
    assert kernel_op.fits((32, 32), 64)
    assert not kernel_op.fits((33, 4), 8)
    assert not kernel_op.fits((4, 4), 65)


def test_without_a_bottleneck_the_gain_of_the_output_needs_the_other_path(everywhere, monkeypatch):
    [unit, *_] = units_in(attach_to(vit(), rank=None))
    monkeypatch.setattr(kernel_op, "solve", None)
    assert unit(torch.randn(1, 17, 64)).shape == (1, 17, 64)


def test_a_gpu_that_cannot_run_the_kernel_is_named_once(capsys):
    assert not kernel_op.works(torch.device("cpu"))
    kernel_op.works.cache_clear()
    has_kernel = [kernel_op.works(torch.device("cuda")) for _ in range(2)]
    assert has_kernel == [torch.cuda.is_available()] * 2
    assert capsys.readouterr().err.count("MoPPA computes without its Triton kernel") == (not torch.cuda.is_available())
