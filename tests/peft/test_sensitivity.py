"""Squared gradients of single weights, and what a budget selects."""

import pytest
import torch
import torch.nn.functional as F

from baselines.spt import find_pieces
from moppa.peft.collect import trainable_parameters
from moppa.peft.sensitivity import select_sensitive, sensitivities
from tests.baselines.test_spt import batches, vit


def pieces_of(model):
    return find_pieces(model, "lora", rank=8, matrix_ratio=10, vector_ratio=5)


def test_the_sensitivity_of_a_weight_is_its_squared_gradient_summed_over_batches():
    model = vit()
    pieces = pieces_of(model)
    scores = sensitivities(model, pieces, batches(), 2, head_seed=0)
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
        piece.whole_cost if len(index) >= piece.whole_from else len(index)
        for piece, index in zip(pieces, selected, strict=True)
    )
    assert 0.5 * budget < cost <= budget
