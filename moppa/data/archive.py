"""Unpacks zip and tar files completely or not at all, and never outside of the target folder."""

import gzip
import lzma
import re
import shutil
import stat
import tarfile
import uuid
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from typing import NamedTuple, Protocol, runtime_checkable

from moppa.utils.atomic import write_error
from moppa.utils.errors import UserError

SUFFIXES = (".zip", ".tar", ".tar.gz", ".tgz")
PLAIN_TYPES = (0, stat.S_IFREG, stat.S_IFDIR)  # 0: a zip written on a system without file types
COPY_BYTES = 1 << 20  # copied at a time
WINDOWS_DRIVE = re.compile(r"^[A-Za-z]:")
READ_ERRORS = (
    zipfile.BadZipFile,
    tarfile.TarError,
    gzip.BadGzipFile,
    zlib.error,
    lzma.LZMAError,
    EOFError,
    RuntimeError,  # a zip with a password; its subclass NotImplementedError: a compression that Python lacks
)


class Member(NamedTuple):
    """One entry of an archive. `is_plain` is true for a file or folder, false for a link or a device."""

    name: str
    is_folder: bool
    is_plain: bool


@runtime_checkable
class Archive(Protocol):
    """An open zip or tar file: lists its entries in order, and writes the entry at `index` to a new file."""

    def members(self) -> list[Member]: ...
    def unpack(self, index: int, target: Path) -> None: ...


class Zip:
    """A zip file."""

    def __init__(self, path: Path) -> None:
        self.file = zipfile.ZipFile(path)

    def members(self) -> list[Member]:
        return [
            # orig_filename, because Python cuts `filename` at a zero byte
            Member(info.orig_filename, info.is_dir(), stat.S_IFMT(info.external_attr >> 16) in PLAIN_TYPES)
            for info in self.file.infolist()
        ]

    def unpack(self, index: int, target: Path) -> None:
        with self.file.open(self.file.infolist()[index]) as packed, target.open("xb") as file:
            shutil.copyfileobj(packed, file, COPY_BYTES)


class Tar:
    """A tar file, compressed or not."""

    def __init__(self, path: Path) -> None:
        self.file = tarfile.open(path)  # noqa: SIM115, closed by `open_archive`

    def members(self) -> list[Member]:
        return [Member(info.name, info.isdir(), info.isfile() or info.isdir()) for info in self.file.getmembers()]

    def unpack(self, index: int, target: Path) -> None:
        packed = self.file.extractfile(self.file.getmembers()[index])
        if packed is None:
            raise ValueError("only plain files are unpacked")
        with packed, target.open("xb") as file:
            shutil.copyfileobj(packed, file, COPY_BYTES)


@contextmanager
def open_archive(path: Path) -> Iterator[Archive]:
    """Opens the archive at `path` and closes it afterwards. Raises `UserError` if it cannot be read."""
    message = f"{path} cannot be unpacked ({{}}); it is damaged or not of the type that its name says: get it again"
    try:
        archive = Zip(path) if path.suffix == ".zip" else Tar(path)
    except (*READ_ERRORS, OSError) as error:
        raise UserError(message.format(error)) from error
    try:
        with archive.file:
            yield archive
    except READ_ERRORS as error:
        raise UserError(message.format(error)) from error


def file_names(path: Path) -> list[str]:
    """Returns the names of the files in an archive; each is safe to unpack below a folder."""
    with open_archive(path) as archive:
        return [member.name for member in checked_members(path, archive) if not member.is_folder]


def extract(path: Path, target: Path, *, below: str) -> None:
    """Extracts the files of the archive's folder `below` ("" for all files) to the new folder `target`.

    Raises:
        UserError: if any entry of the archive would leave `target` or is not a plain file or folder (then nothing is
            unpacked), if the archive is damaged, or if the disk cannot be written.
    """
    temporary = target.with_name(f".{target.name}.{uuid.uuid4().hex[:8]}.tmp")
    root = PurePosixPath(below)
    try:
        with open_archive(path) as archive:
            members = checked_members(path, archive)
            temporary.mkdir(parents=True)
            for index, member in enumerate(members):
                name = PurePosixPath(member.name)
                if member.is_folder or not name.is_relative_to(root):
                    continue
                file = temporary / name.relative_to(root)
                file.parent.mkdir(parents=True, exist_ok=True)
                archive.unpack(index, file)
        temporary.rename(target)
    except OSError as error:
        if not target.is_dir():  # otherwise another run has unpacked it
            raise write_error(target, error) from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def checked_members(path: Path, archive: Archive) -> list[Member]:
    """Returns the members of an archive. Raises `UserError` if one is not safe to unpack or appears twice."""
    members = archive.members()
    seen: set[PurePosixPath] = set()
    for member in members:
        name = PurePosixPath(member.name)
        reason = unsafe_reason(member) or ("twice" if name in seen and not member.is_folder else None)
        seen.add(name)
        if reason:
            raise UserError(
                f"{path} holds {member.name!r}, {reason}; nothing was unpacked: get another copy of the archive"
            )
    return members


def unsafe_reason(member: Member) -> str | None:
    """Returns why a member must not be unpacked, or None if it is safe."""
    name = member.name
    if not member.is_plain:
        return "which is a link, a device or another special file"
    if name.startswith(("/", "\\")) or WINDOWS_DRIVE.match(name):
        return "which is an absolute path"
    if ".." in re.split(r"[/\\]", name):
        return "which leads out of the folder"
    if "\\" in name or "\0" in name or (not PurePosixPath(name).parts and not member.is_folder):
        return "which is not a portable file name"
    return None
