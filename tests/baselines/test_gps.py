"""GPS against the loss and the selection of the authors' code."""

import math

import pytest
import torch
from torch.func import functional_call

from baselines import gps
from moppa.peft.collect import trainable_parameters
from moppa.utils.errors import SettingError
from tests.baselines import equations
from tests.baselines.equations import assert_equal_to, perturbed, vit

SETTINGS = {"num_connections": 2, "temperature": 0.07, "num_images": 4, "batch_size": 4}


def batch():
    images = torch.randn(4, 3, 64, 48, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    return images, torch.tensor([0, 1, 0, 2])


def equation(z, labels):
    """Returns the mean over anchors of -log p, averaged over the other views of the same class."""
    z = z / z.norm(dim=1, keepdim=True)
    losses = []
    for i in range(len(z)):
        others = [j for j in range(len(z)) if j != i]
        total = sum(torch.exp(z[i] @ z[j] / 0.07) for j in others)
        positives = [j for j in others if labels[j] == labels[i]]
        losses.append(-sum(torch.log(torch.exp(z[i] @ z[j] / 0.07) / total) for j in positives) / len(positives))
    return sum(losses) / len(losses)


def test_the_largest_gradients_of_each_output_are_tuned():
    images, labels = batch()
    stock, model = vit(), vit()
    gps.attach(model, **SETTINGS, examples=lambda: [batch()])
    weights = {"blocks.1.attn.qkv": stock.blocks[1].attn.qkv.weight, "patch_embed.proj": stock.patch_embed.proj.weight}
    for weight in weights.values():
        weight.requires_grad_(True)
    views = torch.cat([images, images.flip(3)])
    features = stock.norm(stock.blocks(stock.norm_pre(stock._pos_embed(stock.patch_embed(views)))))[:, 0]
    gradients = torch.autograd.grad(equation(features, labels.tolist() * 2), list(weights.values()))
    for name, gradient in zip(weights, gradients, strict=True):
        expected = gradient.flatten(1).abs().argsort(dim=1)[:, -2:]
        [delta] = model.get_submodule(name).parametrizations.weight
        columns = (
            delta.index.view(len(gradient), 2) - math.prod(gradient.shape[1:]) * torch.arange(len(gradient))[:, None]
        )
        assert torch.equal(columns.sort(dim=1).values, expected.sort(dim=1).values)
    is_tuned = {name.rpartition(".")[2] for name in trainable_parameters(model)}
    assert is_tuned == {"values", "bias"}
    assert not any("norm" in name for name in trainable_parameters(model))


@pytest.mark.slow
def test_logits_and_gradients_are_those_of_weights_that_are_changed_at_the_selected_places():
    stock, model = vit(), vit()
    gps.attach(model, **SETTINGS, examples=lambda: [batch()])
    perturbed(model)

    def changed_weights(tensors):
        weights = {}
        for name, tensor in tensors.items():
            layer, _, rest = name.partition(".parametrizations")
            if not rest:
                weights[name] = tensor
                continue
            weight = stock.get_parameter(f"{layer}.weight")
            [delta] = model.get_submodule(layer).parametrizations.weight
            update = torch.zeros(weight.numel(), dtype=weight.dtype)
            update[delta.index] = tensor
            weights[f"{layer}.weight"] = weight + update.view_as(weight)
        return weights

    assert_equal_to(model, lambda tensors: functional_call(stock, changed_weights(tensors), equations.images()))


@pytest.mark.parametrize("setting", ["num_connections", "temperature", "num_images", "batch_size"])
def test_a_bad_setting_is_named(setting):
    with pytest.raises(SettingError, match=rf"^{setting}=0"):
        gps.attach(vit(), **{**SETTINGS, setting: 0}, examples=lambda: [batch()])
