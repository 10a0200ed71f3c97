"""VPT against the concatenation of the paper, its initial values and its dropout."""

import copy
import math

import pytest
import timm
import torch

from baselines import vpt
from moppa.peft.collect import trainable_parameters
from moppa.utils.errors import SettingError, UserError
from moppa.utils.seeds import generator_for, seeded
from tests.baselines.families import DEPTH, DIM, NUM_PATCHES, VIT, assert_equal_to, images, leaf, perturbed, stock_model

PREFIXES = {
    "class token": {},
    "no prefix": {"class_token": False, "global_pool": "avg"},
    "registers": {"reg_tokens": 4},
}
SETTINGS = {"num_prompts": 5, "deep": True, "dropout": 0.0, "pool_prompts": False}


def prompts_of(model):
    return [parameter for name, parameter in trainable_parameters(model).items() if name.endswith("prompts")]


@pytest.mark.parametrize("pool_prompts", [False, True], ids=["tokens pooled", "prompts pooled too"])
@pytest.mark.parametrize("deep", [False, True], ids=["shallow", "deep"])
@pytest.mark.parametrize("prefix", PREFIXES)
def test_vpt_is_the_concatenation_of_the_paper(prefix, deep, pool_prompts):
    stock = stock_model(VIT, **PREFIXES[prefix])
    model = copy.deepcopy(stock)
    vpt.attach(model, **{**SETTINGS, "deep": deep, "pool_prompts": pool_prompts}, generator=generator_for(0, "method"))
    perturbed(model)
    stock.double().head.load_state_dict(model.head.state_dict())
    prompts = [leaf(parameter) for parameter in prompts_of(model)]
    assert [tuple(one.shape) for one in prompts] == [(5, DIM)] * (DEPTH if deep else 1)

    num_prefix_tokens = stock.num_prefix_tokens
    x = stock.norm_pre(stock._pos_embed(stock.patch_embed(images())))
    for depth, block in enumerate(stock.blocks):
        if deep or depth == 0:
            batch_prompts = torch.stack([prompts[depth]] * len(x))
            x = torch.cat([x[:, :num_prefix_tokens], batch_prompts, x[:, -NUM_PATCHES:]], dim=1)
        x = block(x)
        assert x.shape[1] == num_prefix_tokens + 5 + NUM_PATCHES
    if not pool_prompts:  # with a class token the head reads no prompt
        x = torch.cat([x[:, :num_prefix_tokens], x[:, -NUM_PATCHES:]], dim=1)
    x = stock.norm(x)
    assert_equal_to(stock.forward_head(x), prompts, model(images()), prompts_of(model))


def test_prompts_to_which_no_token_attends_change_nothing():
    stock = stock_model(VIT)
    model = copy.deepcopy(stock)
    vpt.attach(model, **SETTINGS, generator=None)
    x = torch.randn(2, 1 + NUM_PATCHES, DIM, generator=generator_for(5, "x"))
    mask = torch.zeros(1 + 5 + NUM_PATCHES, 1 + 5 + NUM_PATCHES)
    mask[:, 1:6] = -math.inf
    torch.testing.assert_close(model.blocks[0](x, attn_mask=mask), stock.blocks[0](x))
    assert not torch.allclose(model.blocks[0](x), stock.blocks[0](x), atol=1e-3)


def test_shallow_and_deep_prompts_are_equal_in_a_single_block():
    logits = []
    for deep in (False, True):
        model = stock_model(VIT, depth=1)
        vpt.attach(model, **{**SETTINGS, "deep": deep}, generator=generator_for(0, "method"))
        logits.append(model(images().float()))
    assert torch.equal(*logits)


def test_the_initial_values_are_uniform_within_the_bound_of_the_authors_code():
    model = stock_model(VIT)
    vpt.attach(model, **{**SETTINGS, "num_prompts": 100}, generator=generator_for(0, "method"))
    bound = math.sqrt(6 / (3 * 16 * 16 + DIM))
    for prompts in map(torch.Tensor.detach, prompts_of(model)):
        assert 0.99 * bound < float(prompts.abs().max()) <= bound
        assert float(prompts.std()) == pytest.approx(bound / math.sqrt(3), rel=0.03)


def test_dropout_differs_by_image_and_is_for_training_only():
    model = stock_model(VIT)
    vpt.attach(model, **{**SETTINGS, "num_prompts": 50, "dropout": 0.25}, generator=generator_for(0, "method"))
    inserted = []
    model.blocks[0].inner.register_forward_pre_hook(lambda module, inputs: inserted.append(inputs[0][:, 1:51]))
    with seeded(0):
        model.train()(images().float())
    model.eval()(images().float())
    in_training, in_evaluation = inserted
    prompts = prompts_of(model)[0].expand(3, -1, -1)
    assert torch.equal(in_evaluation, prompts)
    is_kept = in_training != 0
    torch.testing.assert_close(in_training, torch.where(is_kept, prompts / 0.75, 0))
    assert float(is_kept.float().mean()) == pytest.approx(0.75, abs=0.02)
    assert not torch.equal(is_kept[0], is_kept[1])


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("num_prompts", 0),
        ("num_prompts", True),
        ("dropout", -0.1),
        ("dropout", 1.0),
        ("dropout", math.nan),
    ],
)
def test_a_bad_setting_is_named_and_nothing_is_attached(name, value):
    model = stock_model(VIT)
    before = list(model.state_dict())
    with pytest.raises(SettingError, match=rf"^{name}={value!r}"):
        vpt.attach(model, **{**SETTINGS, name: value}, generator=None)
    assert list(model.state_dict()) == before


def test_a_model_with_rotary_positions_is_named():
    rotary = timm.create_model("eva02_tiny_patch14_224", depth=1, img_size=28, num_classes=10)
    with pytest.raises(UserError, match="Eva"):
        vpt.attach(rotary, **SETTINGS, generator=None)
