"""Gives the records of a results folder the keys of today's format, once, and proves that nothing else changed."""

import copy
import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from moppa.record import legacy
from moppa.record.schema import key_of, mean_accuracy, with_key
from moppa.utils.atomic import sha256_file, write_json
from moppa.utils.errors import UserError


class Move(NamedTuple):
    """A record at its old path, its new path, and its new content. Both paths are relative to the records folder."""

    old: str
    new: str
    content: dict[str, Any]


def rekey(results: Path) -> list[Move]:
    """Rewrites every record of the first format under `results/records` and moves it, with its files, to its new path.

    Predictions and trained tensors are moved, not rewritten. A record equals the one before, but for its key, its
    config's renamed entries, and the paths and digests of the tune records that it names. Everything is checked before
    the first file changes. Running it again changes nothing.

    Raises:
        UserError: if a record is damaged, is not at the path that its content gives, or names a tune record that is
            missing or has changed; or if its new path is taken.
    """
    records = results / "records"
    moves = planned_moves(records)
    digests: dict[str, str] = {}
    for move in sorted(
        moves, key=lambda move: bool(move.content.get("tuned"))
    ):  # tune records before those naming them
        if tuned := move.content.get("tuned"):
            tuned["records"] = {path: digests.get(path, digest) for path, digest in tuned["records"].items()}
        new = records / move.new
        write_json(new, move.content)
        digests[move.new] = sha256_file(new)
        move_file((records / move.old).with_suffix(".npz"), new.with_suffix(".npz"))
        checkpoints = results / "checkpoints"
        for suffix in (".safetensors",):
            move_file((checkpoints / move.old).with_suffix(suffix), (checkpoints / move.new).with_suffix(suffix))
        if move.new != move.old:
            (records / move.old).unlink()
    for root in (records, results / "checkpoints"):
        remove_empty_folders(root)
    return moves


def planned_moves(records: Path) -> list[Move]:
    """Returns what `rekey` would do, with every check made."""
    paths = sorted(path for path in records.rglob("seed*.json"))
    old_contents = {
        path.relative_to(records).as_posix(): json.loads(path.read_text(encoding="utf-8")) for path in paths
    }
    new_keys: dict[str, str] = {}
    upgrades: dict[str, dict[str, Any]] = {}
    for old, content in old_contents.items():
        if not legacy.is_legacy(content):
            continue
        try:
            upgrades[old] = with_key(legacy.upgraded(content))
        except UserError as error:
            raise UserError(f"{records / old}: {error}") from error
        if old.split("/")[-2] != content["key"]:
            raise UserError(f"{records / old} is not in the folder of its key {content['key']}: move it there first")
        new_keys[content["key"]] = upgrades[old]["key"]
    new_paths = {old: path_of(old, content["key"]) for old, content in upgrades.items()}
    for old, content in upgrades.items():
        if new_paths[old] != old and (records / new_paths[old]).exists():
            raise UserError(f"{records / new_paths[old]} exists already: delete it or {records / old}")
        if content.get("tuned"):
            content["tuned"] = relinked(old_contents[old], old_contents, new_paths, new_keys)
        check_unchanged(old_contents[old], content, new_keys)
    return [Move(old, new_paths[old], content) for old, content in upgrades.items()]


def path_of(old: str, key: str) -> str:
    """Returns the path of a record in the folder of another key."""
    *folders, _, name = old.split("/")
    return "/".join([*folders, key, name])


def relinked(
    final: Mapping[str, Any],
    old_contents: Mapping[str, Mapping[str, Any]],
    new_paths: Mapping[str, str],
    new_keys: Mapping[str, str],
) -> dict[str, Any]:
    """Returns the `tuned` entry of a final record with new paths and keys. The digests are set when files are written.

    The records that it names are checked by what they say, not by the digest of their files: the paths in a committed
    tune record may have been made relative after a final record had named it.

    Raises:
        UserError: if a tune record that it names is missing, has other settings or seeds, or their mean accuracy on
            val200 is not the one that the final record states.
    """
    tuned = final["tuned"]
    missing = [path for path in tuned["records"] if path not in old_contents]
    if missing:
        raise UserError(
            f"{missing[0]} is missing, and a final record names it as the one that it was tuned on: restore it"
        )
    tunes = [old_contents[path] for path in tuned["records"]]
    accuracy = mean_accuracy(tunes)
    agrees = (
        float(accuracy) == tuned["val200"]
        and sorted(tune["seed"] for tune in tunes) == tuned["seeds"]
        and all(tune["protocol"] == "tune" for tune in tunes)
        and all(tune["config"][group] == final["config"][group] for tune in tunes for group in ("train", "method"))
    )
    if not agrees:
        raise UserError(
            f"{', '.join(tuned['records'])} has changed since a final record was tuned on it: its settings, seeds or "
            f"accuracy are not those that the final record states; restore it"
        )
    new = copy.deepcopy(dict(tuned))
    new["records"] = {new_paths.get(path, path): digest for path, digest in tuned["records"].items()}
    new["beaten"] = {new_keys.get(key, key): accuracy for key, accuracy in tuned["beaten"].items()}
    return new


def check_unchanged(old: Mapping[str, Any], new: Mapping[str, Any], new_keys: Mapping[str, str]) -> None:
    """Raises `UserError` if a re-keyed record differs in more than key, config, protocol and links."""
    changed = {name for name in old.keys() | new.keys() if old.get(name) != new.get(name)}
    tuned_before, tuned_after = old.get("tuned") or {}, new.get("tuned") or {}
    links = ("records", "beaten")
    is_same = (
        changed <= {"key", "config", "protocol", "tuned"}
        and new["config"] == legacy.upgraded_config(old["config"])
        and new["key"] == new_keys[old["key"]]
        and new["key"] == key_of(new["config"], new["weights"]["sha256"], new["dtype"])
        and {k: v for k, v in tuned_before.items() if k not in links}
        == {k: v for k, v in tuned_after.items() if k not in links}
        and all(len(tuned_before.get(name, ())) == len(tuned_after.get(name, ())) for name in links)
    )
    if not is_same:
        raise UserError(
            f"re-keying would change more of a record than its key and config: {', '.join(sorted(changed))}"
        )


def move_file(old: Path, new: Path) -> None:
    """Moves a file, if there is one."""
    if old != new and old.exists():
        new.parent.mkdir(parents=True, exist_ok=True)
        shutil.move(old, new)


def remove_empty_folders(root: Path) -> None:
    """Removes the folders under `root` that hold nothing."""
    for folder in sorted((path for path in root.rglob("*") if path.is_dir()), reverse=True):
        if not any(folder.iterdir()):
            folder.rmdir()
