"""Ctrl-C and SIGTERM become a request that the loop answers between two steps, so that what it saves is whole."""

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

EXIT_REQUEUE = 75  # EX_TEMPFAIL of sysexits.h: nothing is wrong with the job, start it again


class Stopped(SystemExit):
    """The cell was stopped from outside and can be resumed.

    The exit status after Ctrl-C is the shell's 130; after SIGTERM, with which schedulers preempt, it is `REQUEUE`.
    """

    def __init__(self, message: str, number: int) -> None:
        super().__init__(EXIT_REQUEUE if number == signal.SIGTERM else 130)
        self.message = message


class StopRequest:
    """While entered, the first SIGINT or SIGTERM is noted in `number`; a second one acts as it would have."""

    SIGNALS = (signal.SIGINT, signal.SIGTERM)

    def __init__(self) -> None:
        self.number: int | None = None
        self.previous: dict[signal.Signals, Any] = {}

    def __enter__(self) -> "StopRequest":
        if threading.current_thread() is threading.main_thread():  # Python allows handlers there only
            self.previous = {number: signal.signal(number, self.request) for number in self.SIGNALS}
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self.previous.items():
            signal.signal(number, handler)

    def request(self, number: int, frame: FrameType | None) -> None:
        """Notes the request and lets the next signal through."""
        self.number = number
        self.__exit__()


@contextmanager
def exit_on_sigterm() -> Iterator[None]:
    """While entered, SIGTERM unwinds the program as Ctrl-C does, so that what it holds is given back."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def unwind(number: int, _: FrameType | None) -> None:
        raise Stopped("stopped outside the training; the same command goes on from the last checkpoint", number)

    previous = signal.signal(signal.SIGTERM, unwind)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, previous)
