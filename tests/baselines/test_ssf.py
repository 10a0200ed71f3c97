"""SSF against a scale and a shift of every operation's output."""

import copy

import pytest
import timm
import torch
from torch.nn.utils import parametrize

from baselines import ssf
from moppa.peft.collect import trainable_parameters
from moppa.utils.errors import UserError
from tests.baselines.families import DEPTH, FAMILIES, VIT, assert_equal_to, images, leaf, perturbed, stock_model

BLOCK = ("norm1", "attn.qkv", "attn.proj", "norm2", "mlp.fc1", "mlp.fc2")
OPERATIONS = {
    "ViT": ["patch_embed.proj", *(f"blocks.{depth}.{name}" for depth in range(DEPTH) for name in BLOCK), "norm"],
    "Swin": [
        "patch_embed.proj",
        "patch_embed.norm",
        *(f"layers.0.blocks.0.{name}" for name in BLOCK),
        "layers.1.downsample.norm",
        *(f"layers.1.blocks.{depth}.{name}" for depth in range(2) for name in BLOCK),
        "norm",
    ],
    "ConvNeXt": [
        "stem.0",
        "stem.1",
        *(
            f"stages.{stage}.blocks.{depth}.{name}"
            for stage, num_blocks in enumerate((1, 2, 4, 2))
            for depth in range(num_blocks)
            for name in ("conv_dw", "norm", "mlp.fc1", "mlp.fc2")
        ),
        *(f"stages.{stage}.downsample.{index}" for stage in range(1, 4) for index in range(2)),
        "head.norm",
    ],
}

every_family = pytest.mark.parametrize("family", FAMILIES)


def model_with_ssf(family):
    model = stock_model(FAMILIES[family])
    ssf.attach(model, before_pooling=True)
    return perturbed(model)


@every_family
def test_every_operation_of_the_papers_code_is_scaled_and_shifted(family):
    layers = dict(model_with_ssf(family).named_modules())
    assert {name for name, layer in layers.items() if parametrize.is_parametrized(layer)} == set(OPERATIONS[family])


@every_family
def test_ssf_is_a_scale_and_a_shift_of_the_activations(family):
    model, stock = model_with_ssf(family), stock_model(FAMILIES[family]).double()
    stock.get_classifier().load_state_dict(model.get_classifier().state_dict())
    parameters, leaves = [], []
    for name in OPERATIONS[family]:
        layer = model.get_submodule(name)
        pair = layer.parametrizations.weight[0].scale, layer.parametrizations.bias[0].shift
        scale, shift = leaf(pair[0]), leaf(pair[1])
        parameters += pair
        leaves += scale, shift

        def after(module, inputs, output, scale=scale, shift=shift):
            is_channels_first = isinstance(module, torch.nn.Conv2d) or type(module).__name__ == "LayerNorm2d"
            letters = "bchw,c->bchw" if is_channels_first else "...c,c->...c"
            ones = torch.ones_like(output)
            return torch.einsum(letters, output, scale) + torch.einsum(letters, ones, shift)

        stock.get_submodule(name).register_forward_hook(after)
    assert_equal_to(stock(images()), leaves, model(images()), parameters)


@every_family
def test_weight_and_bias_share_one_scale_also_in_a_copy(family):
    model = model_with_ssf(family)
    for one in (model, copy.deepcopy(model)):
        layers = [one.get_submodule(name) for name in OPERATIONS[family]]
        assert all(x.parametrizations.weight[0].scale is x.parametrizations.bias[0].scale for x in layers)
        head = sum(parameter.numel() for parameter in one.get_classifier().parameters())
        widths = sum(len(layer.bias) for layer in layers)
        assert sum(parameter.numel() for parameter in trainable_parameters(one).values()) == 2 * widths + head


@pytest.mark.parametrize("before_pooling", [True, False])
def test_an_average_of_the_tokens_is_scaled_before_or_after(before_pooling):
    stock = stock_model(VIT, global_pool="avg")
    model = copy.deepcopy(stock)
    ssf.attach(model, before_pooling=before_pooling)
    names = [name for name in trainable_parameters(model) if not name.startswith(("blocks", "patch_embed", "head"))]
    after = ["fc_norm.parametrizations.weight.0.scale", "fc_norm.parametrizations.bias.0.shift"]
    assert names == (["norm.gamma", "norm.beta"] if before_pooling else after)
    perturbed(model)
    gamma, beta = (model.get_parameter(name) for name in names)
    x = torch.randn(3, 1 + 16, 64, dtype=torch.float64)
    average = x[:, 1:].mean(dim=1)
    stock = stock.double()
    expected = stock.fc_norm(gamma * average + beta) if before_pooling else gamma * stock.fc_norm(average) + beta
    torch.testing.assert_close(model.forward_head(model.norm(x), pre_logits=True), expected)


def test_a_model_of_another_family_or_without_a_bias_is_named():
    with pytest.raises(UserError, match="ResNet"):
        ssf.attach(timm.create_model("test_resnet"), before_pooling=True)
    with pytest.raises(UserError, match=r"blocks\.0\.attn\.qkv of VisionTransformer has none"):
        ssf.attach(stock_model(VIT, qkv_bias=False), before_pooling=True)
