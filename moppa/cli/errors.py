"""What a command prints if the user can fix its error."""

import sys
from collections.abc import Callable
from functools import wraps

from moppa.utils.errors import UserError


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
