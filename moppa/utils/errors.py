"""Errors that the user can fix, printed as one line without a traceback, and files with the traceback of others."""

import os
import time
import traceback
from pathlib import Path

ERRORS = Path("outputs") / "errors"


class UserError(ValueError):
    """Names the setting or file, its value, and the fix."""


class SettingError(UserError):
    """A setting with a bad value.

    The code that checks a value knows the setting by its own argument name (`rank`). Code that knows where the value
    came from adds that place with `inside`, so that the user reads the name as typed (`method.attach.rank`).
    """

    def __init__(self, setting: str, message: str) -> None:
        self.setting, self.message = setting, message
        super().__init__(f"{setting}{message}")

    def inside(self, path: str) -> "SettingError":
        """Returns the same error for the setting `path.setting`."""
        return self if self.setting.startswith(f"{path}.") else SettingError(f"{path}.{self.setting}", self.message)


def first_line(error: BaseException, *, otherwise: str | None = None) -> str:
    """Returns the first line of an error's message; if it has none, `otherwise` or the type of the error."""
    return (str(error).strip().splitlines() or [otherwise or type(error).__name__])[0]


def traceback_file(error: Exception) -> Path:
    """Returns the file that holds the traceback of an error: that of its cell, else a new one in outputs/errors/."""
    if isinstance(file := getattr(error, "traceback_file", None), Path):
        return file
    ERRORS.mkdir(parents=True, exist_ok=True)
    file = ERRORS / f"{time.strftime('%Y-%m-%d-%H%M%S')}-{os.getpid()}.txt"
    file.write_text("".join(traceback.format_exception(error)), encoding="utf-8")
    return file
