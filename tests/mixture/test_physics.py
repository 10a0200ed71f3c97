"""The operator against independent reference vectors, and its mathematical properties."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.fft import dctn, idctn
from scipy.linalg import expm
from torch.autograd import gradcheck

from moppa.mixture import physics

NAMES = "XkctSa"


@pytest.fixture(scope="module")
def vectors(shared):
    return np.load(shared / "vectors" / "moppa_operator.npz")


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-10), (torch.float32, 1e-5)])
@pytest.mark.parametrize("case", range(4))
def test_the_operator_agrees_with_the_reference_vectors(vectors, case, dtype, tolerance):
    x, k, c, t, source, weights = (torch.from_numpy(vectors[f"{case}_{name}"]).to(dtype) for name in NAMES)
    solutions = {
        "heat": physics.heat(x, k, t),
        "wave": physics.wave(x, c, t),
        "poisson": physics.poisson(x, source),
        "Y": physics.mixture(x, k, c, t, source, weights),
    }
    for name, value in solutions.items():
        expected = torch.from_numpy(vectors[f"{case}_{name}"]).to(dtype)
        scale = max(1.0, float(expected.abs().max()))
        torch.testing.assert_close(value, expected, atol=tolerance * scale, rtol=0)


@st.composite
def grids(draw, square=False):
    """A random grid in float64, (batch, H, W, channels)."""
    height = draw(st.integers(1, 9))
    width = height if square else draw(st.integers(1, 9))
    shape = (draw(st.integers(1, 2)), height, width, draw(st.integers(1, 3)))
    return torch.randn(shape, dtype=torch.float64, generator=torch.Generator().manual_seed(draw(st.integers(0, 2**31))))


nonnegative = st.floats(0.0, 3.0)
property_test = settings(max_examples=40, deadline=None)


def assert_close(actual, expected):
    torch.testing.assert_close(actual, expected, atol=1e-10 * max(1.0, float(expected.abs().max())), rtol=0)


@property_test
@given(grids())
def test_the_transform_is_orthonormal_and_inverts(x):
    basis = physics.basis_like(x)
    spectrum = physics.dct(x, basis)
    assert_close(physics.inverse_dct(spectrum, basis), x)
    assert_close((spectrum**2).sum(), (x**2).sum())


@property_test
@given(grids(), nonnegative, nonnegative, nonnegative)
def test_heat_keeps_the_mean_starts_as_the_identity_composes_and_never_grows(x, k, t1, t2):
    assert_close(physics.heat(x, k, 0.0), x)
    assert_close(physics.heat(x, k, t1).mean((1, 2)), x.mean((1, 2)))
    assert_close(physics.heat(physics.heat(x, k, t2), k, t1), physics.heat(x, k, t1 + t2))
    assert float(physics.heat(x, k, t1).abs().max()) <= float(x.abs().max()) * (1 + 1e-12)


@property_test
@given(grids(), nonnegative, nonnegative, nonnegative)
def test_wave_starts_as_the_identity_and_obeys_the_addition_formula_of_the_cosine(x, c, t1, t2):
    assert_close(physics.wave(x, c, 0.0), x)
    both = physics.wave(x, c, t1 + t2) + physics.wave(x, c, t1 - t2)
    assert_close(both, 2 * physics.wave(physics.wave(x, c, t2), c, t1))


@property_test
@given(grids(), nonnegative, nonnegative, nonnegative, st.floats(-2.0, 2.0))
def test_the_damped_wave_solves_its_equation_and_starts_as_the_identity(x, c, t, a, b):
    """Its derivatives are those of scipy's matrix exponential of the first-order system, frequency by frequency."""
    basis = physics.basis_like(x)
    gain = physics.damped_wave_gain(basis.laplace, c, t, a, b)[..., 0].numpy()
    for laplace, value in zip(basis.laplace.numpy().flat, gain.flat, strict=True):
        system = np.array([[0.0, 1.0], [-(c**2) * laplace, -a]])
        expected = (expm(t * system) @ np.array([1.0, b]))[0]
        assert value == pytest.approx(expected, abs=1e-9 * max(1.0, abs(expected)))
    assert_close(physics.damped_wave(x, c, 0.0, a, b), x)
    assert_close(physics.damped_wave(x, c, t, 0.0, 0.0), physics.wave(x, c, t))


