"""Copies files from a folder, an http(s) URL, `hf://datasets/USER/REPO/...` or another file system of fsspec.

A copy that was interrupted resumes: `NAME.part` stays beside the target.
"""

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, NamedTuple

from moppa.data.disk_space import check_free_space, format_bytes
from moppa.utils.atomic import sha256_file, write_error
from moppa.utils.errors import UserError
from moppa.utils.locks import file_lock
from moppa.utils.network import PROXY_HINT, TIMEOUTS, NoAnswerError, check_reachable, interruptible, named_errors
from moppa.utils.paths import user_path
from moppa.utils.progress import progress_bar

BLOCK = 1 << 20
MIN_BAR = 32 << 20  # bytes from which on a progress bar is shown
PARTIAL_CONTENT, RANGE_NOT_SATISFIABLE = 206, 416


class Opened(NamedTuple):
    """A remote file: the position of the first block, its whole size if the server tells it, and the blocks."""

    start: int
    num_bytes: int | None
    blocks: Iterator[bytes]


def join(place: str, name: str) -> str:
    """Returns the address of a file in a remote folder."""
    return f"{place.rstrip('/')}/{name}"


def is_remote(place: str) -> bool:
    """Returns whether a place is a URL, and not a path of this machine."""
    return "://" in place


def fetch(setting: str, source: str, target: Path, *, sha256: str | None = None) -> None:
    """Copies the file at `source` to `target`, where it appears complete or not at all, and shows a progress bar.

    Raises:
        FileNotFoundError: if there is no such file.
        UserError: if the place cannot be reached, or if the sha256 of the file is another one. It names `setting`.
    """
    partial, lock = target.with_name(f"{target.name}.part"), target.with_name(f".{target.name}.lock")
    target.parent.mkdir(parents=True, exist_ok=True)
    with file_lock(lock, waiting=f"another run copies {target}: waiting for it"):
        try:
            if not target.exists():
                copy_checked(setting, source, partial, sha256)
                partial.replace(target)
        finally:
            with suppress(OSError):
                lock.unlink()  # before the release, as in `preparation_lock`


def copy_checked(setting: str, source: str, partial: Path, sha256: str | None) -> None:
    """Completes `partial` and compares its sha256. Raises what `fetch` raises."""
    try:
        copy_rest(source, partial)
    except FileNotFoundError:
        raise
    except NoAnswerError as error:
        raise UserError(
            f"{setting}={source}: {error}; run it again to resume, or give another place; {PROXY_HINT}"
        ) from error
    except (OSError, ValueError, ImportError) as error:  # fsspec's file systems raise these
        raise UserError(f"{setting}={source} cannot be copied ({error}); run it again to resume") from error
    if sha256 is not None and (actual := sha256_file(partial)) != sha256.lower():
        partial.unlink()
        raise UserError(
            f"{setting}={source}: the sha256 of the file is {actual}, not {sha256}; it is another version or damaged: "
            f"get it elsewhere, or correct the digest"
        )


def copy_rest(source: str, partial: Path) -> None:
    """Appends to `partial` what it lacks of the file at `source`."""
    start = partial.stat().st_size if partial.exists() else 0
    with open_at(source, start) as opened:
        if opened.num_bytes is not None:
            check_free_space(f"copying {source}", opened.num_bytes - opened.start, partial.parent)
        write_blocks(opened, partial, source.rpartition("/")[2])
    num_bytes = partial.stat().st_size
    if opened.num_bytes is not None and num_bytes != opened.num_bytes:
        if num_bytes > opened.num_bytes:  # of an older version of the file
            partial.unlink()
        raise OSError(f"{format_bytes(num_bytes)} of {format_bytes(opened.num_bytes)} arrived")


def write_blocks(opened: Opened, partial: Path, name: str) -> None:
    """Writes the blocks of a remote file to the end of `partial`, with a progress bar if they are many."""
    bar = progress_bar()
    bar.disable = opened.num_bytes is not None and opened.num_bytes - opened.start < MIN_BAR
    with bar, partial.open("ab" if opened.start else "wb") as file:
        total = None if opened.num_bytes is None else opened.num_bytes >> 20
        line = bar.add_task(f"{name} (MB)", total=total, completed=opened.start >> 20, note="")
        for block in opened.blocks:
            try:
                file.write(block)
            except OSError as error:
                raise write_error(partial, error) from error
            bar.update(line, completed=file.tell() >> 20)


def open_at(source: str, start: int) -> Any:
    """Returns a context manager that opens a file at a position, or at 0 if its server cannot do that."""
    if source.startswith(("http://", "https://")):
        return open_http(source, start)
    return open_fsspec(source if is_remote(source) else str(user_path(source)), start)


@contextmanager
def open_http(url: str, start: int) -> Iterator[Opened]:
    """Opens an http(s) URL."""
    import requests

    check_reachable(url)
    headers = {"Range": f"bytes={start}-"} if start else {}
    timeouts = (TIMEOUTS.connect, TIMEOUTS.stall)
    with named_errors(url), requests.get(url, stream=True, headers=headers, timeout=timeouts) as response:
        if response.status_code == RANGE_NOT_SATISFIABLE:  # everything arrived, or it is another file
            yield Opened(start, int(response.headers["Content-Range"].rpartition("/")[2]), iter(()))
            return
        if response.status_code in (404, 410):
            raise FileNotFoundError(url)
        if not response.ok:
            raise OSError(f"the server answers {response.status_code} {response.reason}")
        first = start if response.status_code == PARTIAL_CONTENT else 0
        length = response.headers.get("Content-Length")
        is_plain = "Content-Encoding" not in response.headers
        total = first + int(length) if length and is_plain else None
        yield Opened(first, total, response.iter_content(BLOCK))


@contextmanager
def open_fsspec(source: str, start: int) -> Iterator[Opened]:
    """Opens a path, or a URL of a file system that fsspec knows: `hf://` through huggingface_hub, `s3://`, `gs://`."""
    import fsspec

    if source.startswith("hf://"):
        from huggingface_hub import constants

        check_reachable(constants.ENDPOINT)
    system, path = fsspec.core.url_to_fs(source)
    num_bytes = int(interruptible(system.size, path))
    start = start if start <= num_bytes else 0
    with interruptible(system.open, path, "rb") as file:
        file.seek(start)
        yield Opened(start, num_bytes, iter(lambda: interruptible(file.read, BLOCK), b""))
