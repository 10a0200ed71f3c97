"""BOFT against HF peft with one, two and three factors, and what its rotations are."""

import pytest
import torch
from peft.tuners.boft import layer as peft_boft
from torch import nn

from baselines import boft
from moppa.peft.rotation import RotationDelta
from moppa.peft.targets import target_linears
from moppa.utils.errors import SettingError
from tests.baselines.low_rank import TARGETS, delta_at, perturbed, vit
from tests.baselines.peft_oracle import assert_equal_to_peft, injected


def attached(**settings):
    model = vit()
    boft.attach(model, **{"block_size": 4, "num_factors": 2, "targets": ["q", "v"], **settings})
    return perturbed(model)


class SkewSymmetric(nn.Module):
    """peft's matrices of BOFT as a function of the entries above their diagonals."""

    def __init__(self, matrices):
        super().__init__()
        size = matrices.shape[-1]
        self.rows, self.columns = torch.triu_indices(size, size, 1)
        self.shape, self.entries = matrices.shape, nn.Parameter(torch.zeros(*matrices.shape[:2], len(self.rows)))

    def keys(self):
        return ["default"]

    def __getitem__(self, _):
        upper = self.entries.new_zeros(self.shape)
        upper[..., self.rows, self.columns] = self.entries
        return upper - upper.mT


class OnePlus(nn.Module):
    """peft's scale as a function of our gain."""

    def forward(self, gain):
        return 1 + gain


def in_python(blocks):
    """Returns what peft's CUDA extension does: one block-diagonal matrix for each factor."""
    return torch.stack([torch.block_diag(*factor) for factor in blocks])


@pytest.mark.parametrize(
    ("num_factors", "targets"),
    [
        pytest.param(1, ("q", "v"), marks=pytest.mark.slow),
        (2, ("q", "v")),
        pytest.param(3, TARGETS, marks=pytest.mark.slow),
    ],
)
def test_boft_is_that_of_peft(num_factors, targets, monkeypatch):
    monkeypatch.setattr(peft_boft, "get_fbd_cuda", lambda: True)
    monkeypatch.setattr(peft_boft.FastBlockDiag, "apply", in_python)
    ours = attached(num_factors=num_factors, targets=targets)
    theirs, layers = injected("BOFTConfig", targets, boft_block_size=4, boft_n_butterfly_factor=num_factors)
    pairs = []
    for key, layer in layers.items():
        delta, index = delta_at(ours, *key)
        layer.boft_R = SkewSymmetric(layer.boft_R["default"])
        layer.boft_s["default"] = gain = nn.Parameter(torch.zeros_like(layer.boft_s["default"]))
        nn.utils.parametrize.register_parametrization(layer.boft_s, "default", OnePlus())
        pairs += [(delta.skew[index], layer.boft_R.entries), (delta.gains[index], gain)]
    assert_equal_to_peft(ours, theirs, pairs)


def test_a_rotation_with_all_factors_is_dense_and_orthogonal():
    [target, *_] = target_linears(vit(), ["proj"], method="BOFT")
    delta = RotationDelta(target, block_size=4, num_factors=5).double()
    rotation = delta(torch.eye(64, dtype=torch.float64))
    assert torch.equal(rotation, torch.eye(64, dtype=torch.float64))
    nn.init.normal_(delta.skew[0], std=0.5, generator=torch.Generator().manual_seed(0))
    rotation = delta(torch.eye(64, dtype=torch.float64)).detach()
    torch.testing.assert_close(rotation @ rotation.T, torch.eye(64, dtype=torch.float64), atol=1e-12, rtol=0)
    assert rotation.abs().min() > 0


def test_the_initial_weight_is_exact_in_every_precision():
    stock, model = vit(depth=1), vit(depth=1)
    boft.attach(model, block_size=4, num_factors=2, targets=TARGETS)
    for dtype in (torch.float64, torch.float32, torch.bfloat16):
        before, after = stock.to(dtype).blocks[0], model.to(dtype).blocks[0]
        assert torch.equal(before.attn.qkv.weight, after.attn.qkv.weight)
        assert torch.equal(before.mlp.fc2.weight, after.mlp.fc2.weight)


def test_k_stays_bit_for_bit():
    model = attached()
    for before, after in zip(vit().blocks, model.blocks, strict=True):
        pairs = zip(before.attn.qkv.weight.chunk(3), after.attn.qkv.weight.chunk(3), strict=True)
        assert [old.equal(new) for old, new in pairs] == [False, True, False]


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ({"block_size": 1}, r"^block_size=1: .*at least 2"),
        ({"block_size": 24}, r"^block_size=24 does not divide the 64 inputs"),
        ({"num_factors": 0}, r"^num_factors=0: .*at least 1"),
        ({"num_factors": 5}, r"^num_factors=5: 64 inputs in blocks of 8 have at most 4; choose fewer"),
    ],
)
def test_a_bad_setting_is_named(setting, message):
    with pytest.raises(SettingError, match=message):
        attached(**{"block_size": 8, **setting})
