"""SPT: what it estimates, what it picks for its budget, and what it then tunes."""

import pytest
import timm
import torch
import torch.nn.functional as F

from baselines.spt import attach, chosen, pieces_of, sensitivities
from moppa.peft.collect import trainable_parameters
from moppa.peft.inject import merge
from moppa.utils.config import instantiate
from moppa.utils.errors import UserError
from tests.conftest import config_of

SETTINGS = instantiate(config_of("task=eurosat", "method=spt_lora"), "method.attach", _partial_=True).keywords


def vit(seed=0):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = timm.create_model("test_vit", depth=2, img_size=64, num_classes=10).requires_grad_(False)
        torch.manual_seed(seed)
        torch.nn.init.normal_(model.head.weight)
        return model


def batches(count=3):
    generator = torch.Generator().manual_seed(0)
    return [(torch.randn(4, 3, 64, 64, generator=generator), torch.arange(4)) for _ in range(count)]


def attached(model, **settings):
    attach(model, **{**SETTINGS, **settings}, generator=torch.Generator().manual_seed(0), examples=batches)
    return model


def test_the_sensitivity_of_a_weight_is_its_squared_gradient_summed_over_batches():
    model = vit()
    pieces = pieces_of(model, "lora", 8, 10, 5)
    found = sensitivities(model, pieces, batches(), 2, head_seed=0)
    twin = vit().eval()
    with torch.no_grad():
        twin.head.weight.copy_(0.02 * torch.randn(10, 64, generator=torch.Generator().manual_seed(0)))
    weight, expected = twin.blocks[1].attn.qkv.weight.requires_grad_(True), torch.zeros(64, 64)
    for images, labels in batches()[:2]:
        [gradient] = torch.autograd.grad(F.cross_entropy(twin(images), labels), weight)
        expected += gradient[64:128] ** 2
    [index] = [
        i
        for i, piece in enumerate(pieces)
        if piece.layer is model.blocks[1].attn.qkv and piece.tensor == "weight" and piece.start == 64
    ]
    torch.testing.assert_close(found[index].view(64, 64), expected)
    assert torch.equal(model.head.weight, vit().head.weight)
    assert not trainable_parameters(model)


@pytest.mark.parametrize("budget", [50, 500, 5000])
def test_the_most_sensitive_weights_are_picked_and_the_budget_is_kept(budget):
    generator = torch.Generator().manual_seed(0)
    pieces = pieces_of(vit(), "lora", 8, 10, 5)
    scores = [
        torch.rand(piece.parameter[piece.start : piece.stop].numel(), generator=generator) ** (1 + i % 5)
        for i, piece in enumerate(pieces)
    ]
    picked = chosen(scores, pieces, budget)
    inside = torch.cat([score[index] for score, index in zip(scores, picked, strict=True)])
    outside = torch.cat(
        [score[~torch.isin(torch.arange(len(score)), index)] for score, index in zip(scores, picked, strict=True)]
    )
    assert inside.min() >= outside.max()
    cost = sum(
        piece.whole_cost if len(index) >= piece.whole_from else len(index)
        for piece, index in zip(pieces, picked, strict=True)
    )
    assert 0.5 * budget < cost <= budget


def test_a_small_budget_tunes_single_weights_and_no_others():
    model = attached(vit(), budget=164, matrix_ratio=0.1, vector_ratio=0.5)  # 64 of them for the class token
    stock = {name: tensor.clone() for name, tensor in vit().state_dict().items()}
    with torch.no_grad():
        for parameter in trainable_parameters(model).values():
            parameter.add_(1.0)
    assert 60 + 64 <= sum(parameter.numel() for parameter in trainable_parameters(model).values()) <= 164
    merge(model)
    changed = {name: int((tensor != stock[name]).sum()) for name, tensor in model.state_dict().items()}
    assert 60 + 64 <= sum(changed.values()) <= 164
    assert changed["cls_token"] == 64


@pytest.mark.parametrize("structure", ["lora", "adapter"])
def test_a_matrix_that_is_sensitive_as_a_whole_gets_the_structure(structure):
    model = attached(vit(), structure=structure, budget=100_000)
    names = trainable_parameters(model)
    kinds = {"lora": "down", "adapter": "down_bias"}
    assert any(kinds[structure] in name for name in names)
    stock, images = vit().eval(), batches()[0][0]
    assert torch.equal(model.eval()(images), stock(images))


def test_an_adapter_of_some_parts_is_its_equation():
    model = attached(vit(), structure="adapter", budget=100_000)
    layer = model.blocks[0].attn.qkv
    with torch.no_grad():
        for parameter in trainable_parameters(model).values():
            parameter.add_(0.1 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(0)))
    x = torch.randn(2, 5, 64)
    parts, members = [], iter(zip(layer.down, layer.down_bias, layer.up, layer.up_bias, strict=True))
    for y, is_adapted in zip(layer.linear(x).split(64, dim=-1), layer.parts, strict=True):
        if is_adapted:
            down, down_bias, up, up_bias = next(members)
            hidden = F.gelu(torch.einsum("bni,ri->bnr", y, down) + down_bias)
            y = y + torch.einsum("bnr,or->bno", hidden, up) + up_bias
        parts.append(y)
    torch.testing.assert_close(layer(x), torch.cat(parts, dim=-1))


def test_where_to_tune_does_not_depend_on_the_seed_of_the_cell():
    first, second = (attached(vit(seed), budget=2000) for seed in (0, 1))
    assert {n: p.shape for n, p in trainable_parameters(first).items()} == {
        n: p.shape for n, p in trainable_parameters(second).items()
    }
    for one, other in zip(first.buffers(), second.buffers(), strict=True):
        assert torch.equal(one, other)


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"structure": "vpt"}, r"structure='vpt'.*lora, adapter"),
        ({"budget": 0}, r"budget=0.*at least 1"),
        ({"budget": 64}, r"budget=64 .*class token.*raise it"),
        ({"rank": 65}, r"rank=65 is above the 64"),
        ({"num_batches": 0}, r"num_batches=0"),
    ],
)
def test_what_cannot_be_attached_is_said(settings, words):
    with pytest.raises(UserError, match=words):
        attached(vit(), **settings)
