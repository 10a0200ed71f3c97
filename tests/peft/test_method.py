"""`attach_method` passes what a method accepts."""

from functools import partial

import torch
from torch import nn

from moppa.peft.method import attach_method


def test_a_method_receives_the_model_and_what_its_signature_names():
    calls = []

    def plain(model):
        calls.append((model,))

    def drawing(model, *, rank, generator):
        calls.append((model, rank, generator))

    def looking(model, *, generator, examples):
        calls.append((model, generator, examples))

    model, generator, examples = nn.Identity(), torch.Generator(), list
    for method in (plain, partial(drawing, rank=3), looking):
        assert attach_method(model, method, generator=generator, examples=examples) is model
    assert calls == [(model,), (model, 3, generator), (model, generator, examples)]
