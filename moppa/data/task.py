"""A task: what its YAML says of it, and the proof that the images at hand are its official splits."""

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, TypeVar

from moppa.utils import validate
from moppa.utils.errors import UserError

BASE_SPLITS = {
    "train800": ("train800",),
    "val200": ("val200",),
    "train800val200": ("train800", "val200"),
    "test": ("test",),
}
GROUPS = ("natural", "specialized", "structured")

SplitCheck = Literal["official", "differs", "no names"]
Loaded = TypeVar("Loaded")


@dataclass(frozen=True, kw_only=True)
class Task:
    """One classification task of a suite; every field comes from `configs/task/NAME.yaml`.

    `splits` holds a source's name for each of train800, val200 and test; `label` makes the class of one example;
    `name_key` is where the source keeps an image's name; `fingerprint` holds the sha256 of the official names.
    """

    name: str
    version: int
    suite: str
    group: str
    column: int
    title: str
    builder: str
    splits: Mapping[str, str]
    num_test: int
    num_classes: int
    pixel_scale: int
    label: Callable[[Mapping[str, Any]], int]
    name_key: str | None
    fingerprint: Mapping[str, str] | None

    def __post_init__(self) -> None:
        validate.one_of("task.group", self.group, GROUPS)
        validate.integer("task.num_classes", self.num_classes, minimum=2)
        validate.integer("task.num_test", self.num_test, minimum=1)
        validate.integer("task.pixel_scale", self.pixel_scale, minimum=1)
        if missing := {"train800", "val200", "test"} - set(self.splits):
            raise UserError(f"task.splits of {self.name} lacks {', '.join(sorted(missing))}")

    def size_of(self, part: str) -> int:
        """How many images train800, val200 or test holds."""
        return {"train800": 800, "val200": 200, "test": self.num_test}[part]


PROTOCOLS = {
    "final": ("train800val200", "test"),
    "tune": ("train800", "val200"),
    "best_on_test": ("train800val200", "test"),
}


@dataclass(frozen=True, kw_only=True)
class Protocol:
    """What is trained on and what is read afterwards, once: the honest pairs, and no others.

    `every` is for the diagnostic alone that reads the test set each so many epochs, as many papers did.
    """

    name: str
    train: str
    evaluate: str
    every: int | None = None  # absent from the YAMLs of tune and final, whose cells bear the keys of that

    def __post_init__(self) -> None:
        validate.one_of("protocol.name", self.name, PROTOCOLS)
        train, evaluate = PROTOCOLS[self.name]
        if (self.train, self.evaluate) != (train, evaluate):
            raise UserError(
                f"protocol={self.name} with train={self.train} and evaluate={self.evaluate}: "
                f"{self.name} means train={train} and evaluate={evaluate}; choose protocol=final or protocol=tune"
            )
        if self.name == "best_on_test":
            validate.integer("protocol.every", self.every, minimum=1)
        elif self.every is not None:
            raise UserError(
                f"protocol.every={self.every!r}: {self.name} reads once, at the end; only best_on_test reads more"
            )

    def only(self, load: Callable[[str], Loaded]) -> Callable[[str], Loaded]:
        """`load`, of the two splits of this protocol; any other is refused, whoever asks."""

        def guarded(split: str) -> Loaded:
            if split not in (self.train, self.evaluate):
                raise UserError(f"protocol={self.name} reads {self.train} and {self.evaluate}, never {split}")
            return load(split)

        return guarded


def hash_names(names: Sequence[str]) -> str:
    """The sha256 of names, one a line: the form in which the official fingerprints are given."""
    return hashlib.sha256("\n".join(names).encode()).hexdigest()


def split_fingerprint(train800: Sequence[str], val200: Sequence[str]) -> dict[str, str]:
    """The three digests of a split: the order of val200 counts, for it is cut from a longer list."""
    return {
        "train800_sorted": hash_names(sorted(train800)),
        "val200_in_order": hash_names(val200),
        "val200_sorted": hash_names(sorted(val200)),
    }


def check_split(task: Task, train800: Sequence[str] | None, val200: Sequence[str] | None) -> SplitCheck:
    """Whether the training images are the official ones, by their names. A proven difference is an error."""
    if task.fingerprint is None or train800 is None or val200 is None:
        return "no names"
    found = split_fingerprint(train800, val200)
    wrong = [part for part, digest in task.fingerprint.items() if found.get(part, digest) != digest]
    if wrong:
        raise UserError(
            f"task {task.name}: the images are not the official split ({', '.join(wrong)} differ from the task's "
            f"fingerprint; {task.builder}, {task.splits}); get the official data set, or say that this is a split of "
            f"your own with task.fingerprint=null"
        )
    return "official"
