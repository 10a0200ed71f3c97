"""Loggers receive the learning curve while a cell trains. The record holds it in any case, so a logger may fail."""

import json
import netrc
import os
import sys
from collections.abc import Mapping
from typing import Any, Protocol, runtime_checkable
from urllib.parse import urlparse

from moppa.utils import validate
from moppa.utils.paths import user_path


@runtime_checkable
class Logger(Protocol):
    """The interface of a logger."""

    def start(self, *, name: str, group: str, config: Mapping[str, Any]) -> None:
        """Opens a run for one cell."""

    def log(self, values: Mapping[str, float], *, step: int) -> None:
        """Logs values at a step."""

    def finish(self, summary: Mapping[str, Any]) -> None:
        """Logs the final numbers and closes the run."""


class NoLogger:
    """Logs nothing."""

    def start(self, *, name: str, group: str, config: Mapping[str, Any]) -> None:
        """Does nothing."""

    def log(self, values: Mapping[str, float], *, step: int) -> None:
        """Does nothing."""

    def finish(self, summary: Mapping[str, Any]) -> None:
        """Does nothing."""


class SafeLogger:
    """Wraps a logger; on its first exception, warns once and disables it for the rest of the run."""

    def __init__(self, logger: Logger) -> None:
        self.logger = logger

    def start(self, *, name: str, group: str, config: Mapping[str, Any]) -> None:
        """Opens a run for one cell."""
        self._call("start", name=name, group=group, config=config)

    def log(self, values: Mapping[str, float], *, step: int) -> None:
        """Logs values at a step."""
        self._call("log", values, step=step)

    def finish(self, summary: Mapping[str, Any]) -> None:
        """Logs the final numbers and closes the run."""
        self._call("finish", summary)

    def _call(self, method: str, *args: Any, **kwargs: Any) -> None:
        try:
            getattr(self.logger, method)(*args, **kwargs)
        except Exception as error:
            name, self.logger = type(self.logger).__name__, NoLogger()
            print(f"logger: {name} failed and is disabled ({type(error).__name__}: {error})", file=sys.stderr)


class WandbLogger:
    """One Weights & Biases run per cell, grouped by sweep.

    Mode `auto` is that of the environment variable WANDB_MODE if it is set, else online if the user is logged in.
    """

    def __init__(self, *, project: str, mode: str, dir: str) -> None:
        self.project, self.dir = project, user_path(dir)
        self.mode = validate.one_of("mode", mode, ("auto", "offline", "online", "disabled"))
        self.run: Any = None

    def start(self, *, name: str, group: str, config: Mapping[str, Any]) -> None:
        """Opens the run."""
        import wandb  # here, because it takes a second that most cells do not need

        self.dir.mkdir(parents=True, exist_ok=True)  # otherwise wandb writes to a temporary folder
        mode: Any = automatic_mode() if self.mode == "auto" else self.mode
        self.run = wandb.init(
            project=self.project,
            mode=mode,
            dir=str(self.dir),
            name=name,
            group=group,
            config=dict(config),
            reinit="finish_previous",
        )

    def log(self, values: Mapping[str, float], *, step: int) -> None:
        """Logs values at a step."""
        self.run.log(dict(values), step=step)

    def finish(self, summary: Mapping[str, Any]) -> None:
        """Logs the final numbers and closes the run."""
        self.run.summary.update(dict(summary))
        self.run.finish()


def automatic_mode() -> str | None:
    """Returns online or offline, or None if wandb is to read the mode from the environment."""
    if os.environ.get("WANDB_MODE") or os.environ.get("WANDB_DISABLED"):
        return None
    return "online" if is_logged_in() else "offline"


def is_logged_in() -> bool:
    """Returns whether wandb would find an API key: in the environment, or in the file that `wandb login` writes."""
    if os.environ.get("WANDB_API_KEY"):
        return True
    host = urlparse(os.environ.get("WANDB_BASE_URL", "https://api.wandb.ai")).hostname
    try:
        return netrc.netrc(os.environ.get("NETRC")).authenticators(str(host)) is not None
    except (OSError, netrc.NetrcParseError):
        return False


class TensorBoardLogger:
    """One TensorBoard folder per cell, `dir/GROUP/NAME`. It needs the package tensorboard."""

    def __init__(self, *, dir: str) -> None:
        self.dir = user_path(dir)
        self.writer: Any = None

    def start(self, *, name: str, group: str, config: Mapping[str, Any]) -> None:
        """Opens the folder."""
        from torch.utils.tensorboard import SummaryWriter  # here, because most cells do not need it

        self.writer = SummaryWriter(str(self.dir / group / name.replace(" ", "-")))
        self.writer.add_text("config", f"```\n{json.dumps(config, indent=2, sort_keys=True)}\n```")

    def log(self, values: Mapping[str, float], *, step: int) -> None:
        """Logs values at a step."""
        for name, value in values.items():
            self.writer.add_scalar(name, value, step)

    def finish(self, summary: Mapping[str, Any]) -> None:
        """Logs the final numbers and closes the folder."""
        for name, value in summary.items():
            self.writer.add_scalar(f"final/{name}", value)
        self.writer.close()
