"""Squared gradients of single weights, and what a budget selects."""

import pytest
import torch
import torch.nn.functional as F

from moppa.peft.collect import trainable_parameters
from moppa.peft.pieces import find_pieces
from moppa.peft.sensitivity import divided, select_sensitive, sensitivities
from tests.baselines.test_spt import batches, vit


def pieces_of(model):
    return find_pieces(model, "lora", rank=8, matrix_ratio=10, vector_ratio=5)


def test_the_sensitivity_of_a_weight_is_its_squared_gradient_summed_over_batches():
    model = vit()
    pieces = pieces_of(model)
    scores = sensitivities(model, pieces, batches(), num_images=8, batch_size=4, head_seed=0)
    twin = vit().eval()
    with torch.no_grad():
        twin.head.weight.copy_(0.02 * torch.randn(10, 64, generator=torch.Generator().manual_seed(0)))
    weight, expected = twin.blocks[1].attn.qkv.weight.requires_grad_(True), torch.zeros(64, 64)
    for images, labels in batches()[:2]:
        [gradient] = torch.autograd.grad(F.cross_entropy(twin(images), labels), weight)
        expected += gradient[64:128] ** 2
    [index] = [
        index
        for index, piece in enumerate(pieces)
        if piece.layer is model.blocks[1].attn.qkv and piece.tensor == "weight" and piece.start == 64
    ]
    torch.testing.assert_close(scores[index].view(64, 64), expected)
    assert torch.equal(model.head.weight, vit().head.weight)
    assert not trainable_parameters(model)


@pytest.mark.parametrize("budget", [50, 500, 5000])
def test_the_most_sensitive_weights_are_selected_within_the_budget(budget):
    generator = torch.Generator().manual_seed(0)
    pieces = pieces_of(vit())
    scores = [
        torch.rand(piece.parameter[piece.start : piece.stop].numel(), generator=generator) ** (1 + index % 5)
        for index, piece in enumerate(pieces)
    ]
    selected = select_sensitive(scores, pieces, budget)
    inside = torch.cat([score[index] for score, index in zip(scores, selected, strict=True)])
    outside = torch.cat(
        [score[~torch.isin(torch.arange(len(score)), index)] for score, index in zip(scores, selected, strict=True)]
    )
    assert inside.min() >= outside.max()
    cost = sum(
        piece.whole_cost if len(index) >= piece.whole_from else len(index) * piece.is_divisible
        for piece, index in zip(pieces, selected, strict=True)
    )
    assert 0.5 * budget < cost <= budget


@pytest.mark.parametrize(
    ("sizes", "num_images", "batch_size", "expected"),
    [
        ([4, 4, 4], 8, 4, [4, 4]),
        ([6, 6], 12, 4, [4, 4, 4]),
        ([2, 2, 2], 6, 4, [4, 2]),
        ([5, 5], 7, 3, [3, 3, 1]),
        ([3], 100, 8, [3]),
    ],
)
def test_images_are_read_in_batches_of_another_size(sizes, num_images, batch_size, expected):
    images, labels = torch.randn(sum(sizes), 3), torch.arange(sum(sizes))
    read = list(divided(zip(images.split(sizes), labels.split(sizes), strict=True), num_images, batch_size))
    assert [len(some) for some, _ in read] == expected
    assert torch.equal(torch.cat([some for some, _ in read]), images[: sum(expected)])
    assert torch.equal(torch.cat([some for _, some in read]), labels[: sum(expected)])


def test_single_weights_of_a_norm_are_neither_tuned_nor_paid_for():
    pieces = pieces_of(vit())
    norms = [piece for piece in pieces if isinstance(piece.layer, torch.nn.LayerNorm)]
    assert norms
    some, all_of_them = torch.arange(2), torch.arange(64)
    for piece in norms:
        assert len(piece.positions(some)) == 0
        assert torch.equal(piece.positions(all_of_them), all_of_them)
    scores = [
        torch.full((piece.parameter[piece.start : piece.stop].numel(),), 1.0 if piece in norms else 0.0)
        for piece in pieces
    ]
    for score in scores:
        score[2:] /= 2  # the two most sensitive weights of every vector cost nothing
    selected = select_sensitive(scores, pieces, budget=10)
    assert sum(len(index) for index in selected) > 10
    assert all(len(index) < piece.whole_from for piece, index in zip(pieces, selected, strict=True))
