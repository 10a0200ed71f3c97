"""Defines tasks and evaluation protocols, and checks that the available images are the official splits of a task."""

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, TypeVar

from moppa.utils import validate
from moppa.utils.errors import SettingError, UserError

SPLITS = ("train800", "val200", "test")
BASE_SPLITS = {  # which of SPLITS make up a split that a protocol can name
    "train800": ("train800",),
    "val200": ("val200",),
    "train800val200": ("train800", "val200"),
    "test": ("test",),
}
GROUPS = ("natural", "specialized", "structured")
NORMALIZATIONS = {  # mean and standard deviation per channel, of pixels from 0 to 1
    "imagenet": ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
    "half": ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5)),
    "none": ((0.0, 0.0, 0.0), (1.0, 1.0, 1.0)),
}

SplitCheck = Literal["official", "official start", "differs", "no digest", "no names"]
TestCheck = Literal["official", "no digest", "not read"]
TEST_DIGESTS = ("names", "pixels")
Loaded = TypeVar("Loaded")


@dataclass(frozen=True, kw_only=True)
class Task:
    """One classification task of a suite. Every field comes from `configs/task/NAME.yaml`.

    `splits` holds the source's names of train800, val200 and test. `label` computes the class of an example.
    `name_key` is the field with the name of an image. `fingerprint` holds the sha256 digests of the official names.
    `test_sha256` holds those of the test split: `names` over its sorted names, `pixels` over its decoded images.
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
    test_sha256: Mapping[str, str] | None = None  # records from before this setting do not have it
    num_train: int = 800  # the sizes of VTAB-1K, which the YAMLs of other tasks replace
    num_val: int = 200
    suite_version: int = 1  # the first version of the suite that has the task

    def __post_init__(self) -> None:
        for name in ("name", "suite", "title", "builder"):
            validate.text(name, getattr(self, name))
        for name in ("fingerprint", "test_sha256"):
            validate.text_by_name(name, getattr(self, name) or {})
        validate.text_by_name("splits", self.splits)
        if not callable(self.label):
            raise SettingError("label", f"={self.label!r}: it must name a function of moppa/data/labels.py")
        validate.integer("version", self.version, minimum=1)
        validate.integer("column", self.column, minimum=0)
        validate.integer("suite_version", self.suite_version, minimum=1)
        validate.one_of("group", self.group, GROUPS)
        validate.integer("num_classes", self.num_classes, minimum=2)
        for name in ("num_train", "num_val", "num_test"):
            validate.integer(name, getattr(self, name), minimum=1)
        validate.integer("pixel_scale", self.pixel_scale, minimum=1)
        if missing := [split for split in SPLITS if split not in self.splits]:
            raise SettingError("splits", f"={self.splits}: add {', '.join(missing)}")
        for name in self.test_sha256 or ():
            if name not in TEST_DIGESTS:
                raise SettingError(f"test_sha256.{name}", f": there are only {' and '.join(TEST_DIGESTS)}")

    def num_images(self, split: str) -> int:
        """Returns the number of images of train800, val200 or test."""
        return {"train800": self.num_train, "val200": self.num_val, "test": self.num_test}[split]


PROTOCOLS = {  # the split to train on and the split to evaluate on
    "final": ("train800val200", "test"),
    "tune": ("train800", "val200"),
    "best_on_test": ("train800val200", "test"),
    "train_only": ("train800", "test"),
    "few_shot": ("train800", "test"),
}
WITH_SHOTS = ("few_shot", "tune")


@dataclass(frozen=True, kw_only=True)
class Protocol:
    """The split to train on and the split to evaluate on, once, after training. Other pairs are refused.

    `every` belongs to the diagnostic `best_on_test`, which evaluates on the test set every so many epochs. With
    `shots`, the cell trains on so many images of each class, drawn from the seed `draw`, or else from its own seed.
    """

    name: str
    train: str
    evaluate: str
    every: int | None = None  # not in the YAMLs of tune and final: it would change the keys of their cells
    shots: int | None = None  # likewise
    draw: int | None = None

    def __post_init__(self) -> None:
        kind = "few_shot" if self.name.startswith("few_shot_") else validate.one_of("name", self.name, PROTOCOLS)
        train, evaluate = PROTOCOLS[kind]
        self._check_shots(kind)
        if (self.train, self.evaluate) != (train, evaluate):
            raise UserError(
                f"protocol={self.name} with train={self.train} and evaluate={self.evaluate}: "
                f"{self.name} means train={train} and evaluate={evaluate}; choose protocol=final or protocol=tune"
            )
        if self.name == "best_on_test":
            validate.integer("every", self.every, minimum=1)
        elif self.every is not None:
            raise SettingError(
                "every", f"={self.every!r}: {self.name} evaluates once, after training; only best_on_test repeats it"
            )

    def _check_shots(self, kind: str) -> None:
        if self.shots is not None:
            validate.integer("shots", self.shots, minimum=1)
        if self.draw is not None:
            validate.integer("draw", self.draw, minimum=0)
        if self.shots is not None and kind not in WITH_SHOTS:
            raise SettingError("shots", f"={self.shots}: {self.name} has none; choose protocol=few_shot_{self.shots}")
        if kind == "few_shot" and self.name != f"few_shot_{self.shots}":
            raise SettingError(
                "shots", f"={self.shots!r}: {self.name} means {self.name[len(kind) + 1 :]}; copy its YAML"
            )
        if self.draw is not None and self.shots is None:
            raise SettingError("draw", f"={self.draw}: {self.name} draws no images; choose protocol=few_shot_1")

    def restrict(self, load: Callable[[str], Loaded]) -> Callable[[str], Loaded]:
        """Returns `load` with a check that raises `UserError` for any split outside of this protocol."""

        def load_allowed(split: str) -> Loaded:
            if split not in (self.train, self.evaluate):
                raise UserError(f"protocol={self.name} reads {self.train} and {self.evaluate}, never {split}")
            return load(split)

        return load_allowed


def hash_names(names: Sequence[str]) -> str:
    """Returns the sha256 of the names, one per line. The official fingerprints have this form."""
    # the names of files need not be UTF-8: Python keeps their other bytes as surrogates
    return hashlib.sha256("\n".join(names).encode("utf-8", "surrogateescape")).hexdigest()


def split_fingerprint(train800: Sequence[str], val200: Sequence[str]) -> dict[str, str]:
    """Returns the three digests of a split. The order of val200 counts because it is a slice of a longer list."""
    return {
        "train800_sorted": hash_names(sorted(train800)),
        "val200_in_order": hash_names(val200),
        "val200_sorted": hash_names(sorted(val200)),
    }


def start_fingerprint(train800: Sequence[str], val200: Sequence[str]) -> dict[str, str]:
    """Returns two digests of the first names of a split that is larger than that of VTAB-1K and begins with it."""
    return {"first800_sorted": hash_names(sorted(train800[:800])), "first200_in_order": hash_names(val200[:200])}


def proves_start_only(task: Task) -> bool:
    """Returns whether the fingerprint of a task proves the first images of its splits, and not all of them."""
    names = set(task.fingerprint or {})
    return bool(names) and names <= set(start_fingerprint([], []))


def check_split(task: Task, train800: Sequence[str] | None, val200: Sequence[str] | None) -> SplitCheck:
    """Returns whether the names of the training images are the official ones.

    Raises:
        UserError: if the names differ from the task's fingerprint.
    """
    if train800 is None or val200 is None or (task.fingerprint is None and task.name_key is None):
        return "no names"
    if task.fingerprint is None:
        return "no digest"
    actual = split_fingerprint(train800, val200) | start_fingerprint(train800, val200)
    wrong = [name for name, digest in task.fingerprint.items() if actual.get(name, digest) != digest]
    if wrong:
        raise UserError(
            f"task {task.name}: the images are not the official split ({', '.join(wrong)} differ from the task's "
            f"fingerprint; {task.builder}, {task.splits}); get the official data set, or set task.fingerprint=null to "
            f"declare a split of your own"
        )
    return "official start" if proves_start_only(task) else "official"


def check_test(task: Task, names: Sequence[str] | None, pixels: str | None) -> TestCheck:
    """Returns whether the images of the test split are the official ones.

    `names` are their names, and `pixels` is the sha256 of their decoded pixels; each is None if it cannot be compared.

    Raises:
        UserError: if they differ from the task's digests.
    """
    official = {f"test_sha256.{name}": digest for name, digest in (task.test_sha256 or {}).items() if digest}
    official |= {f"fingerprint.{name}": digest for name, digest in (task.fingerprint or {}).items() if "test_" in name}
    actual = {"test_sha256.pixels": pixels}
    if names is not None:
        actual |= {"test_sha256.names": hash_names(sorted(names)), "fingerprint.test_in_order": hash_names(names)}
    common = [name for name in official if actual.get(name)]
    if wrong := [name for name in common if official[name] != actual[name]]:
        raise UserError(
            f"task {task.name}: the test images are not the official ones ({', '.join(wrong)} is {actual[wrong[0]]}, "
            f"the task says {official[wrong[0]]}; {task.builder}, {task.splits['test']}); get the official data set, "
            f"or set task.{wrong[0].partition('.')[0]}=null to declare a test set of your own"
        )
    return "official" if common else "no digest"
