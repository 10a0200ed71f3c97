"""MoS against factors that are assembled from its shards, and how shards are selected."""

import pytest
import torch

from baselines import lora, mos
from moppa.peft.collect import trainable_parameters
from moppa.peft.inject import merge
from moppa.peft.shards import Pools
from moppa.utils.errors import SettingError
from tests.baselines.low_rank import LORA, assert_close, attached, backward, batch, perturbed, vit

SETTINGS = {
    "rank": 5,
    "budget_rank": 3,
    "private_rank": 1,
    "num_shards": 4,
    "alpha": 10,
    "targets": ("q", "v", "proj", "fc2"),
    "routing_seed": 3,
    "dropout": 0.0,
}


def deltas_by_block(model):
    """Yields, per block, every selection by its layer and the first row of the weight that it changes."""
    for block in model.blocks:
        q, v = block.attn.qkv.parametrizations.weight[0].selections
        [proj], [fc2] = (layer.parametrizations.weight[0].selections for layer in (block.attn.proj, block.mlp.fc2))
        yield {"attn.qkv 0": q, "attn.qkv 128": v, "attn.proj 0": proj, "mlp.fc2 0": fc2}


def test_the_factors_are_assembled_from_shards():
    model, reference = perturbed(attached(mos, depth=3, **SETTINGS)), vit(3)
    reference.head.load_state_dict(model.head.state_dict())
    leaves, weights = {}, {}
    for block, deltas in zip(reference.blocks, deltas_by_block(model), strict=True):
        for key, delta in deltas.items():
            path, start = key.split()
            layer = block.get_submodule(path)
            (pools,) = delta.shared
            for pool in (pools.down, pools.up):
                leaves.setdefault(pool, pool.detach().clone().requires_grad_())
            a, b = torch.zeros(5, layer.in_features), torch.zeros(64, 5)
            d_in, d_out = layer.in_features // 4, 16
            for row in range(5):
                for shard in range(4):
                    a[row, shard * d_in : (shard + 1) * d_in] = leaves[pools.down][delta.indices_down[row, shard]]
                    b[shard * d_out : (shard + 1) * d_out, row] = leaves[pools.up][delta.indices_up[row, shard]]
            update = torch.zeros(layer.out_features, layer.in_features)
            update[int(start) : int(start) + 64] = 10 / 5 * torch.einsum("or,ri->oi", b, a)
            weights[layer] = weights.get(layer, layer.weight.detach()) + update
    for layer, weight in weights.items():
        del layer.weight
        layer.weight = weight
    assert_close(backward(model), backward(reference))
    pools = {pool for name, pool in trainable_parameters(model).items() if not name.startswith("head")}
    assert pools == leaves.keys()
    assert len(pools) == 2 * 4
    for pool, leaf in leaves.items():
        assert leaf.grad.abs().max() > 1e-4
        assert_close(pool.grad, leaf.grad)


def test_pools_have_the_size_of_lora_and_one_name_each():
    model = attached(mos, depth=3, **SETTINGS)
    same_size = attached(lora, depth=3, **LORA, rank=3, alpha=3, targets=SETTINGS["targets"])
    sizes = [sum(parameter.numel() for parameter in trainable_parameters(one).values()) for one in (model, same_size)]
    assert sizes[0] == sizes[1]
    names = [name for name in model.state_dict() if "pools" in name]
    assert names == [name for name in trainable_parameters(model) if "pools" in name]
    assert len(names) == 2 * 4
    assert not [name for name in model.state_dict() if "indices" in name]
    assert merge(model).state_dict().keys() == vit(3).state_dict().keys()


