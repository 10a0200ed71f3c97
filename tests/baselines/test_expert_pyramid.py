"""Expert pyramid tuning against transposed convolutions."""

import copy

import pytest
import torch
import torch.nn.functional as F
from torch.func import functional_call

from baselines import expert_pyramid
from moppa.peft.inject import merge
from tests.baselines.equations import assert_equal_to, assert_setting_is_named, attached, images, vit

SETTINGS = {"rank": 3, "sizes": [2, 3, 6], "scale": 0.5, "targets": ["q", "v", "fc1"]}


def update(tensors, place, shape):
    """Returns the update of a matrix; a kernel of 3 does not divide its 64 rows and columns, so that it is cut."""
    subspace = tensors[f"{place}.up"] @ tensors[f"{place}.down"]
    gates = torch.exp(tensors[f"{place}.logits"]) / torch.exp(tensors[f"{place}.logits"]).sum()
    total = 0
    for index, size in enumerate((2, 3, 6)):
        rows, columns = ((dim + size - 1) // size for dim in shape)
        kernel = tensors[f"{place}.kernels.{index}"]
        expanded = F.conv_transpose2d(subspace[None, None, :rows, :columns], kernel[None, None], stride=size)[0, 0]
        total = total + 0.5 * gates[index] * expanded[: shape[0], : shape[1]]
    return total


def test_the_update_is_a_sum_of_transposed_convolutions_and_merges():
    stock, model = vit(depth=1), attached(expert_pyramid.attach, SETTINGS, depth=1)

    def equation(tensors):
        place = "parametrizations.weight.0.pyramids"
        qkv, fc1 = stock.blocks[0].attn.qkv.weight, stock.blocks[0].mlp.fc1.weight
        q, v = (update(tensors, f"blocks.0.attn.qkv.{place}.{index}", (64, 64)) for index in (0, 1))
        changed = {
            "blocks.0.attn.qkv.weight": qkv + torch.cat([q, torch.zeros_like(q), v]),
            "blocks.0.mlp.fc1.weight": fc1 + update(tensors, f"blocks.0.mlp.fc1.{place}.0", tuple(fc1.shape)),
        }
        return functional_call(stock, changed, (images(),))

    assert_equal_to(model, equation)
    merged = merge(copy.deepcopy(model))
    torch.testing.assert_close(merged(images()), model(images()), atol=1e-10, rtol=0)
    assert merged.state_dict().keys() == stock.state_dict().keys()


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ({"rank": 0}, r"^rank=0: .*at least 1"),
        ({"sizes": []}, r"^sizes=\[\]: "),
        ({"sizes": [2, 0]}, r"^sizes=0: .*at least 1"),
        ({"scale": 0}, r"^scale=0: .*above 0"),
        ({"targets": ["w"]}, r"^targets='w'"),
    ],
)
def test_a_bad_setting_is_named(setting, message):
    assert_setting_is_named(expert_pyramid.attach, {**SETTINGS, **setting}, message)
