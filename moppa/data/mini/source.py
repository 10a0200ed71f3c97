"""Draws images from a seed with the function that the task names. Nothing is downloaded; sha256 digests are checked."""

import hashlib
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from importlib import import_module
from typing import ClassVar

import numpy as np

from moppa.data.source import Example
from moppa.data.task import Task, hash_names
from moppa.utils.errors import UserError

SLICE = re.compile(r"seed(?P<seed>\d+)\[(?P<first>\d*):(?P<end>\d+)\]")

Draw = Callable[[int, int], tuple[np.ndarray, int]]


@dataclass(frozen=True, kw_only=True)
class MiniSource:
    """The lineage of the mini suite: the `builder` of a task is a function, its splits are like `seed0[800:1000]`.

    The name of an image is the sha256 of its pixels and its class, so the task's fingerprint proves the bytes.
    """

    lineage: ClassVar[str] = "generated"

    name: str
    cache: str

    def examples(self, task: Task, split: str) -> Iterator[Example]:
        """Yields the examples of train800, val200 or test in the order of their indices.

        Raises:
            UserError: if the task names no such function or slice, or if the bytes differ from its fingerprint.
        """
        draw = draw_function(task)
        seed, indices = seed_and_indices(task, split)
        names = []
        for index in indices:
            image, label = draw(seed, index)
            names.append(hashlib.sha256(image.tobytes() + bytes([label])).hexdigest())
            yield Example(image, task.label({"label": label}), names[-1])
        check_bytes(task, split, names)

    def origin(self, task: Task) -> str:
        """Returns the dotted path of the function that draws the images."""
        return task.builder


def draw_function(task: Task) -> Draw:
    """Returns the function (seed, index) -> uint8 image (H, W) or (H, W, 3) and its class."""
    module, _, name = task.builder.rpartition(".")
    try:
        return getattr(import_module(module), name)
    except (ImportError, AttributeError, ValueError) as error:
        raise UserError(
            f"task {task.name}: task.builder={task.builder} is not a function that draws images ({error}); data=mini "
            f"serves the tasks of configs/task/mini, for example task=mini/textures"
        ) from error


def seed_and_indices(task: Task, split: str) -> tuple[int, range]:
    """Returns the seed and the indices of a split."""
    match = SLICE.fullmatch(task.splits[split])
    if match is None:
        raise UserError(
            f"task {task.name}: task.splits.{split}={task.splits[split]!r} is not a slice like 'seed0[800:1000]', "
            f"which data=mini needs"
        )
    return int(match["seed"]), range(int(match["first"] or 0), int(match["end"]))


def check_bytes(task: Task, split: str, names: Sequence[str]) -> None:
    """Raises `UserError` if the names, and so the bytes, of a split differ from `task.fingerprint`."""
    actual = {f"{split}_sorted": hash_names(sorted(names)), f"{split}_in_order": hash_names(names)}
    for name, digest in (task.fingerprint or {}).items():
        if actual.get(name, digest) != digest:
            raise UserError(
                f"task {task.name}: the images drawn for {split} are not those of the task's definition ({name} is "
                f"{actual[name]} and should be {digest}); if you changed the seed or the drawing, set "
                f"task.fingerprint=null and another task.version"
            )
