"""SPT: the selection of weights, the budget, and what is tuned."""

import pytest
import timm
import torch

from baselines.spt import attach
from moppa.peft.collect import trainable_parameters
from moppa.peft.inject import merge
from moppa.utils.config import instantiate
from moppa.utils.errors import SettingError
from tests.conftest import config_of

SETTINGS = instantiate(config_of("task=eurosat", "method=spt_lora"), "method.attach", _partial_=True).keywords


def vit(seed=0):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = timm.create_model("test_vit", depth=2, img_size=64, num_classes=10).requires_grad_(False)
        torch.manual_seed(seed)
        torch.nn.init.normal_(model.head.weight)
        return model


def batches(count=3):
    generator = torch.Generator().manual_seed(0)
    return [(torch.randn(4, 3, 64, 64, generator=generator), torch.arange(4)) for _ in range(count)]


def attached(model, **settings):
    attach(model, **{**SETTINGS, **settings}, generator=torch.Generator().manual_seed(0), examples=batches)
    return model


def test_a_small_budget_tunes_single_weights_and_no_others():
    model = attached(vit(), budget=164, matrix_ratio=0.1, vector_ratio=0.5)  # 64 of them for the class token
    stock = {name: tensor.clone() for name, tensor in vit().state_dict().items()}
    with torch.no_grad():
        for parameter in trainable_parameters(model).values():
            parameter.add_(1.0)
    assert 60 + 64 <= sum(parameter.numel() for parameter in trainable_parameters(model).values()) <= 164
    merge(model)
    num_changed = {name: int((tensor != stock[name]).sum()) for name, tensor in model.state_dict().items()}
    assert 60 + 64 <= sum(num_changed.values()) <= 164
    assert num_changed["cls_token"] == 64


@pytest.mark.parametrize("structure", ["lora", "adapter"])
def test_a_matrix_with_many_sensitive_weights_gets_the_structure(structure):
    model = attached(vit(), structure=structure, budget=100_000)
    suffix = {"lora": "down", "adapter": "down_bias"}[structure]
    assert any(suffix in name for name in trainable_parameters(model))
    stock, images = vit().eval(), batches()[0][0]
    assert torch.equal(model.eval()(images), stock(images))


def test_an_adapter_of_some_matrices_computes_its_equation():
    model = attached(vit(), structure="adapter", budget=100_000)
    layer = model.blocks[0].attn.qkv
    with torch.no_grad():
        for parameter in trainable_parameters(model).values():
            parameter.add_(0.1 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(0)))
    x = torch.randn(2, 5, 64, generator=torch.Generator().manual_seed(1))
    expected, adapters = [], iter(zip(layer.down, layer.down_bias, layer.up, layer.up_bias, strict=True))
    for y, is_adapted in zip(layer.inner(x).split(64, dim=-1), layer.is_adapted, strict=True):
        if is_adapted:
            down, down_bias, up, up_bias = next(adapters)
            hidden = torch.nn.functional.gelu(torch.einsum("bni,ri->bnr", y, down) + down_bias)
            y = y + torch.einsum("bnr,or->bno", hidden, up) + up_bias
        expected.append(y)
    torch.testing.assert_close(layer(x), torch.cat(expected, dim=-1))


def test_the_selection_does_not_depend_on_the_seed_of_the_cell():
    first, second = (attached(vit(seed), budget=2000) for seed in (0, 1))
    shapes = [
        {name: parameter.shape for name, parameter in trainable_parameters(model).items()} for model in (first, second)
    ]
    assert shapes[0] == shapes[1]
    for one, other in zip(first.buffers(), second.buffers(), strict=True):
        assert torch.equal(one, other)


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ({"structure": "vpt"}, r"^structure='vpt'.*lora, adapter"),
        ({"budget": 0}, r"^budget=0.*at least 1"),
        ({"budget": 64}, r"^budget=64 .*class token.*raise it"),
        ({"rank": 65}, r"^rank=65 is above 64"),
        ({"num_batches": 0}, r"^num_batches=0"),
    ],
)
def test_a_bad_setting_is_named(setting, message):
    with pytest.raises(SettingError, match=message):
        attached(vit(), **setting)
