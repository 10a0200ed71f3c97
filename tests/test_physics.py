import numpy as np
import pytest
import torch

from moppa import physics


@pytest.fixture(scope="module")
def vectors(shared):
    return np.load(shared / "vectors" / "moppa_operator.npz")


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-10), (torch.float32, 1e-5)])
@pytest.mark.parametrize("case", range(4))
def test_the_operator_agrees_with_the_reference_vectors(vectors, case, dtype, tolerance):
    x, k, c, t, source, weights = (torch.from_numpy(vectors[f"{case}_{name}"]).to(dtype) for name in "XkctSa")
    found = {
        "heat": physics.heat(x, k, t),
        "wave": physics.wave(x, c, t),
        "poisson": physics.poisson(x, source),
        "Y": physics.mixture(x, k, c, t, source, weights),
    }
    for name, value in found.items():
        expected = torch.from_numpy(vectors[f"{case}_{name}"]).to(dtype)
        scale = max(1.0, float(expected.abs().max()))
        torch.testing.assert_close(value, expected, atol=tolerance * scale, rtol=0)
