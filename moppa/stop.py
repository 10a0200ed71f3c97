"""Ctrl-C and SIGTERM become a request that the loop answers between two steps, so that what it saves is whole."""

import signal
import threading
from types import FrameType
from typing import Any


class Stopped(SystemExit):
    """The cell was stopped from outside and can be resumed; the exit status is the shell's 130."""

    def __init__(self, message: str) -> None:
        super().__init__(130)
        self.message = message


class StopRequest:
    """While entered, the first SIGINT or SIGTERM sets `is_requested`; a second one acts as it would have."""

    SIGNALS = (signal.SIGINT, signal.SIGTERM)

    def __init__(self) -> None:
        self.is_requested = False
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
        self.is_requested = True
        self.__exit__()
