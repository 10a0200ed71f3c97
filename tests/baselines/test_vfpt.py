"""VFPT against the definition of the discrete Fourier transform, and against VPT."""

import copy
import math

import pytest
import torch

from baselines import vfpt, vpt
from moppa.peft.collect import trainable_parameters
from moppa.utils.errors import SettingError, UserError
from moppa.utils.seeds import generator_for, seeded
from tests.baselines.families import DIM, NUM_PATCHES, SWIN, VIT, assert_equal_to, images, leaf, perturbed, stock_model

SETTINGS = {"num_prompts": 5, "deep": True, "fraction": 0.5, "dropout": 0.0, "pool_prompts": False}


def prompts_of(model):
    return [parameter for name, parameter in trainable_parameters(model).items() if name.endswith("prompts")]


def real_dft(prompts):
    """Returns sum_{m, n} P_mn cos(2 pi (j m / M + k n / N)) at each j, k."""
    angles = [
        2 * math.pi * torch.outer(torch.arange(size), torch.arange(size)).double() / size for size in prompts.shape
    ]
    return torch.einsum("jkmn,mn->jk", torch.cos(angles[0][:, None, :, None] + angles[1][None, :, None, :]), prompts)


@pytest.mark.parametrize(("fraction", "num_transformed"), [(0.5, 2), (1.0, 5)])
def test_vfpt_is_the_definition_of_the_transform(fraction, num_transformed):
    stock = stock_model(VIT, class_token=True, reg_tokens=2)
    model = copy.deepcopy(stock)
    vfpt.attach(model, **{**SETTINGS, "fraction": fraction}, generator=generator_for(0, "method"))
    perturbed(model)
    stock.double().head.load_state_dict(model.head.state_dict())
    prompts = [leaf(parameter) for parameter in prompts_of(model)]

    x = stock.norm_pre(stock._pos_embed(stock.patch_embed(images())))
    for block, learned in zip(stock.blocks, prompts, strict=True):
        inserted = torch.cat([real_dft(learned[:num_transformed]), learned[num_transformed:]])
        x = block(torch.cat([x[:, :3], torch.stack([inserted] * len(x)), x[:, -NUM_PATCHES:]], dim=1))
        x = torch.cat([x[:, :3], x[:, -NUM_PATCHES:]], dim=1)
    assert_equal_to(stock.forward_head(stock.norm(x)), prompts, model(images()), prompts_of(model))


def test_without_a_transformed_prompt_it_is_vpt():
    logits = []
    for method, settings in ((vpt, {}), (vfpt, {"fraction": 0.0}), (vfpt, {"fraction": 0.19})):
        model = stock_model(VIT)
        shared = {name: value for name, value in SETTINGS.items() if name != "fraction"}
        method.attach(model, **shared, **settings, generator=generator_for(0, "method"))
        logits.append(model(images().float()))
    assert torch.equal(logits[0], logits[1])
    assert torch.equal(logits[0], logits[2])


def test_dropout_acts_before_the_transform():
    model = stock_model(VIT)
    vfpt.attach(model, **{**SETTINGS, "dropout": 0.5}, generator=generator_for(0, "method"))
    inserted = []
    model.blocks[0].inner.register_forward_pre_hook(lambda module, inputs: inserted.append(inputs[0][:, 1:6]))
    with seeded(0):
        model.train()(images().float())
    transformed, others = inserted[0].split([2, 3], dim=1)
    assert (others == 0).any()
    assert not (transformed == 0).any()
    inverse = torch.fft.ifft2(transformed).real  # the even part of what was transformed: zero where both halves are
    dropped = (inverse.abs() < 1e-6).double().mean()
    assert float(dropped) == pytest.approx(0.25, abs=0.1)


def test_the_transform_of_bfloat16_is_computed_in_float32():
    prompts = torch.randn(1, 4, DIM, generator=generator_for(0, "prompts")).bfloat16()
    transformed = vfpt.FourierTransform(4)(prompts)
    assert transformed.dtype == torch.bfloat16
    assert torch.equal(transformed, torch.fft.fft2(prompts.float()).real.bfloat16())


@pytest.mark.parametrize("value", [-0.1, 1.5, math.nan])
def test_a_bad_fraction_is_named(value):
    with pytest.raises(SettingError, match=rf"^fraction={value!r}"):
        vfpt.attach(stock_model(VIT), **{**SETTINGS, "fraction": value}, generator=None)


def test_a_swin_is_named():
    with pytest.raises(UserError, match=r"VFPT adds prompts to .*SwinTransformer"):
        vfpt.attach(stock_model(SWIN), **SETTINGS, generator=None)
