"""SPT: the selection of weights, the budget, and what is tuned."""

import pytest
import timm
import torch

from baselines.spt import attach, tune_layer
from moppa.peft.collect import trainable_parameters
from moppa.peft.inject import ParametrizedLinear, disable_output_deltas, merge
from moppa.peft.pieces import find_pieces
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
    model = attached(vit(), structure="adapter", budget=100_000).eval()
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


def test_the_adapter_of_a_projection_reads_its_input():
    model = attached(vit(), structure="adapter", budget=100_000)
    layer = model.blocks[0].attn.proj
    torch.nn.init.normal_(layer.up[0], generator=torch.Generator().manual_seed(0))
    x = torch.randn(2, 5, 64, generator=torch.Generator().manual_seed(1))
    hidden = torch.nn.functional.gelu(torch.einsum("bni,ri->bnr", x, layer.down[0]))
    expected = layer.inner(x) + torch.einsum("bnr,or->bno", hidden, layer.up[0])
    torch.testing.assert_close(layer(x), expected)
    assert layer.dropout == 0
    assert model.blocks[0].attn.qkv.dropout == 0.1


def test_a_matrix_with_a_lora_beside_single_weights_computes_both():
    model, weight = vit(), vit().blocks[0].attn.qkv.weight
    layer, generator = model.blocks[0].attn.qkv, torch.Generator().manual_seed(0)
    q, k, v, bias, *_ = (piece for piece in find_pieces(model, "lora", 8, 10, 5) if piece.layer is layer)
    selected = [(q, torch.arange(4096)), (k, torch.arange(0)), (v, torch.tensor([3, 700])), (bias, torch.tensor([5]))]
    tune_layer(layer, selected, "lora", 8, 0.0, generator)
    [delta] = layer.parametrizations.weight
    [bias_delta] = layer.parametrizations.bias
    with torch.no_grad():
        for parameter in (*delta.parameters(), *bias_delta.parameters()):
            parameter.add_(0.1 * torch.randn(parameter.shape, generator=generator))
        expected, bias = weight.clone(), vit().blocks[0].attn.qkv.bias.clone()
        expected[:64] += delta.low_rank.up[0] @ delta.low_rank.down[0]
        expected[128, 3] += delta.sparse.values[0]
        expected[128 + 700 // 64, 700 % 64] += delta.sparse.values[1]
        bias[5] += bias_delta.values[0]
    x = torch.randn(2, 5, 64, generator=generator)
    assert isinstance(layer, ParametrizedLinear)
    torch.testing.assert_close(layer(x), torch.nn.functional.linear(x, expected, bias))
    torch.testing.assert_close(disable_output_deltas(layer)(x), layer(x))


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
        ({"num_images": 0}, r"^num_images=0"),
        ({"batch_size": 0}, r"^batch_size=0"),
        ({"dropout": 1}, r"^dropout=1"),
    ],
)
def test_a_bad_setting_is_named(setting, message):
    with pytest.raises(SettingError, match=message):
        attached(vit(), **setting)
