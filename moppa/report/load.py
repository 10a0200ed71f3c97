"""The records that tables may rest on: what is corrupt, partial, there twice or at odds is left out by name."""

import hashlib
from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

import numpy as np

from moppa.record.schema import key_of, read_record_with_sha256
from moppa.utils.errors import UserError

NUM_VAL = 200


@dataclass(frozen=True, kw_only=True)
class ValidRecord:
    """A record that agrees with itself and with its place."""

    path: Path
    place: str
    content: Mapping[str, Any] = field(repr=False)
    sha256: str

    def __getitem__(self, name: str) -> Any:
        return self.content[name]

    @property
    def accuracy(self) -> float:
        """In percent."""
        return 100 * self.content["correct"] / self.content["total"]


@dataclass(frozen=True, kw_only=True)
class Excluded:
    """A file that no number rests on, and why; `key` and `method` tell which row it would have stood in."""

    place: str
    reason: str
    suite: str
    backbone: str
    method: str
    key: str


@dataclass(frozen=True, kw_only=True)
class Predictions:
    """The predictions kept beside a record: which test images were right, and a digest of the labels they answer."""

    right: np.ndarray
    labels: str


def load_records(results: Path) -> tuple[list[ValidRecord], list[Excluded]]:
    """Every `seed*.json` under `results/records`, in the order of their places."""
    root = results / "records"
    sound, left_out = [], []
    for path in sorted(root.rglob("seed*.json")):
        try:
            sound.append(load_record(path, root))
        except UserError as error:
            left_out.append(exclude_file(path, root, str(error)))
    kept, twice = drop_duplicates(sound)
    return kept, sorted(left_out + twice, key=lambda one: one.place)


def load_record(path: Path, root: Path) -> ValidRecord:
    """A record, or an error that says what in it contradicts what."""
    content, sha256 = read_record_with_sha256(path)
    if wrong := inconsistency(content):
        raise UserError(f"{wrong}; delete it and run its cell again")
    return ValidRecord(path=path, place=path.relative_to(root).as_posix(), content=content, sha256=sha256)


def inconsistency(content: Mapping[str, Any]) -> str:
    """What of a record is at odds with the config that it carries, or nothing."""
    try:
        config, correct, total = content["config"], content["correct"], content["total"]
        said = {name: content[name] for name in ("suite", "task", "backbone", "method", "protocol", "seed")}
        meant = {
            "suite": config["task"]["suite"],
            "task": config["task"]["name"],
            "backbone": config["backbone"]["name"],
            "method": config["method"]["name"],
            "protocol": config["protocol"]["name"],
            "seed": config["seed"],
        }
        for name, value in said.items():
            if meant[name] != value:
                return f"it says {name} {value}, its config says {meant[name]}"
        if not isinstance(correct, int) or not isinstance(total, int) or not 0 <= correct <= total or not total:
            return f"it counts {correct} right of {total}"
        asked = config["task"]["num_test"] if config["protocol"]["evaluate"] == "test" else NUM_VAL
        if total != asked:
            return f"it answers {total} images, and {config['protocol']['evaluate']} of {said['task']} has {asked}"
        if missing := [name for name in ("lineage", "verdict") if name not in content["split"]]:
            return f"its split has no {missing[0]}"
        check_fields(content)
        if (key := key_of(config, content["weights"]["sha256"])) != content["key"]:
            return f"its key is {content['key']}, its config and weights give {key}"
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        return f"its fields are not a record's ({type(error).__name__}: {error})"
    return ""


def check_fields(content: Mapping[str, Any]) -> None:
    """Fails with KeyError, TypeError or ValueError where a field that tables and pictures read is not what it is."""
    for name in ("trainable_params", "head_params", "peak_memory_bytes"):
        int(content[name])
    float(content["seconds"]["train"])
    for place, names in (("git", ("commit", "dirty")), ("weights", ("name", "sha256")), ("device", ("name",))):
        for name in names:
            content[place][name]
    for name in ("mean", "std"):
        tuple(float(value) for value in content["preprocess"][name])
    for epoch in content["curve"]:
        float(epoch["loss"])


def exclude_file(path: Path, root: Path, reason: str) -> Excluded:
    """A file that is left out; its place, `SUITE/BACKBONE/TASK/METHOD/KEY/seedK.json`, tells whose it is."""
    place = path.relative_to(root).as_posix()
    suite, backbone, _, method, key = ("", "", "", "", "", *place.split("/")[:-1])[-5:]
    reason = reason.removeprefix(f"{path} is not a record: ")
    return Excluded(place=place, reason=reason, suite=suite, backbone=backbone, method=method, key=key)


def drop_duplicates(records: Iterable[ValidRecord]) -> tuple[list[ValidRecord], list[Excluded]]:
    """Of two files of one cell and seed the one in its own place counts; where neither lies there, none does."""
    same: dict[tuple[str, ...], list[ValidRecord]] = defaultdict(list)
    for one in records:
        same[tuple(str(one[name]) for name in ("suite", "backbone", "task", "method", "key", "seed"))].append(one)
    kept, twice = [], []
    for names, twins in same.items():
        home = "/".join((*names[:-1], f"seed{names[-1]}.json"))
        at_home = [one for one in twins if one.place == home] if len(twins) > 1 else twins
        kept += at_home
        for one in twins:
            if one not in at_home:
                other = next(two.place for two in twins if two is not one)
                twice.append(exclude_record(one, f"the cell and seed of {other} a second time; delete one of the two"))
    return kept, twice


def exclude_record(one: ValidRecord, reason: str) -> Excluded:
    """A record that can be read and is left out for what else is there."""
    names = {name: one[name] for name in ("suite", "backbone", "method", "key")}
    return Excluded(place=one.place, reason=reason, **names)


def digest_records(records: Iterable[ValidRecord]) -> str:
    """Sixteen hex digits over the places and bytes of records, whatever their order."""
    lines = sorted(f"{one.sha256}  {one.place}" for one in records)
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()[:16]


def correctness(one: ValidRecord) -> Predictions | None:
    """What a record's cell answered, or None where the predictions are not there.

    Raises:
        UserError: where they are there and do not agree with the record.
    """
    if (kept := read_predictions(one)) is None:
        return None
    predicted, label = kept
    return Predictions(right=predicted == label, labels=hashlib.sha256(label.tobytes()).hexdigest())


def read_predictions(one: ValidRecord) -> tuple[np.ndarray, np.ndarray] | None:
    """The classes predicted and the labels, (images,) each, or None; fails like `answers_of`."""
    path = one.path.with_suffix(".npz")
    if not path.exists():
        return None
    try:
        with path.open("rb") as file, np.load(file) as kept:
            predicted, label = kept["predicted"], kept["label"]
    except (OSError, ValueError, KeyError, EOFError, BadZipFile) as error:
        raise UserError(f"{path} holds no predictions ({error}); delete it and its record, and run the cell") from error
    num_right = int((predicted == label).sum())
    if len(label) != one["total"] or num_right != one["correct"]:
        raise UserError(
            f"{path} has {num_right} of {len(label)} right, its record {one['correct']} of {one['total']}; "
            f"delete both and run the cell again"
        )
    return predicted, label
