"""OFT against HF peft."""

import pytest
import torch

from baselines import oft
from moppa.utils.errors import SettingError
from tests.baselines.low_rank import TARGETS, delta_at, perturbed, vit
from tests.baselines.peft_oracle import assert_equal_to_peft, injected


def attached(**settings):
    model = vit()
    oft.attach(model, **settings)
    return perturbed(model)


@pytest.mark.parametrize(
    "targets", [pytest.param(("q", "v"), id="q and v"), pytest.param(TARGETS, id="all", marks=pytest.mark.slow)]
)
def test_oft_is_that_of_peft(targets):
    ours = attached(block_size=8, targets=targets)
    theirs, layers = injected("OFTConfig", targets, oft_block_size=8, use_cayley_neumann=False)
    pairs = []
    for key, layer in layers.items():
        delta, index = delta_at(ours, *key)
        pairs.append((delta.skew[index], layer.oft_R["default"].weight))
    assert_equal_to_peft(ours, theirs, pairs)


def test_the_initial_weight_is_exact_in_every_precision():
    stock, model = vit(depth=1), vit(depth=1)
    oft.attach(model, block_size=16, targets=TARGETS)
    for dtype in (torch.float64, torch.float32, torch.bfloat16):
        before, after = stock.to(dtype).blocks[0], model.to(dtype).blocks[0]
        assert torch.equal(before.attn.qkv.weight, after.attn.qkv.weight)
        assert torch.equal(before.mlp.fc2.weight, after.mlp.fc2.weight)


def test_k_stays_bit_for_bit():
    model = attached(block_size=4, targets=["q", "v"])
    for before, after in zip(vit().blocks, model.blocks, strict=True):
        pairs = zip(before.attn.qkv.weight.chunk(3), after.attn.qkv.weight.chunk(3), strict=True)
        assert [old.equal(new) for old, new in pairs] == [False, True, False]


@pytest.mark.parametrize(
    ("block_size", "message"), [(1, r"^block_size=1: .*at least 2"), (24, r"^block_size=24 does not divide the 64")]
)
def test_a_bad_block_size_is_named(block_size, message):
    with pytest.raises(SettingError, match=message):
        attached(block_size=block_size, targets=["q"])
