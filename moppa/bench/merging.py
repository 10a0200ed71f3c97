"""The peak memory of a merging algorithm, on generated experts in files and generated images."""

import inspect
import math
import re
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from omegaconf import OmegaConf
from torch import Tensor

from moppa.data.split import Split
from moppa.merging.merged_model import MergedModel
from moppa.merging.training_images import TrainingImages
from moppa.merging.updates import LowRank, StoredDelta, Update, dense
from moppa.record.cell import cell_from_config
from moppa.record.parts import instantiate_parts
from moppa.utils.config import compose_config, instantiate
from moppa.utils.paths import CONFIGS
from moppa.utils.seeds import generator_for
from moppa.utils.usage import peak_memory_bytes

SIZE = 1e-3  # standard deviation of the entries of a delta
NUM_RANDOM = 1 << 23
NUM_IMAGES, NUM_CLASSES = 1000, 10  # of every task


def merged_model(backbone: str) -> MergedModel:
    """Returns a backbone with random weights, as `moppa merge` holds it."""
    words = [f"backbone={backbone}", "backbone.weights=random", "method=linear", "task=eurosat", "run.device=cpu"]
    parts = instantiate_parts(cell_from_config(compose_config(words), weights_sha256="random"))
    return MergedModel(parts, torch.device("cpu"))


def expert_deltas(folder: Path, model: MergedModel, *, count: int, rank: int | None) -> list[StoredDelta]:
    """Returns random deltas in a folder; those that lie there from before are not written again.

    With a rank only the matrices of the blocks differ from the pretrained ones, as factors; else all tensors do.
    """
    deltas = []
    for index in range(count):
        delta = StoredDelta(folder / f"{'dense' if rank is None else f'rank{rank}'}-{index}")
        for name, tensor in model.pretrained.items():
            if rank is None or (tensor.ndim == 2 and name.startswith("blocks.")):
                file = delta.folder / f"{len(delta)}.pt"
                if file.exists() and file.stat().st_size > num_bytes(tensor, rank):  # it was written as a whole
                    delta.files[name] = file
                else:
                    delta.store(name, random_update(tensor.shape, rank, seed=index, name=name))
        deltas.append(delta)
    return deltas


def num_bytes(tensor: Tensor, rank: int | None) -> int:
    """Returns the size of the numbers of an update of a tensor."""
    return 4 * (tensor.numel() if rank is None else rank * sum(tensor.shape))


@lru_cache
def random_numbers() -> Tensor:
    """Returns normally distributed numbers, from which all updates are cut."""
    return SIZE * torch.randn(NUM_RANDOM, generator=generator_for(0, "updates"))


def random_update(shape: Sequence[int], rank: int | None, *, seed: int, name: str) -> Update:
    """Returns a dense update, or one of a rank."""
    if rank is not None:
        up, down = (
            random_update(size, None, seed=seed, name=f"{name} {size}") for size in ((shape[0], rank), (rank, shape[1]))
        )
        return LowRank(dense(up), dense(down) / SIZE)
    size = math.prod(shape)
    start = int(torch.randint(NUM_RANDOM - size, (), generator=generator_for(seed, name)))
    return random_numbers()[start : start + size].view(*shape)


def generated_stage(deltas: Sequence[StoredDelta], model: MergedModel, image_size: int) -> Any:
    """Returns tasks with random heads and images, as far as algorithms that read training images use them."""
    heads, dim = [generator_for(index, "head") for index in range(len(deltas))], int(model.model.num_features)  # type: ignore[arg-type]

    def load(_: str) -> Split:
        images = np.random.default_rng(0).integers(256, size=(NUM_IMAGES, image_size, image_size, 3), dtype=np.uint8)
        return Split(images=images, labels=np.arange(NUM_IMAGES) % NUM_CLASSES, digest="")

    tasks = [
        SimpleNamespace(
            name=f"task {index}",
            data=SimpleNamespace(train_split="train", load=load),
            expert=SimpleNamespace(
                delta=delta,
                head={"weight": torch.randn(NUM_CLASSES, dim, generator=head), "bias": torch.zeros(NUM_CLASSES)},
            ),
        )
        for index, (delta, head) in enumerate(zip(deltas, heads, strict=True))
    ]
    return SimpleNamespace(tasks=tasks, parts=SimpleNamespace(run=SimpleNamespace(precision="auto")))


def merge_peak(
    algorithm: str,
    folder: Path,
    *,
    backbone: str,
    count: int,
    rank: int | None,
    only: str,
    settings: Sequence[str],
) -> int | None:
    """Returns the peak of the process's memory in bytes after one merge, with the merged delta set in the model.

    Args:
        algorithm: a YAML of configs/merge/.
        folder: where the deltas are stored.
        backbone: a YAML of configs/backbone/.
        count: the number of experts.
        rank: of their deltas; None for dense ones.
        only: a regular expression; only tensors whose names it matches from the start are merged.
        settings: overrides of the algorithm, as in steps=2.
    """
    model = merged_model(backbone)
    deltas = expert_deltas(folder, model, count=count, rank=rank)
    for delta in deltas:
        delta.files = {name: file for name, file in delta.files.items() if re.match(only, name)}
    yaml = OmegaConf.load(CONFIGS / "merge" / f"{algorithm}.yaml")
    config = OmegaConf.merge(yaml, OmegaConf.from_dotlist([f"algorithm.{word}" for word in settings]))
    merge = instantiate(OmegaConf.create({"merge": config}), "merge.algorithm", _partial_=True)
    training = TrainingImages(generated_stage(deltas, model, int(model.preprocess.size)), model)
    arguments = {"seed": 0, "training": training}
    supported = inspect.signature(merge).parameters
    model.set_delta(merge(deltas, **{name: value for name, value in arguments.items() if name in supported}))
    return peak_memory_bytes(torch.device("cpu"))
