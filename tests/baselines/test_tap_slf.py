"""TAP-SLF against HF peft's LoRA of the last block, with prompts that pass through all blocks."""

import pytest
import torch
from peft import LoraConfig, inject_adapter_in_model

from baselines import tap_slf
from moppa.peft.collect import trainable_parameters
from moppa.utils.errors import UserError
from tests.baselines.equations import assert_setting_is_named, attached, images, seeded, vit
from tests.baselines.families import SWIN, stock_model

SETTINGS = {
    "num_prompts": 4,
    "pool_prompts": False,
    "top_fraction": 0.5,
    "rank": 3,
    "alpha": 0.5,
    "targets": ("q", "k", "v", "proj"),
    "dropout": 0.1,
}
PROMPTS = "blocks.0.prompts"


def adapted_by_peft(names):
    """Returns the stock model with peft's LoRA, and its factors by the names of our trained tensors."""
    config = LoraConfig(target_modules=[name for name, _ in names], r=3, lora_alpha=0.5, lora_dropout=0.0)
    model = inject_adapter_in_model(config, vit()).double().eval()
    factors = {}
    for name, count in names:
        layer = model.get_submodule(name)
        factors[f"{name}.parametrizations.weight.0.down.0"] = layer.lora_A["default"].weight
        for index, up in enumerate(layer.lora_B["default"].weight.chunk(count)):
            factors[f"{name}.parametrizations.weight.0.up.{index}"] = up
    return model, factors


def logits_with_prompts(model, prompts):
    """Returns the logits of a model into whose tokens prompts are inserted after the class token and the registers."""
    x = model.norm_pre(model._pos_embed(model.patch_embed(images())))
    x = torch.cat([x[:, :3], prompts.expand(len(x), -1, -1), x[:, 3:]], dim=1)
    for block in model.blocks:
        x = block(x)
    return model.forward_head(model.norm(torch.cat([x[:, :3], x[:, 3 + len(prompts) :]], dim=1)))


def test_logits_and_gradients_are_those_of_peft_with_prompts():
    ours = attached(tap_slf.attach, SETTINGS)
    trained = trainable_parameters(ours)
    layers = [("blocks.1.attn.qkv", 3), ("blocks.1.attn.proj", 1)]
    theirs, factors = adapted_by_peft(layers)
    ours_by_stock_name = {name.replace("blocks.1.inner", "blocks.1"): tensor for name, tensor in trained.items()}
    assert ours_by_stock_name.keys() == {PROMPTS, *factors}
    prompts = trained[PROMPTS].detach().clone().requires_grad_()
    with torch.no_grad():
        for name, factor in factors.items():
            factor.copy_(ours_by_stock_name[name])
    expected, actual = logits_with_prompts(theirs, prompts), ours(images())
    torch.testing.assert_close(actual, expected, atol=1e-10, rtol=1e-10)
    toward = torch.randn(actual.shape, generator=seeded(9), dtype=torch.float64)
    (actual * toward).sum().backward()
    (expected * toward).sum().backward()
    layers_of_peft = {name: theirs.get_submodule(name) for name, _ in layers}
    gradients = {PROMPTS: prompts.grad}
    for name, count in layers:
        gradients[f"{name}.parametrizations.weight.0.down.0"] = layers_of_peft[name].lora_A["default"].weight.grad
        for index, up in enumerate(layers_of_peft[name].lora_B["default"].weight.grad.chunk(count)):
            gradients[f"{name}.parametrizations.weight.0.up.{index}"] = up
    for name, gradient in gradients.items():
        assert gradient.abs().max() > 1e-5
        torch.testing.assert_close(ours_by_stock_name[name].grad, gradient, atol=1e-10, rtol=1e-8)


@pytest.mark.parametrize(("depth", "fraction", "adapted"), [(4, 0.3, [3]), (4, 0.5, [2, 3]), (2, 0.3, [1])])
def test_a_fraction_of_the_blocks_has_a_lora(depth, fraction, adapted):
    model = vit(depth=depth)
    tap_slf.attach(model, **{**SETTINGS, "top_fraction": fraction}, generator=None)
    names = [name for name in trainable_parameters(model) if "down" in name]
    assert sorted({int(name.split(".")[1]) for name in names}) == adapted


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ({"num_prompts": 0}, r"^num_prompts=0"),
        ({"top_fraction": 0}, r"^top_fraction=0: .*above 0"),
        ({"top_fraction": 1.5}, r"^top_fraction=1\.5: .*at most 1"),
        ({"rank": 65}, r"^rank=65 .*64"),
        ({"alpha": 0}, r"^alpha=0"),
        ({"targets": ["w"]}, r"^targets='w'"),
        ({"dropout": 1}, r"^dropout=1"),
    ],
)
def test_a_bad_setting_is_named(setting, message):
    assert_setting_is_named(tap_slf.attach, {**SETTINGS, **setting}, message)


def test_a_swin_is_named_and_nothing_is_attached():
    model = stock_model(SWIN)
    before = list(model.state_dict())
    with pytest.raises(UserError, match=r"TAP-SLF adds prompts to .*SwinTransformer"):
        tap_slf.attach(model, **SETTINGS, generator=None)
    assert list(model.state_dict()) == before
