"""LoRA's relatives, each against an oracle that shares no code with it, away from their start."""

import pytest
import timm
import torch
import torch.nn.functional as F
from torch import nn

from baselines import dora, lora, mos, nola
from moppa.peft.collect import trainable_parameters
from moppa.peft.inject import merge
from moppa.utils.errors import UserError

EVERY = ("q", "k", "v", "proj", "fc1", "fc2")


def vit(depth=2):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = timm.create_model("test_vit", depth=depth, img_size=64, num_classes=10).requires_grad_(False)
    model.get_classifier().requires_grad_(True)
    return model.eval()


def attached(method, depth=2, seed=0, **settings):
    model = vit(depth)
    method.attach(model, generator=torch.Generator().manual_seed(seed), **settings)
    return model


@torch.no_grad()
def moved(model, size=0.2):
    """The model with every trainable tensor away from its start."""
    generator = torch.Generator().manual_seed(1)
    for parameter in trainable_parameters(model).values():
        parameter.add_(size * torch.randn(parameter.shape, generator=generator))
    return model


def batch():
    generator = torch.Generator().manual_seed(2)
    return torch.randn(4, 3, 64, 64, generator=generator), torch.arange(4)


def backward(model):
    """The logits of the batch; the gradients are then at the parameters."""
    images, labels = batch()
    logits = model(images)
    F.cross_entropy(logits, labels).backward()
    return logits.detach()


def close(actual, expected):
    torch.testing.assert_close(actual, expected, atol=2e-5, rtol=1e-4)


class Unfused(nn.Module):
    """timm's fused qkv as three layers, which peft can adapt one by one."""

    def __init__(self, qkv):
        super().__init__()
        self.q, self.k, self.v = (nn.Linear(qkv.in_features, qkv.out_features // 3) for _ in range(3))
        for layer, weight, bias in zip((self.q, self.k, self.v), qkv.weight.chunk(3), qkv.bias.chunk(3), strict=True):
            layer.weight, layer.bias = nn.Parameter(weight, False), nn.Parameter(bias, False)

    def forward(self, x):
        return torch.cat([self.q(x), self.k(x), self.v(x)], dim=-1)


def by_peft(targets, **settings):
    """The same model as HF peft adapts it: its modules, by block and target."""
    from peft import LoraConfig, inject_adapter_in_model

    model = vit()
    for block in model.blocks:
        block.attn.qkv = Unfused(block.attn.qkv)
    paths = {"proj": "attn.proj", "fc1": "mlp.fc1", "fc2": "mlp.fc2"} | {part: f"attn.qkv.{part}" for part in "qkv"}
    names = {
        (depth, target): f"blocks.{depth}.{paths[target]}" for depth in range(len(model.blocks)) for target in targets
    }
    config = LoraConfig(target_modules=list(names.values()), lora_dropout=0.0, **settings)
    model = inject_adapter_in_model(config, model).eval()
    model.get_classifier().requires_grad_(True)
    return model, {place: model.get_submodule(name) for place, name in names.items()}


def learned_at(model, depth, target):
    """Our tensors at a place: the delta, and which of its parts the target is."""
    block = model.blocks[depth]
    layer = {"proj": block.attn.proj, "fc1": block.mlp.fc1, "fc2": block.mlp.fc2}.get(target, block.attn.qkv)
    [delta] = layer.parametrizations.weight
    before = 0 if len(delta.parts) == 1 else sum(delta.parts[: "qkv".index(target)])
    return delta, before


@pytest.mark.parametrize("targets", [("q", "v"), EVERY], ids=["q and v", "all"])
@pytest.mark.parametrize("method", [lora, dora], ids=["lora", "dora"])
def test_lora_and_dora_are_those_of_peft(method, targets):
    ours = moved(attached(method, rank=3, alpha=6, targets=targets))
    theirs, layers = by_peft(targets, r=3, lora_alpha=6, use_dora=method is dora)
    theirs.head.load_state_dict(ours.head.state_dict())
    pairs = []
    for place, layer in layers.items():
        delta, part = learned_at(ours, *place)
        pairs += [
            (delta.down[part], layer.lora_A["default"].weight),
            (delta.up[part], layer.lora_B["default"].weight),
        ]
        if method is dora:
            magnitude = layer.lora_magnitude_vector["default"].weight
            with torch.no_grad():  # peft's starts at the norm of W, ours is the distance from it
                magnitude += delta.magnitude[part].flatten()
            pairs.append((delta.magnitude[part], magnitude))
    with torch.no_grad():
        for our, their in pairs:
            if our.shape == their.shape:
                their.copy_(our)
    close(backward(ours), backward(theirs))
    for our, their in pairs:
        assert their.grad.abs().max() > 1e-4
        close(our.grad.view_as(their), their.grad)
    assert {id(our) for our, _ in pairs} == {
        id(p) for n, p in trainable_parameters(ours).items() if not n.startswith("head")
    }


@pytest.mark.parametrize("method", [lora, dora], ids=["lora", "dora"])
def test_what_is_not_adapted_stays_bit_for_bit(method):
    stock, model = vit(), moved(attached(method, rank=2, alpha=2, targets=["q", "v"]))
    for before, after in zip(stock.blocks, model.blocks, strict=True):
        q, k, v = (
            a.equal(b) for a, b in zip(before.attn.qkv.weight.chunk(3), after.attn.qkv.weight.chunk(3), strict=True)
        )
        assert (q, k, v) == (False, True, False)
    assert stock.state_dict().keys() == merge(model).state_dict().keys()


def test_doras_start_is_exact_in_every_precision():
    for dtype in (torch.float64, torch.float32, torch.bfloat16):
        stock, model = vit().to(dtype), attached(dora, rank=2, alpha=2, targets=EVERY).to(dtype)
        for before, after in zip(stock.blocks, model.blocks, strict=True):
            assert torch.equal(before.attn.qkv.weight, after.attn.qkv.weight)
            assert torch.equal(before.mlp.fc2.weight, after.mlp.fc2.weight)


def test_doras_magnitudes_are_the_norms():
    model = moved(attached(dora, rank=2, alpha=2, targets=["v"]))
    stock = vit()
    for before, after in zip(stock.blocks, model.blocks, strict=True):
        [delta] = after.attn.qkv.parametrizations.weight
        start = before.attn.qkv.weight[2 * 64 :].norm(dim=1)
        close(after.attn.qkv.weight[2 * 64 :].norm(dim=1), (start + delta.magnitude[0].flatten()).abs())


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"rank": 0}, r"method\.attach\.rank=0: .*at least 1"),
        ({"rank": 65}, r"method\.attach\.rank=65 .*64"),
        ({"alpha": -1}, r"method\.attach\.alpha=-1: .*above 0"),
        ({"targets": ["w"]}, r"'w'.*q, k, v, proj, fc1, fc2"),
    ],
)
def test_dora_says_what_is_wrong(settings, words):
    with pytest.raises(UserError, match=words):
        attached(dora, **{"rank": 2, "alpha": 2, "targets": ["q"], **settings})


