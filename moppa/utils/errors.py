"""Errors that the user can fix. They are printed as one line, without a traceback."""


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
