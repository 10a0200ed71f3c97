"""Copies of cached splits as archives, which `moppa data pack` writes and `moppa data unpack` or a mirror installs.

A folder of copies holds `manifest.json` and SUITE/TASK/LINEAGE/SPLIT-SIZE-INTERPOLATION-HASH.tar, as the cache has
folders. The manifest has the sha256 and the size of every archive. An archive holds arrays and JSON, never code.
"""

import json
import re
import shutil
import tarfile
from collections.abc import Iterator, Mapping
from functools import lru_cache
from pathlib import Path, PurePosixPath
from tempfile import TemporaryDirectory
from typing import Any

from moppa.data.archive import extract
from moppa.data.inventory import FOLDER, is_current, split_folders
from moppa.data.remote import fetch, join
from moppa.data.split import read_decoded, read_json, read_names, read_split
from moppa.data.task import Task
from moppa.utils.atomic import atomic_write, sha256_file, write_json
from moppa.utils.errors import UserError
from moppa.utils.paths import user_path

MANIFEST = "manifest.json"
FORMAT = 1
FILES = ("decoded.npy", "images.npy", "labels.npy", "manifest.json", "names.json")
NAME = re.compile(r"[^/\\]+/[^/\\]+(/[^/\\]+)?/[a-z_]+/[^/\\]+\.tar")


def packable(task: Task, cache: str) -> Iterator[tuple[str, Path]]:
    """Yields the name of the archive and the folder of each cached split of a task, after checking its digests.

    Raises:
        UserError: if a split is damaged.
    """
    for folder in filter(is_current, split_folders(task, cache)):
        match = FOLDER.fullmatch(folder.name)
        split = match["split"] if match else ""
        for read in (read_split, read_names, read_decoded):
            read(folder, task, split)
        yield f"{folder.relative_to(user_path(cache)).as_posix()}.tar", folder


def pack(name: str, folder: Path, out: Path) -> int:
    """Writes the archive of a cached split, adds it to the manifest of `out` and returns its size in bytes."""
    target = out / name
    with atomic_write(target) as temporary, tarfile.open(temporary, "w", format=tarfile.PAX_FORMAT) as archive:
        for file in FILES:
            archive.add(folder / file, file, filter=plain)
    entry = {"sha256": sha256_file(target), "bytes": target.stat().st_size}
    archives = read_manifest(out / MANIFEST, str(out / MANIFEST)) if (out / MANIFEST).exists() else {}
    write_json(out / MANIFEST, {"format": FORMAT, "archives": {**archives, name: entry}})
    return entry["bytes"]


def plain(member: tarfile.TarInfo) -> tarfile.TarInfo:
    """Returns a member without owner, permissions and time, so that equal splits give equal archives."""
    member.uid = member.gid = member.mtime = 0
    member.uname = member.gname = ""
    member.mode = 0o644
    return member


def read_manifest(file: Path, place: str) -> dict[str, dict[str, Any]]:
    """Returns the archives of a manifest: by name, the sha256 and the size. Errors name its `place`.

    Raises:
        UserError: if it is not a manifest of `moppa data pack`, or if a name leads out of the folder.
    """
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
        archives = {name: {"sha256": str(entry["sha256"]), "bytes": int(entry["bytes"])}
                    for name, entry in content["archives"].items()}  # fmt: skip
        is_known = content["format"] == FORMAT
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise UserError(f"{place} is not a manifest of `moppa data pack` ({error}); get the copy again") from error
    if not is_known:
        raise UserError(f"{place} has the format {content['format']}, and this version reads {FORMAT}; update moppa")
    for name in archives:
        path = PurePosixPath(name)
        if not NAME.fullmatch(name) or {".", ".."} & set(path.parts) or not FOLDER.fullmatch(path.stem):
            raise UserError(f"{place} lists {name!r}, which is not a cached split; get the copy again")
    return archives


@lru_cache
def archives_at(setting: str, place: str) -> Mapping[str, Mapping[str, Any]]:
    """Returns the archives at a place, which has none if it has no manifest."""
    with TemporaryDirectory() as folder:
        try:
            fetch(setting, join(place, MANIFEST), Path(folder) / MANIFEST)
        except FileNotFoundError:
            return {}
        return read_manifest(Path(folder) / MANIFEST, join(place, MANIFEST))


def install(setting: str, place: str, name: str, entry: Mapping[str, Any], folder: Path) -> None:
    """Copies an archive, compares its sha256 and unpacks it to the absent folder of a cached split.

    Raises:
        UserError: if it cannot be copied, if it is another file, or if it holds something else than a split.
    """
    archive = folder.with_name(f".{folder.name}.tar")
    unpacked = folder.with_name(f".{folder.name}.copy")
    try:
        fetch(setting, join(place, name), archive, sha256=entry["sha256"])
    except FileNotFoundError as error:
        raise UserError(
            f"{setting}={place} has no {name}, which its {MANIFEST} lists; the copy is incomplete: get it again"
        ) from error
    try:
        shutil.rmtree(unpacked, ignore_errors=True)
        extract(archive, unpacked, below="")
        if sorted(file.name for file in unpacked.iterdir()) != list(FILES):
            raise UserError(f"{join(place, name)} does not hold a cached split; get the copy again")
        manifest = read_json(unpacked / "manifest.json") | {"copied_from": join(place, name)}
        write_json(unpacked / "manifest.json", manifest)
        unpacked.rename(folder)
    finally:
        archive.unlink(missing_ok=True)
        shutil.rmtree(unpacked, ignore_errors=True)


def install_from_mirror(folder: Path, mirror: str | None, cache: str) -> bool:
    """Returns whether the mirror of a source had the cached split that belongs in `folder`; then it is there."""
    if mirror is None:
        return False
    name = f"{folder.relative_to(user_path(cache)).as_posix()}.tar"
    entry = archives_at("data.mirror", mirror).get(name)
    if entry is None:
        return False
    install("data.mirror", mirror, name, entry, folder)
    return True