NOLA = {"rank": 3, "num_bases": 7, "scale": 2, "targets": EVERY, "bases_seed": 5}


def test_nola_is_a_sum_of_random_matrices():
    ours, naive = moved(attached(nola, **NOLA), size=1.0), vit()
    naive.head.load_state_dict(ours.head.state_dict())
    coefficients = {}
    for before, after in zip(naive.blocks, ours.blocks, strict=True):
        for old, new in (
            (before.attn.qkv, after.attn.qkv),
            (before.attn.proj, after.attn.proj),
            (before.mlp.fc1, after.mlp.fc1),
            (before.mlp.fc2, after.mlp.fc2),
        ):
            [delta] = new.parametrizations.weight
            copies = [p.detach().clone().requires_grad_() for p in (delta.alpha, delta.beta)]
            coefficients |= dict(zip((delta.alpha, delta.beta), copies, strict=True))
            count, d_in = len(delta.alpha), old.in_features
            d_out = old.out_features // count
            a = getattr(delta.bases, f"down_{d_in}").view(7, 3, d_in)
            b = getattr(delta.bases, f"up_{d_out}").view(7, d_out, 3)
            update = torch.einsum("pi,pj,ird,jor->pod", *copies, a, b).reshape(old.weight.shape)
            frozen = old.weight
            del old.weight
            old.weight = frozen + 2 / 3 * update
    close(backward(ours), backward(naive))
    assert len(coefficients) == 2 * 4 * 2
    for our, their in coefficients.items():
        assert their.grad.abs().max() > 1e-4
        close(our.grad, their.grad)


def test_nolas_bases_are_one_set_for_all_layers_and_never_saved():
    model = attached(nola, **NOLA)
    [bases] = {m for m in model.modules() if isinstance(m, nola.Bases)}
    assert {name: tuple(basis.shape) for name, basis in bases.named_buffers()} == {
        "down_64": (7, 192),
        "down_192": (7, 576),
        "up_64": (7, 192),
        "up_192": (7, 576),
    }
    assert not [name for name in model.state_dict() if "bases" in name]
    assert not [name for name in trainable_parameters(model) if "bases" in name]
    for basis in bases.buffers():
        bound = basis.shape[1] ** -0.5
        assert 0.95 * bound < basis.abs().max() <= bound
        assert basis.unique().numel() > 0.99 * basis.numel()


