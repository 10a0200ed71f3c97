"""Small deltas, dense or of low rank, and the algorithms with the settings of their YAMLs."""

from importlib import import_module

import torch
import yaml

from moppa.merging.updates import LowRank, dense
from moppa.utils.seeds import generator_for
from tests.conftest import CONFIGS

SHAPES = {
    "blocks.0.attn.qkv.weight": (12, 6),
    "blocks.1.mlp.fc1.weight": (8, 6),
    "blocks.1.norm1.weight": (6,),
    "norm.bias": (6,),
    "pos_embed": (1, 5, 6),
}
MERGES = sorted(path.stem for path in (CONFIGS / "merge").glob("*.yaml"))


def draw(*shape, seed):
    return torch.randn(shape, generator=generator_for(seed, *map(str, shape)), dtype=torch.float64)


def dense_deltas(count=3):
    """Returns deltas of different sizes, so that no two entries have the same magnitude."""
    return [
        {name: (1 + index) * draw(*shape, seed=10 * index + len(name)) for name, shape in SHAPES.items()}
        for index in range(count)
    ]


def low_rank_deltas(count=3, rank=2):
    """Returns deltas whose matrices are given by factors; the other tensors are dense."""
    return [
        {
            name: LowRank(draw(shape[0], rank, seed=index + len(name)), draw(rank, shape[1], seed=index + 50))
            if len(shape) == 2
            else draw(*shape, seed=index)
            for name, shape in SHAPES.items()
        }
        for index in range(count)
    ]


def made_dense(deltas):
    return [{name: dense(update) for name, update in delta.items()} for delta in deltas]


def assert_close(actual, expected, tolerance=1e-9):
    assert actual.keys() == expected.keys()
    for name in actual:
        torch.testing.assert_close(dense(actual[name]), dense(expected[name]), rtol=tolerance, atol=tolerance)


def settings_of(name):
    """Returns the function of an algorithm and the settings of its YAML."""
    values = yaml.safe_load((CONFIGS / "merge" / f"{name}.yaml").read_text())["algorithm"]
    module, _, function = values.pop("_target_").rpartition(".")
    return getattr(import_module(module), function), values
