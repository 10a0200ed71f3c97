"""Prefix-Tuning against MAM, whose equation tests/baselines/test_mam.py has, without the adapter."""

import pytest
import torch

from baselines import mam, prefix
from moppa.peft.collect import trainable_parameters
from moppa.utils.errors import SettingError
from tests.baselines.equations import BOTTLENECK, attached, images, seeded, vit


@torch.no_grad()
def test_prefix_tuning_is_mam_without_its_adapter():
    model = attached(prefix.attach, {"num_prefixes": 3})
    other = attached(mam.attach, {"num_prefixes": 3, "bottleneck": BOTTLENECK, "scale": 1.0, "dropout": 0.0})
    prefixes = {name: tensor for name, tensor in trainable_parameters(model).items() if name.endswith("prefix")}
    assert [tuple(tensor.shape) for tensor in prefixes.values()] == [(3, 2 * 64)] * len(model.blocks)
    for name, tensor in trainable_parameters(other).items():
        tensor.copy_(trainable_parameters(model)[name] if name in trainable_parameters(model) else 0 * tensor)
    torch.testing.assert_close(model(images()), other(images()))


def test_the_number_of_prefixes_is_named():
    with pytest.raises(SettingError, match=r"^num_prefixes=0"):
        prefix.attach(vit(), num_prefixes=0, generator=seeded())