def test_nolas_bases_come_from_their_own_seed_alone():
    def bases_of(seed=0, **settings):
        model = attached(nola, seed=seed, **{**NOLA, **settings})
        return model.blocks[0].mlp.fc1.parametrizations.weight[0]

    before = torch.get_rng_state()
    one, same, other = bases_of(), bases_of(seed=1, targets=["fc1"]), bases_of(bases_seed=6)
    assert torch.equal(torch.get_rng_state(), before)
    assert torch.equal(one.bases.down_64, same.bases.down_64)
    assert torch.equal(one.bases.up_192, same.bases.up_192)
    assert not torch.equal(one.alpha, same.alpha)
    assert not torch.equal(one.bases.down_64, other.bases.down_64)
    assert torch.equal(one.alpha, other.alpha)


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"rank": 65}, r"method\.attach\.rank=65 .*64"),
        ({"num_bases": 0}, r"method\.attach\.num_bases=0: .*at least 1"),
        ({"bases_seed": -1}, r"method\.attach\.bases_seed=-1: .*at least 0"),
        ({"scale": 0}, r"method\.attach\.scale=0: .*above 0"),
        ({"targets": []}, r"method\.attach\.targets=\[\]"),
    ],
)
def test_nola_says_what_is_wrong(settings, words):
    with pytest.raises(UserError, match=words):
        attached(nola, **{**NOLA, **settings})


def ranks_at(model):
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
def test_ranks_share_the_depth(rank, depth, expected):
    model = attached(lora, depth=depth, rank=rank, alpha=6, targets=["q", "v"])
    assert ranks_at(model) == [[rank, rank] for rank in expected]


def test_each_block_is_scaled_by_alpha_over_its_own_rank():
    model, stock = moved(attached(lora, rank=[1, 4], alpha=6, targets=["k"])), vit()
    for before, after, rank in zip(stock.blocks, model.blocks, (1, 4), strict=True):
        [delta] = after.attn.qkv.parametrizations.weight
        update = torch.einsum("or,ri->oi", delta.up[0], delta.down[0])
        close(after.attn.qkv.weight[64:128], before.attn.qkv.weight[64:128] + 6 / rank * update)


@pytest.mark.parametrize(
    ("rank", "words"),
    [([], r"method\.attach\.rank=\[\]: give one rank"), ([2, 0], r"rank=0: .*at least 1"), ([2, 65], r"rank=65 .*64")],
)
def test_ranks_that_are_none_are_said(rank, words):
    with pytest.raises(UserError, match=words):
        attached(lora, rank=rank, alpha=6, targets=["q", "v"])


MOS = {
    "rank": 5,
    "budget_rank": 3,
    "private_rank": 1,
    "num_shards": 4,
    "alpha": 10,
    "targets": ("q", "v", "proj", "fc2"),
    "routing_seed": 3,
}


def sharded(model):
    """Every delta of MoS with the layer, and the rows of its weight that the delta changes."""
    for block in model.blocks:
        q, v = block.attn.qkv.parametrizations.weight
        [proj], [fc2] = block.attn.proj.parametrizations.weight, block.mlp.fc2.parametrizations.weight
        yield {"attn.qkv 0": q, "attn.qkv 128": v, "attn.proj 0": proj, "mlp.fc2 0": fc2}


def test_mos_is_put_together_from_shards():
    ours, naive = moved(attached(mos, depth=3, **MOS)), vit(3)
    naive.head.load_state_dict(ours.head.state_dict())
    copies, layers = {}, {}
    for block, deltas in zip(naive.blocks, sharded(ours), strict=True):
        for place, delta in deltas.items():
            path, start = place.split()
            layer = block.get_submodule(path)
            (pools,) = delta.shared
            for pool in (pools.down, pools.up):
                copies.setdefault(pool, pool.detach().clone().requires_grad_())
            a, b = torch.zeros(5, layer.in_features), torch.zeros(64, 5)
            d_in, d_out = layer.in_features // 4, 16
            for row in range(5):
                for at in range(4):
                    a[row, at * d_in : (at + 1) * d_in] = copies[pools.down][delta.picks_down[row, at]]
                    b[at * d_out : (at + 1) * d_out, row] = copies[pools.up][delta.picks_up[row, at]]
            update = torch.zeros(layer.out_features, layer.in_features)
            update[int(start) : int(start) + 64] = 10 / 5 * torch.einsum("or,ri->oi", b, a)
            layers[layer] = layers.get(layer, layer.weight.detach()) + update
    for layer, weight in layers.items():
        del layer.weight
        layer.weight = weight
    close(backward(ours), backward(naive))
    method = {pool for name, pool in trainable_parameters(ours).items() if not name.startswith("head")}
    assert method == copies.keys()
    assert len(method) == 2 * 4
    for pool, copy in copies.items():
        assert copy.grad.abs().max() > 1e-4
        close(pool.grad, copy.grad)


