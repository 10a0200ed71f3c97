"""Finds the images below SPLIT/CLASS/, and names the files that are passed over."""

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from PIL import Image

from moppa.utils.errors import UserError

READ_BY_ANOTHER = ("MPO",)  # formats of Pillow that are opened as another one


class Entry(NamedTuple):
    """One image: its file, the names of its class and its split, and its own name in a fingerprint.

    `real` is the path of the file without links.
    """

    file: Path
    label: str
    split: str
    name: str
    real: str


@dataclass(frozen=True)
class Listing:
    """The images of all splits, and by split the files that are no images, each with the reason."""

    entries: list[Entry]
    passed_over: dict[str, list[str]] = field(default_factory=dict)


def list_folders(root: Path, splits: Sequence[str]) -> Listing:
    """Returns the images SPLIT/CLASS/... below `root`, sorted by path. An image's name is its path below SPLIT.

    Hidden files and folders are no data. Links to folders are followed.

    Raises:
        UserError: if a split has no folder, a folder cannot be read, or an image is in no class folder.
    """
    suffixes = readable_suffixes()
    listing = Listing([])
    for split in splits:
        folder = root / split
        if not folder.is_dir():
            raise UserError(
                f"no folder {folder} (data.dir, task.splits): put the images in {folder}/CLASS/, or name a CSV with "
                f"data.table=FILE"
            )
        found, listing.passed_over[split] = [], []
        for parts, file in files_below(os.fspath(folder)):
            if reason := reason_to_pass(file, suffixes):
                listing.passed_over[split].append(f"{file.path} ({reason})")
            elif len(parts) < 2:
                raise UserError(f"{file.path} is in no class folder: move it to {folder}/CLASS/")
            else:
                found.append((parts, file))
        for parts, file in sorted(found, key=lambda entry: entry[0]):
            listing.entries.append(Entry(Path(file.path), parts[0], split, "/".join(parts), file.real))
    return listing


def readable_suffixes() -> set[str]:
    """Returns the suffixes of the files that Pillow opens."""
    formats = Image.registered_extensions()
    return {suffix for suffix, name in formats.items() if name in Image.OPEN or name in READ_BY_ANOTHER}


class Found(NamedTuple):
    """A file or link below a folder, as the system lists it."""

    path: str
    suffix: str
    real: str
    is_file: bool
    is_link: bool


def files_below(
    folder: str, parts: tuple[str, ...] = (), ancestors: tuple[str, ...] = ()
) -> Iterator[tuple[tuple[str, ...], Found]]:
    """Yields everything below a folder that is neither hidden nor a folder, with the parts of its name.

    `ancestors` are the real paths of the folders above, so that a link to one of them does not lead round in circles.
    """
    real = os.path.realpath(folder)
    if real in ancestors:
        return
    try:
        entries = list(os.scandir(folder))
    except OSError as error:
        raise UserError(
            f"the folder {folder} cannot be read ({error.strerror or error}); change its permissions, or remove it"
        ) from error
    for entry in entries:
        if entry.name.startswith("."):  # ._000.png of macOS, .ipynb_checkpoints, .DS_Store
            continue
        if entry.is_dir():
            yield from files_below(entry.path, (*parts, entry.name), (*ancestors, real))
        else:
            is_link, suffix = entry.is_symlink(), os.path.splitext(entry.name)[1].lower()  # noqa: PTH122, for speed
            path = os.path.realpath(entry.path) if is_link else f"{real}{os.sep}{entry.name}"
            yield (*parts, entry.name), Found(entry.path, suffix, path, entry.is_file(), is_link)


def reason_to_pass(file: Found, suffixes: set[str]) -> str | None:
    """Returns why a file is no image, or None if it is one."""
    if file.suffix not in suffixes:
        return f"Pillow reads no {file.suffix} files" if file.suffix else "it has no suffix"
    if file.is_file:
        return None
    return "a link to nothing" if file.is_link else "not a file"


def describe_passed_over(passed_over: Sequence[str]) -> str:
    """Returns how many files were passed over, and the first of them."""
    count = len(passed_over)
    return f"{count} {'file was' if count == 1 else 'files were'} passed over, for example {passed_over[0]}"


def check_disjoint(entries: Sequence[Entry]) -> None:
    """Raises `UserError` if a file appears twice, in one split or in two."""
    first_entry: dict[str, Entry] = {}
    for entry in entries:
        other = first_entry.setdefault(entry.real, entry)
        if other is not entry:
            raise UserError(
                f"{entry.file} is in split {other.split!r} and again in {entry.split!r}; an image may be in one split "
                f"only, once: remove one of the two"
            )
