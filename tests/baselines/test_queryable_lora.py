"""Queryable LoRA against its equation, token by token."""

import pytest
import torch

from baselines import queryable_lora
from tests.baselines.equations import (
    assert_equal_to,
    assert_masks_pass_through,
    assert_setting_is_named,
    attached,
    forward,
    seeded,
    vit,
)

SETTINGS = {"rank": 3, "alpha": 6, "targets": ["q", "v"], "num_atoms": 4, "query_dim": 5}
MEMORY = "blocks.0.attn.qkv.updates.0.memory."


def update(tensors, place, x):
    """Returns the update of each token of each image, whose operator is a sum of atoms."""
    atoms, keys, query, summary = (tensors[f"{MEMORY}{name}"] for name in ("atoms", "keys", "query", "summary"))
    outputs = []
    for image in x:
        mean = sum(image) / len(image)
        for token in image:
            z = tensors[f"{place}.down"] @ token
            logits = keys @ (query @ z + summary @ mean) / 5**0.5
            weights = torch.exp(logits) / torch.exp(logits).sum()
            operator = sum(weight * atom for weight, atom in zip(weights, atoms, strict=True))
            outputs.append(6 / 3 * tensors[f"{place}.up"] @ (operator @ z))
    return torch.stack(outputs).view(*x.shape[:2], -1)


def test_queryable_lora_is_the_equation():
    stock = vit(depth=1)

    def attention(tensors, depth, block, x):
        q, k, v = block.attn.qkv(x).chunk(3, dim=-1)
        q, v = (y + update(tensors, f"blocks.{depth}.attn.qkv.updates.{i}", x) for i, y in enumerate((q, v)))
        q, k, v = (y.unflatten(-1, (block.attn.num_heads, -1)).transpose(1, 2) for y in (q, k, v))
        scores = (q @ k.transpose(2, 3) * block.attn.scale).softmax(dim=-1)
        return block.attn.proj((scores @ v).transpose(1, 2).flatten(2))

    def equation(tensors):
        return forward(
            stock,
            lambda depth, block, x: attention(tensors, depth, block, x),
            lambda depth, block, x: block.mlp(x),
        )

    assert_equal_to(attached(queryable_lora.attach, SETTINGS, depth=1), equation)


def test_the_memory_is_one_and_drawn_so_that_a_state_keeps_its_size():
    model = vit()
    queryable_lora.attach(model, rank=16, alpha=8, targets=["q", "v"], num_atoms=64, query_dim=32, generator=seeded())
    [memory] = {module for module in model.modules() if isinstance(module, queryable_lora.Memory)}
    for name, tensor in memory.named_parameters():
        assert float(tensor.detach().std()) == pytest.approx(tensor.shape[-1] ** -0.5, rel=0.1), name


def test_masks_pass_through():
    assert_masks_pass_through(queryable_lora.attach, SETTINGS)


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ({"rank": 0}, r"^rank=0"),
        ({"rank": 65}, r"^rank=65 .*64"),
        ({"alpha": 0}, r"^alpha=0: .*above 0"),
        ({"num_atoms": 0}, r"^num_atoms=0: .*at least 1"),
        ({"query_dim": 0}, r"^query_dim=0: .*at least 1"),
        ({"targets": ["fc1"]}, r"^targets='fc1'.*q, k, v"),
    ],
)
def test_a_bad_setting_is_named(setting, message):
    assert_setting_is_named(queryable_lora.attach, {**SETTINGS, **setting}, message)