def test_mos_pools_have_the_size_of_lora_and_one_name_each():
    model, same_size = attached(mos, depth=3, **MOS), attached(lora, depth=3, rank=3, alpha=3, targets=MOS["targets"])
    assert sum(p.numel() for p in trainable_parameters(model).values()) == sum(
        p.numel() for p in trainable_parameters(same_size).values()
    )
    names = [name for name in model.state_dict() if "pools" in name]
    assert names == [name for name in trainable_parameters(model) if "pools" in name]
    assert len(names) == 2 * 4
    assert not [name for name in model.state_dict() if "picks" in name]
    assert merge(model).state_dict().keys() == vit(3).state_dict().keys()


def test_mos_shards_are_private_or_shared_and_picked_apart_for_a_and_b():
    model = attached(mos, depth=6, **MOS)
    num_shared = 6 * (3 - 1) * 4
    blocks = list(sharded(model))
    for place in blocks[0]:
        for side in ("picks_down", "picks_up"):
            picks = [getattr(deltas[place], side).flatten().tolist() for deltas in blocks]
            private = [sorted(index for index in picked if index >= num_shared) for picked in picks]
            assert [index for own in private for index in own] == list(range(num_shared, num_shared + 6 * 4))
            shared = [{index for index in picked if index < num_shared} for picked in picks]
            assert [len(picked) for picked in shared] == [(5 - 1) * 4] * 6  # none twice in a layer
            assert len(set.union(*shared)) > 2 / 3 * num_shared  # one layer picks a third, each another
        assert all(not torch.equal(deltas[place].picks_down, deltas[place].picks_up) for deltas in blocks)
    assert not torch.equal(blocks[0]["attn.qkv 0"].picks_down, blocks[0]["attn.qkv 128"].picks_down)
    assert not torch.equal(blocks[0]["attn.proj 0"].picks_up, blocks[1]["attn.proj 0"].picks_up)


def test_a_pool_that_is_smaller_than_a_layer_is_picked_again():
    model = attached(mos, **{**MOS, "rank": 8, "budget_rank": 1, "private_rank": 0})
    picks = next(sharded(model))["attn.qkv 0"].picks_down.flatten()
    assert torch.equal(picks.bincount(), torch.full((8,), 4))  # 2 layers x 4 shards, each 4 times in 8 x 4


def test_mos_without_sharing_is_lora():
    model = moved(attached(mos, **{**MOS, "rank": 2, "budget_rank": 2, "private_rank": 2, "targets": ["q"]}))
    same = attached(lora, rank=2, alpha=10, targets=["q"])
    [pools] = {m for m in model.modules() if isinstance(m, mos.Pools)}
    with torch.no_grad():
        for depth, block in enumerate(same.blocks):
            [delta] = block.attn.qkv.parametrizations.weight
            delta.down[0].copy_(pools.down.view(2, 2, 64)[depth])
            delta.up[0].copy_(pools.up.view(2, 2, 64)[depth].T)
    same.head.load_state_dict(model.head.state_dict())
    close(model(batch()[0]), same(batch()[0]))


def test_mos_indices_come_from_their_own_seed_alone():
    before = torch.get_rng_state()
    one, same, other = (
        next(sharded(attached(mos, seed=seed, **{**MOS, "routing_seed": routing})))["attn.qkv 128"]
        for seed, routing in ((0, 3), (1, 3), (0, 4))
    )
    assert torch.equal(torch.get_rng_state(), before)
    assert torch.equal(one.picks_down, same.picks_down)
    assert not torch.equal(one.shared[0].down, same.shared[0].down)
    assert not torch.equal(one.picks_down, other.picks_down)
    assert torch.equal(one.shared[0].down, other.shared[0].down)


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"rank": 65}, r"method\.attach\.rank=65 .*64"),
        ({"budget_rank": 0}, r"method\.attach\.budget_rank=0: .*at least 1"),
        ({"private_rank": -1}, r"method\.attach\.private_rank=-1: .*at least 0"),
        ({"private_rank": 4}, r"method\.attach\.private_rank=4: .*budget_rank=3.*smaller"),
        ({"private_rank": 3}, r"method\.attach\.private_rank=3: .*rank=5.*smaller"),
        ({"num_shards": 5}, r"method\.attach\.num_shards=5 .*64 x 64.*divisor of 64"),
        ({"routing_seed": -1}, r"method\.attach\.routing_seed=-1: .*at least 0"),
        ({"alpha": 0}, r"method\.attach\.alpha=0: .*above 0"),
        ({"targets": ["q", "q"]}, r"method\.attach\.targets=\['q', 'q'\]: .*each once"),
    ],
)
def test_mos_says_what_is_wrong(settings, words):
    with pytest.raises(UserError, match=words):
        attached(mos, **{**MOS, **settings})
