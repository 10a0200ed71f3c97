"""The one error that is the user's to mend."""


class UserError(ValueError):
    """Names the thing, the value and the way out; `run.py` prints it as one line, without a traceback."""
