"""SNELL against the equation of the authors' code."""

import copy

import pytest
import torch
from torch.func import functional_call

from baselines import snell
from moppa.peft.collect import trainable_parameters
from moppa.peft.inject import merge
from moppa.peft.sparse import order_statistic
from moppa.utils.errors import SettingError
from tests.baselines.equations import assert_equal_to, attached, images, vit

TARGETS = ("q", "k", "v", "proj", "fc1", "fc2")
SETTINGS = {"rank": 6, "scale": 0.1, "sparsity": 0.7, "targets": TARGETS}


def update(inputs, outputs, sparsity):
    """Returns the update (d_out, d_in) of the points, (2, d, 3): differences are squared, added, and rooted."""
    distances = ((inputs[:, :, None] - outputs[:, None]) ** 2).sum(dim=3) ** 0.5
    kernel = 0.1 * distances[0] - 0.1 * distances[1]
    if sparsity == 0:
        return kernel.T
    size = kernel.detach().abs()
    return (kernel * torch.where(size > torch.quantile(size, sparsity), size, 0)).T


def equation(stock, points, sparsity):
    """Returns the logits of the stock model with updated weights."""
    weights, names = dict(stock.named_parameters()), {}
    for name, inputs in points.items():
        layer, _, rest = name.partition(".parametrizations.weight.0.inputs.")
        if rest:
            outputs = points[name.replace("inputs", "outputs")]
            names.setdefault(layer, []).append(update(inputs, outputs, sparsity))
    changed = {f"{layer}.weight": weights[f"{layer}.weight"] + torch.cat(parts) for layer, parts in names.items()}
    assert len(changed) == 4 * len(stock.blocks)
    return functional_call(stock, changed, (images(),))


@pytest.mark.parametrize("sparsity", [0.7, pytest.param(0.0, marks=pytest.mark.slow)])
def test_snell_is_the_equation(sparsity):
    stock, model = vit(depth=1), attached(snell.attach, {**SETTINGS, "sparsity": sparsity}, depth=1)
    assert_equal_to(model, lambda points: equation(stock, points, sparsity))
    merged = merge(copy.deepcopy(model))
    torch.testing.assert_close(merged(images()), model(images()), atol=1e-10, rtol=0)
    assert merged.state_dict().keys() == stock.state_dict().keys()


def test_matrices_that_are_not_adapted_and_most_entries_stay():
    stock, model = vit(), attached(snell.attach, {**SETTINGS, "targets": ("q", "v"), "sparsity": 0.9})
    before, after = stock.blocks[0].attn.qkv.weight.chunk(3), model.blocks[0].attn.qkv.weight.chunk(3)
    changed = [float((old != new).double().mean()) for old, new in zip(before, after, strict=True)]
    assert changed == pytest.approx([0.1, 0.0, 0.1], abs=1e-3)


def test_the_points_of_both_heads_are_drawn_as_in_the_authors_code():
    model = vit()
    snell.attach(model, **SETTINGS, generator=torch.Generator().manual_seed(0))
    points = {name: tensor for name, tensor in trainable_parameters(model).items() if not name.startswith("head")}
    for name, tensor in points.items():
        bound = (tensor.shape[1] * tensor.shape[2]) ** -0.5  # of a (2, d, 3) tensor, as torch counts its inputs
        assert 0.9 * bound < float(tensor.detach().abs().max()) <= bound, name
    start = (model.blocks[0].attn.qkv.weight - vit().blocks[0].attn.qkv.weight).detach().abs()
    assert 0 < float(start.max()) < 1e-3


def test_the_threshold_separates_as_the_quantile_does():
    values = torch.rand(1001, generator=torch.Generator().manual_seed(0))
    for q in (0.1, 0.5, 0.9, 0.995):
        assert torch.equal(values > order_statistic(values, q), values > torch.quantile(values, q))


def test_a_step_keeps_no_matrix_of_the_size_of_a_weight():
    model = attached(snell.attach, {**SETTINGS, "targets": ("fc1",)})
    weights, saved = {tensor.data_ptr() for tensor in model.parameters()}, []
    with torch.autograd.graph.saved_tensors_hooks(lambda tensor: saved.append(tensor) or tensor, lambda tensor: tensor):
        model(images())
    fc1 = model.blocks[0].mlp.fc1
    assert saved
    assert not [
        one for one in saved if one.numel() == fc1.in_features * fc1.out_features and one.data_ptr() not in weights
    ]


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ({"rank": 0}, r"^rank=0: .*at least 2"),
        ({"rank": 3}, r"^rank=3 .*even"),
        ({"scale": 0.0}, r"^scale=0\.0: .*above 0"),
        ({"sparsity": 1.0}, r"^sparsity=1\.0"),
    ],
)
def test_a_bad_setting_is_named(setting, message):
    with pytest.raises(SettingError, match=message):
        snell.attach(vit(), **{**SETTINGS, **setting}, generator=None)