def test_shards_are_private_or_shared_and_selected_separately_for_a_and_b():
    model = attached(mos, depth=6, **SETTINGS)
    num_shared = 6 * (3 - 1) * 4
    blocks = list(deltas_by_block(model))
    for key in blocks[0]:
        for side in ("indices_down", "indices_up"):
            selections = [getattr(deltas[key], side).flatten().tolist() for deltas in blocks]
            private = [sorted(index for index in selection if index >= num_shared) for selection in selections]
            assert [index for own in private for index in own] == list(range(num_shared, num_shared + 6 * 4))
            shared = [{index for index in selection if index < num_shared} for selection in selections]
            assert [len(selection) for selection in shared] == [(5 - 1) * 4] * 6  # none twice in a layer
            assert len(set.union(*shared)) > 2 / 3 * num_shared  # each layer selects another third
        assert all(not torch.equal(deltas[key].indices_down, deltas[key].indices_up) for deltas in blocks)
    assert not torch.equal(blocks[0]["attn.qkv 0"].indices_down, blocks[0]["attn.qkv 128"].indices_down)
    assert not torch.equal(blocks[0]["attn.proj 0"].indices_up, blocks[1]["attn.proj 0"].indices_up)


def test_a_pool_that_is_smaller_than_a_layer_repeats_its_shards():
    model = attached(mos, **{**SETTINGS, "rank": 8, "budget_rank": 1, "private_rank": 0})
    indices = next(deltas_by_block(model))["attn.qkv 0"].indices_down.flatten()
    assert torch.equal(indices.bincount(), torch.full((8,), 4))  # 2 layers x 4 shards, each 4 times in 8 x 4


def test_mos_without_sharing_is_lora():
    settings = {**SETTINGS, "rank": 2, "budget_rank": 2, "private_rank": 2, "targets": ["q"]}
    model, same = perturbed(attached(mos, **settings)), attached(lora, **LORA, rank=2, alpha=10, targets=["q"])
    [pools] = {module for module in model.modules() if isinstance(module, Pools)}
    with torch.no_grad():
        for depth, block in enumerate(same.blocks):
            [delta] = block.attn.qkv.parametrizations.weight
            delta.down[0].copy_(pools.down.view(2, 2, 64)[depth])
            delta.up[0].copy_(pools.up.view(2, 2, 64)[depth].T)
    same.head.load_state_dict(model.head.state_dict())
    assert_close(model(batch()[0]), same(batch()[0]))


def test_the_indices_depend_on_their_own_seed_only():
    before = torch.get_rng_state()
    one, same, other = (
        next(deltas_by_block(attached(mos, seed=seed, **{**SETTINGS, "routing_seed": routing_seed})))["attn.qkv 128"]
        for seed, routing_seed in ((0, 3), (1, 3), (0, 4))
    )
    assert torch.equal(torch.get_rng_state(), before)
    assert torch.equal(one.indices_down, same.indices_down)
    assert not torch.equal(one.shared[0].down, same.shared[0].down)
    assert not torch.equal(one.indices_down, other.indices_down)
    assert torch.equal(one.shared[0].down, other.shared[0].down)


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ({"rank": 65}, r"^rank=65 .*64"),
        ({"budget_rank": 0}, r"^budget_rank=0: .*at least 1"),
        ({"private_rank": -1}, r"^private_rank=-1: .*at least 0"),
        ({"private_rank": 4}, r"^private_rank=4: .*budget_rank=3.*smaller"),
        ({"private_rank": 3}, r"^private_rank=3: .*rank=5.*smaller"),
        ({"num_shards": 5}, r"^num_shards=5 .*64 x 64.*divisor of 64"),
        ({"routing_seed": -1}, r"^routing_seed=-1: .*at least 0"),
        ({"alpha": 0}, r"^alpha=0: .*above 0"),
        ({"dropout": 1.0}, r"^dropout=1\.0: .*at most 0\.9"),
        ({"targets": ["q", "q"]}, r"^targets=\['q', 'q'\]: .*each once"),
    ],
)
def test_a_bad_setting_is_named(setting, message):
    with pytest.raises(SettingError, match=message):
        attached(mos, **{**SETTINGS, **setting})
