"""Bottleneck adapters against their papers' equations."""

import math

import pytest
import torch
from torch import einsum

from baselines import adapter, houlsby
from moppa.peft.bottleneck import ParallelAdapter, SequentialAdapter
from moppa.peft.collect import trainable_parameters
from tests.baselines.equations import (
    BOTTLENECK,
    assert_equal_to,
    assert_masks_pass_through,
    assert_setting_is_named,
    attached,
    forward,
    gelu,
    seeded,
    vit,
)
from tests.models import batch, model_with, perturbed

SETTINGS = {
    "bottleneck": BOTTLENECK,
    "placements": ["beside_mlp"],
    "activation": "relu",
    "scale": 0.1,
    "init": "kaiming_uniform",
    "dropout": 0.0,
    "drop_path": 0.0,
}

ACTIVATIONS = {
    "relu": lambda x: x.clamp(min=0),
    "gelu": gelu,
    "quick_gelu": lambda x: x / (1 + torch.exp(-1.702 * x)),
}


@pytest.mark.parametrize("scale", [0.1, "channel"])
@pytest.mark.parametrize("activation", ["relu", "gelu", "quick_gelu"])
@pytest.mark.parametrize(
    "placements",
    [["beside_mlp"], ["after_mlp"], ["after_attn", "after_mlp"], ["after_block"], ["beside_attn", "after_block"]],
    ids="+".join,
)
def test_adapters_compute_their_equations(placements, activation, scale):
    settings = {"placements": placements, "activation": activation, "scale": scale}
    stock, model = vit(), attached(adapter.attach, {**SETTINGS, **settings})
    inner = "inner." if "after_block" in placements else ""

    def equation(p):
        def adapt(path, x):
            hidden = einsum("...c,hc->...h", x, p[path + ".adapter.down"]) + p[path + ".adapter.down_bias"]
            hidden = ACTIVATIONS[activation](hidden)
            out = einsum("...h,ch->...c", hidden, p[path + ".adapter.up"]) + p[path + ".adapter.up_bias"]
            return out * (p[path + ".adapter.scale"] if scale == "channel" else 0.1)

        def sublayer(name):
            def run(depth, block, z):
                path, y = f"blocks.{depth}.{inner}{name}", getattr(block, name)(z)
                if f"beside_{name}" in placements:
                    y = y + adapt(path, z)
                return y + adapt(path, y) if f"after_{name}" in placements else y

            return run

        def after(depth, x):
            return x + adapt(f"blocks.{depth}", x) if "after_block" in placements else x

        return forward(stock, sublayer("attn"), sublayer("mlp"), after)

    assert_equal_to(model, equation)


def test_the_order_of_adapters_does_not_depend_on_the_order_of_placements():
    names = []
    for placements in (["beside_mlp", "after_mlp"], ["after_mlp", "beside_mlp"]):
        model = vit()
        adapter.attach(model, **{**SETTINGS, "placements": placements}, generator=seeded())
        names.append(list(trainable_parameters(model)))
        assert isinstance(model.blocks[0].mlp, SequentialAdapter)
        assert isinstance(model.blocks[0].mlp.inner, ParallelAdapter)
    assert names[0] == names[1]


@pytest.mark.parametrize(
    "method", ["adaptformer", "convpass", "bi_adaptformer", "adapter_noah", "lora_noah", "spt_adapter", "spt_lora"]
)
def test_dropout_is_for_training_only(method):
    model = perturbed(model_with(method), size=0.3)
    x = batch()[0]
    assert torch.equal(model.eval()(x), model(x))
    model.train()
    assert not torch.equal(model(x), model(x))


def test_an_adapter_after_the_block_is_dropped_for_whole_images():
    model = perturbed(model_with("adapter_plus"), size=0.3)
    module = model.blocks[0].adapter.train()
    changes = module(torch.randn(200, 3, 64, generator=seeded()))
    dropped = changes.flatten(1).eq(0).all(dim=1)
    assert 5 < dropped.sum() < 40  # a tenth of 200, within four standard deviations
    assert changes[~dropped].ne(0).all()


def test_an_attention_mask_passes_through():
    assert_masks_pass_through(adapter.attach, {**SETTINGS, "placements": ["after_attn", "after_mlp", "after_block"]})


def test_the_initial_values_are_those_of_the_papers():
    wide = {"embed_dim": 768, "num_heads": 4, "depth": 1}
    model = vit(**wide)
    adapter.attach(model, **{**SETTINGS, "init": "truncated_normal", "bottleneck": 32}, generator=seeded())
    down = model.blocks[0].mlp.adapter.down
    assert down.abs().max() <= 0.02  # a standard deviation of 0.01, truncated at two: 0.0088 remains
    assert 0.0085 < down.std() < 0.0091
    model = vit(**wide)
    adapter.attach(model, **SETTINGS, generator=seeded())
    bound = 1 / math.sqrt(768)
    assert 0.99 * bound < model.blocks[0].mlp.adapter.down.abs().max() <= bound


@pytest.mark.parametrize(("init", "bound"), [("normal", None), ("xavier_uniform", math.sqrt(6 / (64 + 32)))])
def test_some_initial_values_draw_both_matrices(init, bound):
    model = vit()
    adapter.attach(model, **{**SETTINGS, "init": init, "bottleneck": 32}, generator=seeded())
    for matrix in (model.blocks[0].mlp.adapter.down, model.blocks[0].mlp.adapter.up):
        if bound:
            assert 0.9 * bound < matrix.abs().max() <= bound
        else:
            assert 0.019 < matrix.std() < 0.021


def test_the_norms_may_be_trained_too():
    model = vit()
    houlsby.attach(model, **SETTINGS, train_norms=True, generator=seeded())
    names = {name for name in trainable_parameters(model) if "adapter" not in name}
    assert names == {name for name, _ in vit().named_parameters() if "norm" in name}
    model = vit()
    houlsby.attach(model, **SETTINGS, train_norms=False, generator=seeded())
    assert all("adapter" in name for name in trainable_parameters(model))


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ({"bottleneck": 0}, r"^bottleneck=0"),
        ({"placements": []}, r"^placements=\[\].*after_block"),
        ({"placements": ["after_mlp", "after_mlp"]}, r"^placements=.*each once"),
        ({"placements": ["before_mlp"]}, r"^placements='before_mlp'.*beside_mlp"),
        ({"activation": "tanh"}, r"^activation='tanh'.*relu, gelu, quick_gelu"),
        ({"scale": "token"}, r"^scale='token'.*number above 0, or channel"),
        ({"scale": 0}, r"^scale=0"),
        ({"init": "zeros"}, r"^init='zeros'"),
        ({"dropout": 1.0}, r"^dropout=1\.0"),
        ({"drop_path": -0.1}, r"^drop_path=-0\.1"),
    ],
)
def test_a_bad_setting_is_named(setting, message):
    assert_setting_is_named(adapter.attach, {**SETTINGS, **setting}, message)
