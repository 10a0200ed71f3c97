"""Ctrl-C and SIGTERM as requests that the training loop answers between two steps, with its state saved."""

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

EXIT_REQUEUE = 75  # EX_TEMPFAIL of sysexits.h: the job did not fail, start it again


class Stopped(SystemExit):
    """A cell was stopped from outside and can be resumed.

    The exit status is 130 after Ctrl-C, as in a shell, and `EXIT_REQUEUE` after SIGTERM, which schedulers send to
    preempt a job.
    """

    def __init__(self, message: str, number: int) -> None:
        super().__init__(EXIT_REQUEUE if number == signal.SIGTERM else 130)
        self.message = message


class StopRequest:
    """A context in which the first SIGINT or SIGTERM is stored in `number`; a second one acts as usual."""

    SIGNALS = (signal.SIGINT, signal.SIGTERM)

    def __init__(self) -> None:
        self.number: int | None = None
        self.previous: dict[signal.Signals, Any] = {}

    def __enter__(self) -> "StopRequest":
        if threading.current_thread() is threading.main_thread():  # Python allows signal handlers only there
            self.previous = {number: signal.signal(number, self.request) for number in self.SIGNALS}
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self.previous.items():
            signal.signal(number, handler)

    def request(self, number: int, frame: FrameType | None) -> None:
        """Stores the signal and restores the previous handlers."""
        self.number = number
        self.__exit__()


@contextmanager
def exit_on_sigterm() -> Iterator[None]:
    """Makes SIGTERM raise `Stopped` inside the block, so that leases and locks are released."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def stop(number: int, _: FrameType | None) -> None:
        raise Stopped("stopped outside of the training; the same command resumes from the last checkpoint", number)

    previous = signal.signal(signal.SIGTERM, stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, previous)
