"""What a command prints if the user can fix its error, and how it ends if nobody reads its output."""

import io
import os
import select
import sys
from collections.abc import Callable
from functools import wraps
from typing import ParamSpec

from moppa.utils.errors import UserError

CLOSED_PIPE = 141  # the exit status of a program that SIGPIPE ends
Arguments = ParamSpec("Arguments")


def prints_errors(*others: type[Exception]) -> Callable[[Callable[[], int]], Callable[[], int]]:
    """Returns a decorator for the `main` of a command: `UserError` and `others` are one line and the exit status 1."""

    def decorate(main: Callable[[], int]) -> Callable[[], int]:
        @wraps(main)
        def call() -> int:
            try:
                return main()
            except (UserError, *others) as error:
                print(f"error: {error}", file=sys.stderr)
                return 1

        return call

    return decorate


def ends_with_its_pipe(main: Callable[Arguments, int]) -> Callable[Arguments, int]:
    """Decorates the `main` of a program: if its output is closed, as by `| head`, it ends without an error message."""

    @wraps(main)
    def call(*args: Arguments.args, **settings: Arguments.kwargs) -> int:
        try:
            try:
                return main(*args, **settings)
            finally:
                sys.stdout.flush()  # what is left would fail when Python ends
        except BrokenPipeError:
            if not is_output_closed():  # but a connection
                raise
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # for what Python writes at its end
            return CLOSED_PIPE

    return call


def is_output_closed() -> bool:
    """Returns whether standard output is a pipe that nobody reads any more."""
    poll = select.poll()
    try:
        poll.register(sys.stdout.fileno(), 0)  # the errors are always reported
    except io.UnsupportedOperation:  # a stream that is no file
        return False
    return bool(poll.poll(0))
