"""Limits the downloads of TFDS, whose downloader waits without a timeout in threads that Python joins at its exit."""

from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any
from unittest.mock import patch

from moppa.utils.network import TIMEOUTS, DaemonThreads, check_reachable, named_errors

NUM_DOWNLOADS = 50  # at a time, as in TFDS, if the builder has no other number
MAX_RETRIES = 2  # of a request, after the server answered once


@contextmanager
def limited_downloads() -> Iterator[None]:
    """Makes TFDS download with timeouts and in daemon threads.

    Raises:
        NoAnswerError: inside of the block, from `download_and_prepare`, if a server does not answer or stops sending.
    """
    from tensorflow_datasets.core.download import downloader

    open_url = downloader._open_url

    @contextmanager
    def open_with_timeouts(url: str, **kwargs: Any) -> Iterator[tuple[Any, Iterable[bytes]]]:
        check_reachable(url)
        with named_errors(url), open_url(url, timeout=(TIMEOUTS.connect, TIMEOUTS.stall), **kwargs) as opened:
            yield opened

    def get_downloader(*args: Any, **kwargs: Any) -> Any:
        made: Any = downloader._Downloader(*args, **kwargs)
        made._executor = DaemonThreads(kwargs.get("max_simultaneous_downloads") or NUM_DOWNLOADS)
        return made

    with ExitStack() as patches:
        patches.enter_context(patch.object(downloader, "_open_url", open_with_timeouts))
        patches.enter_context(patch.object(downloader, "MAX_RETRIES", MAX_RETRIES))
        patches.enter_context(patch.object(downloader, "get_downloader", get_downloader))
        yield
