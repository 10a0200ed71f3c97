"""Zip and tar files, unpacked whole or not at all, and never outside of the folder that was asked for."""

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
from typing import NamedTuple, Protocol

from moppa.utils.atomic import write_error
from moppa.utils.errors import UserError

SUFFIXES = (".zip", ".tar", ".tar.gz", ".tgz")
PLAIN_TYPES = (0, stat.S_IFREG, stat.S_IFDIR)  # 0: a zip written on a system without file types
PIECE = 1 << 20  # bytes copied at a time
DRIVE = re.compile(r"^[A-Za-z]:")
DAMAGE = (
    zipfile.BadZipFile,
    tarfile.TarError,
    gzip.BadGzipFile,
    zlib.error,
    lzma.LZMAError,
    EOFError,
    RuntimeError,  # a zip with a password; NotImplementedError, a compression that Python lacks, is one too
)


class Member(NamedTuple):
    """One entry of an archive; `is_plain` says that it is a file or folder, not a link or a device."""

    name: str
    is_folder: bool
    is_plain: bool


class Archive(Protocol):
    """An open zip or tar: its entries in order; the entry at `index` of them written to a new file."""

    def members(self) -> list[Member]: ...
    def unpack(self, index: int, place: Path) -> None: ...


class Zip:
    """A zip file."""

    def __init__(self, path: Path) -> None:
        self.file = zipfile.ZipFile(path)

    def members(self) -> list[Member]:
        return [
            # orig_filename: Python's own reading cuts a name at a zero byte
            Member(info.orig_filename, info.is_dir(), stat.S_IFMT(info.external_attr >> 16) in PLAIN_TYPES)
            for info in self.file.infolist()
        ]

    def unpack(self, index: int, place: Path) -> None:
        with self.file.open(self.file.infolist()[index]) as packed, place.open("xb") as file:
            shutil.copyfileobj(packed, file, PIECE)


class Tar:
    """A tar file, compressed or not."""

    def __init__(self, path: Path) -> None:
        self.file = tarfile.open(path)  # noqa: SIM115, closed by `opened`

    def members(self) -> list[Member]:
        return [Member(info.name, info.isdir(), info.isfile() or info.isdir()) for info in self.file.getmembers()]

    def unpack(self, index: int, place: Path) -> None:
        packed = self.file.extractfile(self.file.getmembers()[index])
        assert packed is not None, "only plain files are unpacked"
        with packed, place.open("xb") as file:
            shutil.copyfileobj(packed, file, PIECE)


@contextmanager
def opened(path: Path) -> Iterator[Archive]:
    """The archive at `path`, closed afterwards; one that cannot be read is a `UserError`."""
    broken = f"{path} cannot be unpacked ({{}}); it is damaged or not what its name says: get it again"
    try:
        archive = Zip(path) if path.suffix == ".zip" else Tar(path)
    except (*DAMAGE, OSError) as error:
        raise UserError(broken.format(error)) from error
    try:
        with archive.file:
            yield archive
    except DAMAGE as error:
        raise UserError(broken.format(error)) from error


def file_names(path: Path) -> list[str]:
    """The names of the files in an archive, each of them safe to unpack below a folder."""
    with opened(path) as archive:
        return [member.name for member in checked(path, archive.members()) if not member.is_folder]


def extract(path: Path, target: Path, *, below: str) -> None:
    """Afterwards the folder `target` holds the files of the archive's folder `below` ("" for all of it), complete.

    Raises:
        UserError: where any entry of the archive would leave `target` or is no plain file or folder (then nothing is
            unpacked), where the archive is damaged, or where the disk says no.
    """
    temporary = target.with_name(f".{target.name}.{uuid.uuid4().hex[:8]}.tmp")
    base = PurePosixPath(below)
    try:
        with opened(path) as archive:
            members = checked(path, archive.members())
            temporary.mkdir(parents=True)
            for index, member in enumerate(members):
                name = PurePosixPath(member.name)
                if member.is_folder or not name.is_relative_to(base):
                    continue
                place = temporary / name.relative_to(base)
                place.parent.mkdir(parents=True, exist_ok=True)
                archive.unpack(index, place)
        temporary.rename(target)
    except OSError as error:
        if not target.is_dir():  # else another run was first, and its copy is as good
            raise write_error(target, error) from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def checked(path: Path, members: list[Member]) -> list[Member]:
    """The members, once each is known to be a plain file or folder that stays where it is put."""
    seen: set[PurePosixPath] = set()
    for member in members:
        name = PurePosixPath(member.name)
        reason = danger_of(member) or ("twice" if name in seen and not member.is_folder else None)
        seen.add(name)
        if reason:
            raise UserError(
                f"{path} holds {member.name!r}, {reason}; nothing was unpacked: get another copy of the archive"
            )
    return members


def danger_of(member: Member) -> str | None:
    """Why a member must not be unpacked, or None where it may be."""
    name = member.name
    if not member.is_plain:
        return "which is a link, a device or the like and no plain file"
    if name.startswith(("/", "\\")) or DRIVE.match(name):
        return "which is an absolute path"
    if ".." in re.split(r"[/\\]", name):
        return "which leads out of the folder"
    if "\\" in name or "\0" in name or (not PurePosixPath(name).parts and not member.is_folder):
        return "which is no portable file name"
    return None
