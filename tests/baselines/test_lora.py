"""LoRA against HF peft, and its ranks by depth."""

import pytest
import torch

from baselines import lora
from moppa.peft.inject import disable_output_deltas, merge
from moppa.utils.errors import SettingError, UserError
from tests.baselines.low_rank import (
    LORA,
    TARGETS,
    assert_close,
    assert_equal_to_peft,
    assert_k_is_unchanged,
    attached,
    batch,
    perturbed,
    vit,
)


@pytest.mark.parametrize("targets", [("q", "v"), TARGETS], ids=["q and v", "all"])
def test_lora_is_that_of_peft(targets):
    assert_equal_to_peft(lora, targets, use_dora=False)


def test_k_stays_bit_for_bit():
    assert_k_is_unchanged(lora, **LORA)


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
    model = attached(lora, **LORA, depth=depth, rank=rank, alpha=6, targets=["q", "v"])
    assert ranks_of(model) == [[rank, rank] for rank in expected]


def test_each_block_is_scaled_by_alpha_over_its_own_rank():
    model, stock = perturbed(attached(lora, **LORA, rank=[1, 4], alpha=6, targets=["k"])), vit()
    for before, after, rank in zip(stock.blocks, model.blocks, (1, 4), strict=True):
        [delta] = after.attn.qkv.parametrizations.weight
        update = torch.einsum("or,ri->oi", delta.up[0], delta.down[0])
        assert_close(after.attn.qkv.weight[64:128], before.attn.qkv.weight[64:128] + 6 / rank * update)


@pytest.mark.parametrize(
    ("rank", "message"),
    [([], r"^rank=\[\]: give one value"), ([2, 0], r"^rank=0: .*at least 1"), ([2, 65], r"^rank=65 .*64")],
)
def test_a_bad_rank_is_named(rank, message):
    with pytest.raises(SettingError, match=message):
        attached(lora, **LORA, rank=rank, alpha=6, targets=["q", "v"])


def test_a_list_of_alphas_keeps_the_scale_constant():
    model = attached(lora, **LORA, rank=[1, 4], alpha=[2, 8], targets=["k"])
    assert [block.attn.qkv.parametrizations.weight[0].scale for block in model.blocks] == [2, 2]


def test_q_k_and_v_may_share_one_down_factor():
    settings = {**LORA, "share_down": True, "init": "normal"}
    model, stock = perturbed(attached(lora, **settings, rank=2, alpha=4, targets=["q", "k", "v", "fc1"])), vit()
    for before, after in zip(stock.blocks, model.blocks, strict=True):
        [delta] = after.attn.qkv.parametrizations.weight
        assert [len(delta.down), len(delta.up)] == [1, 3]
        update = torch.cat([2 * torch.einsum("or,ri->oi", up, delta.down[0]) for up in delta.up])
        assert_close(after.attn.qkv.weight, before.attn.qkv.weight + update)


def test_dropout_acts_on_what_the_update_reads_in_training_only():
    model = perturbed(attached(lora, **{**LORA, "dropout": 0.5}, rank=2, alpha=2, targets=["fc1"]))
    layer = model.blocks[0].mlp.fc1
    [delta] = layer.parametrizations.weight
    x = torch.randn(7, 64, generator=torch.Generator().manual_seed(0))
    assert_close(layer(x), torch.nn.functional.linear(x, layer.weight, layer.bias))
    layer.train()
    torch.manual_seed(0)
    kept = torch.nn.functional.dropout(x, 0.5)
    torch.manual_seed(0)
    stock = torch.nn.functional.linear(x, layer.parametrizations.weight.original, layer.bias)
    assert_close(layer(x), stock + torch.einsum("bi,ri,or->bo", kept, delta.down[0], delta.up[0]))
    with pytest.raises(UserError, match=r"dropout acts on activations.*set dropout=0"):
        disable_output_deltas(model)(batch()[0])
    merge(model)  # without activations there is nothing to drop


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ({"init": "zeros"}, r"^init='zeros'.*kaiming_uniform, truncated_normal, normal, xavier_uniform"),
        ({"dropout": 1.0}, r"^dropout=1\.0: .*at most 0\.9"),
        ({"alpha": []}, r"^alpha=\[\]: give one value"),
        ({"alpha": [1, 0]}, r"^alpha=0: .*above 0"),
    ],
)
def test_a_bad_setting_is_named(setting, message):
    with pytest.raises(SettingError, match=message):
        attached(lora, **{**LORA, "rank": 2, "alpha": 2, "targets": ["q"], **setting})
