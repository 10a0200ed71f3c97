"""Backbones from overrides of the config."""

import torch

from moppa.utils.config import instantiate
from tests.conftest import config_of


def backbone_from(*overrides):
    return instantiate(config_of("task=eurosat", *overrides), "backbone")


def build(*overrides, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return backbone_from(*overrides).build(num_classes=10, drop_path=0.0, generator=generator)
