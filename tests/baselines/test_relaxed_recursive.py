"""The relaxed recursive transformer: tied weights, the best approximation of what is lost, and the equation."""

import copy
from functools import partial

import pytest
import torch
from torch.func import functional_call

from baselines import relaxed_recursive
from moppa.peft.inject import merge
from moppa.peft.method import attach_method
from tests.baselines.equations import assert_equal_to, assert_setting_is_named, images, perturbed, vit

SETTINGS = {"num_loops": 2, "start": "average", "rank": 5}
LAYERS = {"attn.qkv": 3, "attn.proj": 1, "mlp.fc1": 1, "mlp.fc2": 1}


def attached(depth, **settings):
    model = vit(depth=depth)
    relaxed_recursive.attach(model, **{**SETTINGS, **settings})
    return model


def weight_of(model, depth, name):
    return model.blocks[depth].get_submodule(name).weight


def tied(stock, depth, name):
    """Returns the mean weight of blocks 0 and 2 of three, or the weight of block 1, which is alone."""
    others = (0, 2) if depth in (0, 2) else (1,)
    return sum(weight_of(stock, other, name) for other in others) / len(others)


def test_the_first_weights_are_the_tied_ones_and_the_best_approximation_of_the_rest():
    stock, model = vit(depth=3), attached(3)
    for depth in range(3):
        for name, count in LAYERS.items():
            mean = tied(stock, depth, name)
            expected = []
            for rest in (weight_of(stock, depth, name) - mean).chunk(count):
                vectors = torch.linalg.eigh(rest.T @ rest).eigenvectors[:, -5:]
                expected.append(rest @ vectors @ vectors.T)
            torch.testing.assert_close(weight_of(model, depth, name), mean + torch.cat(expected), atol=1e-8, rtol=0)


def test_with_all_ranks_the_logits_are_those_of_the_pretrained_model():
    torch.testing.assert_close(attached(3, rank=64)(images()), vit(depth=3)(images()), atol=1e-8, rtol=0)


def test_logits_and_gradients_are_those_of_the_equation():
    stock, model = vit(depth=3), perturbed(attached(3))

    def equation(tensors):
        changed = {}
        for depth in range(3):
            for name, count in LAYERS.items():
                layer = f"blocks.{depth}.{name}"
                factors = [f"{layer}.parametrizations.weight.0.{{}}.{index}" for index in range(count)]
                updates = [tensors[one.format("up")] @ tensors[one.format("down")] for one in factors]
                changed[f"{layer}.weight"] = tied(stock, depth, name) + torch.cat(updates)
        return functional_call(stock, changed, (images(),))

    assert_equal_to(model, equation)
    merged = merge(copy.deepcopy(model))
    torch.testing.assert_close(merged(images()), model(images()), atol=1e-10, rtol=0)
    assert merged.state_dict().keys() == stock.state_dict().keys()


@pytest.mark.parametrize(("depth", "num_loops", "chosen"), [(4, 2, (0, 3, 0, 3)), (4, 4, (0, 0, 0, 0))])
def test_stepwise_takes_blocks_at_equal_intervals(depth, num_loops, chosen):
    stock, model = vit(depth=depth), attached(depth, num_loops=num_loops, start="stepwise")
    for place, source in enumerate(chosen):
        original = model.blocks[place].mlp.fc1.parametrizations.weight.original
        assert torch.equal(original, weight_of(stock, source, "mlp.fc1"))


def test_the_loops_keep_one_weight_also_after_a_deep_copy_and_a_merge_separates_them():
    model = copy.deepcopy(perturbed(attached(3)))
    first, last = (model.blocks[depth].mlp.fc1 for depth in (0, 2))
    assert first.parametrizations.weight.original is last.parametrizations.weight.original
    weights = [first.weight.clone(), last.weight.clone()]
    merge(model)
    assert torch.equal(first.weight, weights[0])
    assert torch.equal(last.weight, weights[1])
    assert first.weight.data_ptr() != last.weight.data_ptr()


def test_the_tied_weights_count_once():
    model = vit(depth=3)
    of_blocks = sum(weight_of(model, 0, name).numel() for name in LAYERS)
    size = sum(parameter.numel() for parameter in model.parameters()) - sum(map(torch.numel, model.head.parameters()))
    attach_method(model, partial(relaxed_recursive.attach, **SETTINGS), generator=None, examples=list)
    assert model.backbone_params == {"pretrained": size, "kept": size - of_blocks}


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ({"num_loops": 0}, r"^num_loops=0: .*at least 1"),
        ({"start": "first"}, r"^start='first'.*average, stepwise"),
        ({"rank": 0}, r"^rank=0: .*at least 1"),
        ({"rank": 65}, r"^rank=65 .*64"),
    ],
)
def test_a_bad_setting_is_named(setting, message):
    assert_setting_is_named(
        lambda model, generator, **given: relaxed_recursive.attach(model, **given), {**SETTINGS, **setting}, message
    )
