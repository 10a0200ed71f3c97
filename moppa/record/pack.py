"""A pack: records that somebody sends, with a manifest that says who, when, from which code, and lists all files."""

import json
import re
import tempfile
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import datetime, timezone
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

from moppa.record.files import record_files
from moppa.record.schema import read_record
from moppa.record.verify import verify_records
from moppa.utils.atomic import atomic_write, sha256_file
from moppa.utils.errors import UserError
from moppa.utils.provenance import versions

MANIFEST = "manifest.json"
FORMAT = 1
FILE = re.compile(r"records/([^/\\]+/){5}seed\d+\.(json|npz)|checkpoints/([^/\\]+/){5}seed\d+\.safetensors")
MAX_BYTES = 20 * 2**30  # of all files of a pack, unpacked
SENDER = re.compile(r"[^\W_][\w .'-]{0,59}")
FIELDS = {"format": int, "sender": str, "when": str, "commits": list, "versions": dict, "files": dict}


def write_pack(
    results: Path, out: Path, *, sender: str, contact: str, pattern: str | None, with_tensors: bool
) -> dict[str, Any]:
    """Writes the records of a results folder and a manifest as a ZIP, and returns the manifest.

    Args:
        results: the results folder.
        out: the ZIP.
        sender: the name that the table shows.
        contact: how to reach the sender, or an empty string.
        pattern: which records, as SUITE/BACKBONE/TASK/METHOD with wildcards; None for all.
        with_tensors: whether to pack the trained tensors that were kept.

    Raises:
        UserError: if there are no such records, one of them cannot be verified, or a name is none.
    """
    check_sender(sender)
    if out.suffix != ".zip":
        raise UserError(f"{out}: a pack is a ZIP; choose a name that ends in .zip")
    root = results / "records"
    chosen = [path for path in sorted(root.rglob("seed*.json")) if is_chosen(path.relative_to(root), pattern)]
    if not chosen:
        raise UserError(f"there are no records{f' of {pattern}' if pattern else ''} in {root}")
    files = {file for path in chosen for file in record_files(path, results, with_tensors=with_tensors)}
    names = {file.relative_to(results).as_posix() for file in files}
    problems = [item for item in verify_records(results).findings if f"records/{item.path}" in names]
    if problems:
        lines = "\n".join(f"{item.path}: {item.problem}" for item in problems)
        raise UserError(f"nothing was packed, because records cannot be verified ({len(problems)}):\n{lines}")
    records = [read_record(path) for path in chosen]
    manifest = {
        "format": FORMAT,
        "sender": sender,
        "contact": contact,
        "when": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "packed_with": versions(),
        "commits": sorted({describe_commit(record["git"]) for record in records}),
        "versions": collect_versions(records),
        "files": {name: sha256_file(results / name) for name in sorted(names)},
    }
    with atomic_write(out) as temporary, zipfile.ZipFile(temporary, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr(MANIFEST, json.dumps(manifest, indent=2, sort_keys=True) + "\n")
        for name in sorted(names):
            archive.write(results / name, name)
    return manifest


def is_chosen(relative_path: Path, pattern: str | None) -> bool:
    """Returns whether a record's SUITE/BACKBONE/TASK/METHOD matches a pattern, part by part."""
    if pattern is None:
        return True
    parts, patterns = relative_path.parts[:4], pattern.split("/")
    return len(patterns) == 4 and all(fnmatch(part, wanted) for part, wanted in zip(parts, patterns, strict=True))


def check_sender(sender: str) -> None:
    """Raises `UserError` for a sender that cannot be shown in a table and name a folder."""
    if not SENDER.fullmatch(sender):
        raise UserError(
            f"sender={sender!r}: give a name of letters, digits, spaces and . - ' that starts with a letter"
        )


def describe_commit(git: Mapping[str, Any]) -> str:
    """Returns the commit, with + if the code differed from it."""
    return f"{git['commit'] or 'none'}{'+' * bool(git['dirty'])}"


def collect_versions(records: Sequence[Mapping[str, Any]]) -> dict[str, list[str]]:
    """Returns the versions of each package that the records name."""
    names = sorted({name for record in records for name in record["versions"]})
    return {name: sorted({str(rec["versions"][name]) for rec in records if name in rec["versions"]}) for name in names}


@contextmanager
def opened(path: Path) -> Iterator[Path]:
    """Yields the results folder of a path: the folder itself, or a temporary one with the files of a ZIP.

    Raises:
        UserError: if the ZIP cannot be read or holds anything but the files of a pack.
    """
    if path.is_dir() or not path.exists():
        yield path
        return
    with tempfile.TemporaryDirectory() as folder:
        unpack(path, Path(folder))
        yield Path(folder)


def unpack(path: Path, folder: Path) -> None:
    """Writes the files of a ZIP below a folder.

    Raises:
        UserError: if the ZIP cannot be read or holds anything but the files of a pack.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            members = [member for member in archive.infolist() if not member.is_dir()]
            for member in members:
                parts = member.filename.split("/")
                if member.filename != MANIFEST and (".." in parts or not FILE.fullmatch(member.filename)):
                    raise UserError(f"{path} holds {member.filename!r}, which is no file of a pack: do not unpack it")
            if sum(member.file_size for member in members) > MAX_BYTES:
                raise UserError(f"{path} holds more than {MAX_BYTES >> 30} GiB: send fewer records, or no tensors")
            for member in members:
                archive.extract(member, folder)
    except (OSError, zipfile.BadZipFile, RuntimeError, NotImplementedError) as error:
        raise UserError(
            f"{path} cannot be read as a ZIP ({error}): give a pack of `moppa submit`, or a folder"
        ) from error


def read_manifest(folder: Path) -> dict[str, Any] | None:
    """Returns the manifest of an unpacked pack, or None if there is none.

    Raises:
        UserError: if it is not one.
    """
    file = folder / MANIFEST
    if not file.is_file():
        return None
    try:
        manifest = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UserError(f"{MANIFEST} cannot be read as JSON ({error}); pack the records again") from error
    for name, kind in FIELDS.items():
        if not isinstance(manifest, dict) or not isinstance(manifest.get(name), kind):
            raise UserError(f"{MANIFEST} has no valid {name}; pack the records again")
    if manifest["format"] != FORMAT:
        raise UserError(f"{MANIFEST} has the format {manifest['format']}, this version reads {FORMAT}: update moppa")
    check_sender(manifest["sender"])
    return manifest


def find_pack_problems(folder: Path, manifest: Mapping[str, Any]) -> list[str]:
    """Returns which files of a pack are missing, have changed or are not listed, and which commits are."""
    found = {
        file.relative_to(folder).as_posix(): file
        for root in ("records", "checkpoints")
        for file in sorted((folder / root).rglob("*"))
        if file.is_file()
    }
    listed = manifest["files"]
    problems = [f"{name} is listed in {MANIFEST} and missing" for name in sorted(listed.keys() - found.keys())]
    problems += [f"{name} is not listed in {MANIFEST}" for name in sorted(found.keys() - listed.keys())]
    problems += [
        f"{name} is not the file that was packed"
        for name in sorted(found.keys() & listed.keys())
        if sha256_file(found[name]) != listed[name]
    ]
    return problems