def test_the_damped_wave_is_finite_and_has_gradients_where_the_frequency_is_zero_or_imaginary():
    laplace = torch.tensor([[0.0, 0.25, 0.2500001, 1.0, 9.0]])
    c, t, b = torch.ones(3), torch.tensor([1e-6, 1.0, 300.0]), torch.zeros(3)
    a = torch.tensor([1.0, 1.0, 50.0])
    inputs = [value.requires_grad_() for value in (c, t, a, b)]
    gain = physics.damped_wave_gain(laplace, *inputs)
    assert gain.isfinite().all()
    assert float(gain.detach().abs().max()) <= 1 + 1e-6  # without an initial velocity the energy cannot grow
    assert all(gradient.isfinite().all() for gradient in torch.autograd.grad(gain.sum(), inputs))


@pytest.mark.parametrize("start", [0.01, 1.0])
def test_scipy_agrees_with_every_gain_in_float64(start):
    rng = np.random.default_rng(0)
    x, (k, c, t, a) = rng.standard_normal((2, 5, 7, 3)), start * rng.uniform(0.5, 2.0, (4, 5, 7, 3))
    b = rng.standard_normal(3)
    squares = [(math.pi * np.arange(n) / n) ** 2 for n in (5, 7)]
    laplace = (squares[0][:, None] + squares[1])[..., None]
    w = np.emath.sqrt((c**2 * laplace - a**2 / 4).astype(complex))
    damped = np.exp(-a * t / 2) * (np.cos(w * t) + (b + a / 2) * np.sin(w * t) / w)
    gains = {
        "identity": (np.ones((5, 7, 1)), physics.identity_gain(torch.from_numpy(laplace[..., 0]))),
        "heat": (np.exp(-k * t * laplace), physics.heat_gain),
        "wave": (np.cos(c * t * np.sqrt(laplace)), physics.wave_gain),
        "damped": (damped.real, physics.damped_wave_gain),
    }
    arguments = {"heat": (k, t), "wave": (c, t), "damped": (c, t, a, b)}
    basis = physics.make_basis(5, 7, dtype=torch.float64, device=torch.device("cpu"))
    for name, (reference, gain) in gains.items():
        if name in arguments:
            gain = gain(basis.laplace, *map(torch.from_numpy, arguments[name]))
        expected = idctn(reference * dctn(x, axes=(1, 2), norm="ortho"), axes=(1, 2), norm="ortho")
        grid = torch.from_numpy(x)
        assert_close(physics.inverse_dct(gain * physics.dct(grid, basis), basis), torch.from_numpy(expected))


@property_test
@given(grids())
def test_poisson_solves_its_equation_with_mean_zero(x):
    source = torch.rand(x.shape[1:3], dtype=torch.float64) + 0.5
    u, basis = physics.poisson(x, source), physics.basis_like(x)
    f = source[..., None] * x
    minus_laplace = physics.inverse_dct(basis.laplace[..., None] * physics.dct(u, basis), basis)
    assert_close(minus_laplace, f - f.mean((1, 2), keepdim=True))
    assert_close(u.mean((1, 2)), torch.zeros_like(u[:, 0, 0]))


@property_test
@given(grids(square=True), nonnegative)
def test_all_three_commute_with_a_rotation_by_90_degrees(x, t):
    def rotate(grid):
        return torch.rot90(grid, dims=(1, 2))

    constant_source = torch.ones(x.shape[1:3], dtype=torch.float64)
    for solve in (
        lambda g: physics.heat(g, 1.0, t),
        lambda g: physics.wave(g, 1.0, t),
        lambda g: physics.poisson(g, constant_source),
    ):
        assert_close(solve(rotate(x)), rotate(solve(x)))


@property_test
@given(grids(), nonnegative, nonnegative)
def test_the_mixture_is_the_weighted_sum_of_the_three(x, c, t):
    weights = torch.rand(len(x), 3, dtype=torch.float64)
    source = torch.rand(x.shape[1:3], dtype=torch.float64)
    a = weights[:, :, None, None, None]
    separate = (
        a[:, 0] * physics.heat(x, 0.7, t) + a[:, 1] * physics.wave(x, c, t) + a[:, 2] * physics.poisson(x, source)
    )
    assert_close(physics.mixture(x, 0.7, c, t, source, weights), separate)


@pytest.mark.parametrize(("height", "width"), [(4, 4), (3, 5)])
def test_gradients_are_exact_for_every_input(height, width):
    generator = torch.Generator().manual_seed(0)

    def draw(*shape):
        return torch.rand(shape, dtype=torch.float64, generator=generator).requires_grad_()

    inputs = (draw(2, height, width, 3), draw(3), draw(3), draw(3), draw(height, width), draw(2, 3))
    assert gradcheck(physics.mixture, inputs)
