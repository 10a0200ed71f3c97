"""Mask tuning against masked weights, their gradients, and the choice of the weights with the largest gradients."""

import copy

import pytest
import torch
import torch.nn.functional as F
from torch.func import functional_call

from baselines import mask_tuning
from baselines.mask_tuning import MaskDelta
from moppa.peft.collect import trainable_parameters
from moppa.peft.inject import merge
from moppa.utils.errors import SettingError
from tests.baselines.equations import images, seeded, vit
from tests.baselines.low_rank import vit as float_vit

SETTINGS = {
    "targets": ("q", "v", "proj"),
    "fraction": 0.2,
    "initial": 0.1,
    "threshold": 0.05,
    "dropout": 0.0,
    "num_images": 4,
    "batch_size": 4,
    "head_seed": 0,
}
QKV, PROJ = "blocks.0.attn.qkv", "blocks.0.attn.proj"


def examples():
    return [(torch.randn(4, 3, 64, 48, generator=seeded(3), dtype=torch.float64), torch.arange(4))]


def attached(**settings):
    model = vit(depth=1)
    mask_tuning.attach(model, **{**SETTINGS, **settings}, examples=examples)
    return model


def delta_of(model, layer):
    [delta] = model.get_submodule(layer).parametrizations.weight
    return delta


def test_the_weights_of_a_matrix_with_the_largest_gradients_have_a_mask():
    model, stock = attached(), vit(depth=1)
    stock.head.weight.copy_(0.02 * torch.randn(stock.head.weight.shape, generator=seeded()))
    weights = [stock.get_submodule(name).weight.requires_grad_() for name in (QKV, PROJ)]
    [(batch, labels)] = examples()
    qkv, proj = torch.autograd.grad(F.cross_entropy(stock(batch), labels), weights)
    expected = {PROJ: proj.abs() >= proj.abs().flatten().sort().values[-(64 * 64 // 5)]}
    q, _, v = (part.abs() >= part.abs().flatten().sort().values[-(64 * 64 // 5)] for part in qkv.chunk(3))
    expected[QKV] = torch.cat([q, torch.zeros_like(q), v])
    for name, is_masked in expected.items():
        assert set(delta_of(model, name).index.tolist()) == set(is_masked.flatten().nonzero().flatten().tolist())


def test_logits_are_those_of_masked_weights_and_a_latent_has_the_gradient_of_its_mask():
    model, stock = attached(), vit(depth=1)
    changed, masks = {}, {}
    with torch.no_grad():
        for name in (QKV, PROJ):
            delta = delta_of(model, name)
            delta.latent.add_(0.1 * torch.randn(delta.latent.shape, generator=seeded(1)))
            mask = torch.ones_like(stock.get_submodule(name).weight).flatten()
            mask[delta.index] = (delta.latent > 0.05).double()
            masks[name] = mask.requires_grad_()
    for name, mask in masks.items():
        weight = stock.get_submodule(name).weight
        changed[f"{name}.weight"] = weight * mask.view_as(weight)
    expected = functional_call(stock, changed, (images(),))
    torch.testing.assert_close(model(images()), expected, atol=1e-10, rtol=1e-10)
    latents = [delta_of(model, name).latent for name in masks]
    actual = torch.autograd.grad(model(images()).square().sum(), latents)
    for name, gradient, of_mask in zip(
        masks, actual, torch.autograd.grad(expected.square().sum(), list(masks.values())), strict=True
    ):
        assert 0.2 < float((masks[name] == 0).double().sum()) / len(gradient) < 0.5
        torch.testing.assert_close(gradient, of_mask[delta_of(model, name).index], atol=1e-10, rtol=1e-8)
    merged = merge(copy.deepcopy(model))
    assert torch.equal(merged.get_submodule(QKV).weight, changed[f"{QKV}.weight"])
    assert merged.state_dict().keys() == stock.state_dict().keys()


def test_a_fraction_of_the_gradients_is_dropped_in_training_and_no_other_value_changes():
    weight, index = torch.ones(100, 100), torch.arange(10_000)
    delta = MaskDelta(index, weight, initial=0.1, threshold=0.05, dropout=0.25)
    for training, kept in ((True, 0.75), (False, 1.0)):
        delta.latent.grad = None
        updated = delta.train(training)(weight)
        assert torch.equal(updated, weight)
        updated.sum().backward()
        assert float((delta.latent.grad == 1).float().mean()) == pytest.approx(kept, abs=0.02)
        assert set(delta.latent.grad.unique().tolist()) <= {0.0, 1.0}


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ({"fraction": 0}, r"^fraction=0"),
        ({"initial": 0.05}, r"^initial=0\.05: .*above 0\.05"),
        ({"threshold": -1}, r"^threshold=-1"),
        ({"dropout": 1}, r"^dropout=1"),
        ({"num_images": 0}, r"^num_images=0"),
        ({"batch_size": 0}, r"^batch_size=0"),
        ({"head_seed": -1}, r"^head_seed=-1"),
        ({"targets": []}, r"^targets=\[\]"),
    ],
)
def test_a_bad_setting_is_named(setting, message):
    model = float_vit()
    with pytest.raises(SettingError, match=message):
        mask_tuning.attach(model, **{**SETTINGS, **setting}, examples=examples)
    assert {name.partition(".")[0] for name in trainable_parameters(model)} == {"head"}
