"""LoRA against HF peft, and its ranks by depth."""

import pytest
import torch

from baselines import lora
from moppa.utils.errors import SettingError
from tests.baselines.low_rank import (
    TARGETS,
    assert_close,
    assert_equal_to_peft,
    assert_k_is_unchanged,
    attached,
    perturbed,
    vit,
)


@pytest.mark.parametrize("targets", [("q", "v"), TARGETS], ids=["q and v", "all"])
def test_lora_is_that_of_peft(targets):
    assert_equal_to_peft(lora, targets, use_dora=False)


def test_k_stays_bit_for_bit():
    assert_k_is_unchanged(lora)


def ranks_of(model):
    return [[len(down) for down in block.attn.qkv.parametrizations.weight[0].down] for block in model.blocks]


@pytest.mark.parametrize(
    ("rank", "depth", "expected"),
    [
        (3, 2, [3, 3]),
        ([5], 2, [5, 5]),
        ([2, 4, 6, 8], 8, [2, 2, 4, 4, 6, 6, 8, 8]),
        ([2, 4, 6, 8], 4, [2, 4, 6, 8]),
        ([2, 4, 6, 8], 6, [2, 4, 4, 6, 8, 8]),  # a middle on a border is in the higher share
        ([2, 4, 6, 8], 2, [4, 8]),
    ],
)
def test_ranks_divide_the_depth(rank, depth, expected):
    model = attached(lora, depth=depth, rank=rank, alpha=6, targets=["q", "v"])
    assert ranks_of(model) == [[rank, rank] for rank in expected]


def test_each_block_is_scaled_by_alpha_over_its_own_rank():
    model, stock = perturbed(attached(lora, rank=[1, 4], alpha=6, targets=["k"])), vit()
    for before, after, rank in zip(stock.blocks, model.blocks, (1, 4), strict=True):
        [delta] = after.attn.qkv.parametrizations.weight
        update = torch.einsum("or,ri->oi", delta.up[0], delta.down[0])
        assert_close(after.attn.qkv.weight[64:128], before.attn.qkv.weight[64:128] + 6 / rank * update)


@pytest.mark.parametrize(
    ("rank", "message"),
    [([], r"^rank=\[\]: give one rank"), ([2, 0], r"^rank=0: .*at least 1"), ([2, 65], r"^rank=65 .*64")],
)
def test_a_bad_rank_is_named(rank, message):
    with pytest.raises(SettingError, match=message):
        attached(lora, rank=rank, alpha=6, targets=["q", "v"])
