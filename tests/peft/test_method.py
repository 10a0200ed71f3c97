"""`attach_method` passes what a method accepts, and counts what it keeps of the backbone."""

from functools import partial

import torch
from torch import nn

from moppa.peft.method import attach_method
from tests.models import frozen_model


def test_a_method_receives_the_model_and_what_its_signature_names():
    calls = []

    def plain(model):
        calls.append((model,))

    def drawing(model, *, rank, generator):
        calls.append((model, rank, generator))

    def looking(model, *, generator, examples):
        calls.append((model, generator, examples))

    model, generator, examples = frozen_model(), torch.Generator(), list
    for method in (plain, partial(drawing, rank=3), looking):
        assert attach_method(model, method, generator=generator, examples=examples) is model
    assert calls == [(model,), (model, 3, generator), (model, generator, examples)]


def test_a_storage_counts_once_and_what_a_method_adds_to_train_does_not_count():
    model = frozen_model()
    head, size = 10 * 65, sum(parameter.numel() for parameter in model.parameters())
    first, second, third = (block.mlp.fc1 for block in model.blocks)

    def method(model):
        model.blocks[0].norm1.requires_grad_(True)
        model.added = nn.Linear(5, 5)
        second.weight = nn.Parameter(first.weight.data, requires_grad=False)  # two parameters of one storage
        third.weight = first.weight

    attach_method(model, method, generator=None, examples=list)
    assert model.backbone_params == {"pretrained": size - head, "kept": size - head - 2 * first.weight.numel()}
