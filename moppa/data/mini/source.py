"""Images drawn from a seed by a function that the task names: nothing is downloaded, and their sha256 is checked."""

import hashlib
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from importlib import import_module

import numpy as np

from moppa.data.task import Task, hash_names
from moppa.data.tfds import Example
from moppa.utils.errors import UserError

SLICE = re.compile(r"seed(?P<seed>\d+)\[(?P<first>\d*):(?P<end>\d+)\]")

Draw = Callable[[int, int], tuple[np.ndarray, int]]


@dataclass(frozen=True, kw_only=True)
class MiniSource:
    """The mini suite's lineage: a task's `builder` is a function, its splits are like `seed0[800:1000]`.

    The name of an image is the sha256 of its pixels and its class, so that the task's fingerprint proves the bytes.
    """

    lineage: str
    cache: str

    def examples(self, task: Task, part: str) -> Iterator[Example]:
        """Yields train800, val200 or test in the order of their indices.

        Raises:
            UserError: where the task names no such function or slice, or where the bytes are not those of its YAML.
        """
        draw, (seed, indices) = function_of(task), slice_of(task, part)
        names = []
        for index in indices:
            image, label = draw(seed, index)
            names.append(hashlib.sha256(image.tobytes() + bytes([label])).hexdigest())
            yield Example(image, task.label({"label": label}), names[-1])
        check_bytes(task, part, names)

    def origin(self, task: Task) -> str:
        """The function that draws the images."""
        return task.builder


def function_of(task: Task) -> Draw:
    """What draws an image: (seed, index) -> uint8 (H, W) or (H, W, 3), and its class."""
    module, _, name = task.builder.rpartition(".")
    try:
        return getattr(import_module(module), name)
    except (ImportError, AttributeError, ValueError) as error:
        raise UserError(
            f"task {task.name}: task.builder={task.builder} is no function that draws images ({error}); the tasks that "
            f"data=mini serves are those of configs/task/mini, for example task=mini/textures"
        ) from error


def slice_of(task: Task, part: str) -> tuple[int, range]:
    """The seed and the indices that a split's name means."""
    found = SLICE.fullmatch(task.splits[part])
    if found is None:
        raise UserError(
            f"task {task.name}: task.splits.{part}={task.splits[part]!r} is no slice like 'seed0[800:1000]', as "
            f"data=mini needs it"
        )
    return int(found["seed"]), range(int(found["first"] or 0), int(found["end"]))


def check_bytes(task: Task, part: str, names: Sequence[str]) -> None:
    """Every byte of a split is the one of the task's definition, by `task.fingerprint`."""
    found = {f"{part}_sorted": hash_names(sorted(names)), f"{part}_in_order": hash_names(names)}
    for name, digest in (task.fingerprint or {}).items():
        if found.get(name, digest) != digest:
            raise UserError(
                f"task {task.name}: the images drawn for {part} are not those of the task's definition ({name} is "
                f"{found[name]} and should be {digest}); for another seed or another drawing of your own, say so with "
                f"task.fingerprint=null and another task.version"
            )
