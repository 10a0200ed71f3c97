"""Low-rank updates: the fast output and the full weight agree, with and without gains, biases and stacked matrices."""

import copy

import pytest
import torch
from torch import nn

from moppa.peft.inject import disable_output_deltas, merge, parametrize_weights
from moppa.peft.low_rank import LowRankDelta, check_rank
from moppa.utils.errors import SettingError


def drawn(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


class Delta(LowRankDelta):
    """Factors and gains that are parameters."""

    def __init__(self, is_adapted, *, has_gains):
        super().__init__()
        self.is_adapted, d_matrix = is_adapted, 12 // len(is_adapted)
        self.down = nn.ParameterList(drawn(2, 5, seed=10 + index) for index in range(sum(is_adapted)))
        self.up = nn.ParameterList(drawn(d_matrix, 2, seed=20 + index) for index in range(sum(is_adapted)))
        self.gain = nn.Parameter(drawn(12, 1, seed=30)) if has_gains else None

    def factors(self):
        return list(self.down), list(self.up)

    def gains(self, weight):
        return self.gain


@pytest.mark.parametrize("has_bias", [True, False], ids=["bias", "no bias"])
@pytest.mark.parametrize("has_gains", [True, False], ids=["gains", "no gains"])
@pytest.mark.parametrize("is_adapted", [(True,), (True, False, True), (False, True, False)], ids=str)
def test_the_fast_output_is_that_of_the_full_weight(is_adapted, has_gains, has_bias):
    layer = nn.Linear(5, 12, bias=has_bias).double().requires_grad_(False)
    layer.weight.copy_(drawn(12, 5, seed=1))
    pretrained = layer.weight.clone()
    parametrize_weights(layer, weight=Delta(is_adapted, has_gains=has_gains))
    x = drawn(3, 7, 5, seed=2).requires_grad_()
    results = []
    for one in (layer, disable_output_deltas(copy.deepcopy(layer))):
        y = one(x)
        parameters = [x, *(parameter for parameter in one.parameters() if parameter.requires_grad)]
        results.append([y, *torch.autograd.grad((y * drawn(*y.shape, seed=3)).sum(), parameters)])
    for fast, full in zip(*results, strict=True):
        torch.testing.assert_close(fast, full, atol=1e-12, rtol=1e-12)

    delta = layer.parametrizations.weight[0]
    updates, expected = iter(zip(delta.up, delta.down, strict=True)), []
    for matrix, adapted in zip(pretrained.chunk(len(is_adapted)), is_adapted, strict=True):
        up, down = next(updates) if adapted else (torch.zeros(1, 1).double(), torch.zeros(1, 5).double())
        expected.append(matrix + up @ down)
    expected = torch.cat(expected) * (delta.gain if has_gains else 1)
    torch.testing.assert_close(merge(layer).weight.detach(), expected.detach(), atol=1e-12, rtol=0)


def test_a_rank_above_that_of_the_weight_is_named():
    assert check_rank(3, (4, 3)) == 3
    with pytest.raises(SettingError, match=r"^rank=4 is above 3, the most for a 4 x 3 weight"):
        check_rank(4, (4, 3))
    with pytest.raises(SettingError, match=r"^rank=0: it must be an integer of at least 1"):
        check_rank(0, (4, 3))
