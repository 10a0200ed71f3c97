"""Checks the cached splits of a task: are they the official ones, and is an image in two of them?"""

from collections.abc import Mapping, Sequence
from itertools import combinations
from pathlib import Path
from typing import Any, NamedTuple

from moppa.data.source import Source, allows_shared_images, class_names_of, has_official_pixels
from moppa.data.split import hash_decoded, read_decoded, read_manifest, read_names
from moppa.data.task import (
    SPLITS,
    Task,
    TestCheck,
    check_split,
    check_test,
    hash_names,
    proves_start_only,
    split_fingerprint,
    start_fingerprint,
)
from moppa.utils.errors import UserError


def split_check(task: Task, source: Source, folders: Mapping[str, Path]) -> dict[str, Any]:
    """Returns what a record says about its splits, from their folders in the cache.

    `verdict` is the check of train800 and val200, `test` that of the test split, which `protocol=tune` does not read.
    `fingerprint` and `test_sha256` are the digests of what was read, `shared_images` counts the images that are in two
    splits, `origin` and `content` say what the images were read from; each is None if there is none. `classes` holds
    the names of the classes, if the files give them.

    Raises:
        UserError: if names or pixels differ from the task's digests, or if an image of the user's own is in two splits.
    """
    names = {split: read_names(folders[split], task, split) for split in folders}
    train800, val200 = names["train800"], names["val200"]
    verdict = check_split(task, train800, val200)
    fingerprint = None if train800 is None or val200 is None else split_fingerprint(train800, val200)
    if fingerprint is not None and proves_start_only(task):
        fingerprint |= start_fingerprint(train800 or (), val200 or ())
    test, test_sha256 = check_test_folder(task, folders.get("test"), compares_pixels=has_official_pixels(source))
    shared = find_shared_images(task, folders)
    if shared and not allows_shared_images(source):
        raise shared_error(task, shared[0], names)
    manifests = {split: read_manifest(folder, task, split) for split, folder in folders.items()}
    contents = {split: manifest["content"] for split, manifest in manifests.items() if manifest.get("content")}
    classes = class_names_of(task, source)
    return {
        "verdict": verdict,
        "fingerprint": fingerprint,
        "test": test,
        "test_sha256": test_sha256,
        "shared_images": dict.fromkeys(pairs_of(folders), 0) | {shared.pair: len(shared.indices) for shared in shared},
        "origin": manifests["train800"].get("origin"),
        "content": contents or None,
        **copies_of(manifests),
        **({"classes": classes} if classes else {}),
    }


def copies_of(manifests: Mapping[str, Mapping[str, Any]]) -> dict[str, dict[str, str]]:
    """Returns the archive of each split that was copied ready from a mirror, or nothing if none was."""
    copies = {split: manifest["copied_from"] for split, manifest in manifests.items() if "copied_from" in manifest}
    return {"copied_from": copies} if copies else {}


def check_test_folder(
    task: Task, folder: Path | None, *, compares_pixels: bool
) -> tuple[TestCheck, dict[str, str | None] | None]:
    """Returns the check of the test split, and the digests of its names and of its pixels if they can be compared.

    Raises:
        UserError: if they differ from the task's digests.
    """
    if folder is None:
        return "not read", None
    names = read_names(folder, task, "test")
    pixels = hash_decoded(read_decoded(folder, task, "test")) if compares_pixels else None
    digests = {"names": None if names is None else hash_names(sorted(names)), "pixels": pixels}
    return check_test(task, names, pixels), digests


class Shared(NamedTuple):
    """The images of one split that are in an earlier one, too: their indices, and the index of one of them there."""

    later: str
    earlier: str
    indices: Sequence[int]
    example: int

    @property
    def pair(self) -> str:
        return f"{self.later} in {self.earlier}"


def pairs_of(splits: Mapping[str, Any]) -> list[str]:
    """Returns the name of each pair of splits, for example `test in train800`."""
    ordered = [split for split in SPLITS if split in splits]
    return [f"{later} in {earlier}" for earlier, later in combinations(ordered, 2)]


def find_shared_images(task: Task, folders: Mapping[str, Path]) -> list[Shared]:
    """Returns the pairs of splits with images of the same decoded pixels at their original size."""
    digests = {
        split: [digest.tobytes() for digest in read_decoded(folders[split], task, split)]
        for split in SPLITS
        if split in folders
    }
    found = []
    for earlier, later in combinations(digests, 2):
        position = {digest: index for index, digest in enumerate(digests[earlier])}
        indices = [index for index, digest in enumerate(digests[later]) if digest in position]
        if indices:
            found.append(Shared(later, earlier, indices, position[digests[later][indices[0]]]))
    return found


def shared_error(task: Task, shared: Shared, names: Mapping[str, Sequence[str] | None]) -> UserError:
    """Returns the error for images of the user's own that are in two splits."""
    first = describe_image(task, shared.later, names, shared.indices[0])
    second = describe_image(task, shared.earlier, names, shared.example)
    return UserError(
        f"task {task.name}: {len(shared.indices)} of {task.num_images(shared.later)} images of {shared.later} are in "
        f"{shared.earlier}, too: {first} has the same pixels as {second}; remove one of each pair, or allow it with "
        f"data.allow_shared_images=true, which the record then counts"
    )


def describe_image(task: Task, split: str, names: Mapping[str, Sequence[str] | None], index: int) -> str:
    """Returns an image's name after the user's name of its split, or its number if it has no name."""
    of_split = names[split]
    return f"{task.splits[split]}/{of_split[index]}" if of_split is not None else f"image {index} of {split}"
