"""Loggers: where the curve goes while a cell trains. The record keeps it in any case; a logger may fail, a cell not."""

import json
import netrc
import os
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol, runtime_checkable
from urllib.parse import urlparse

from moppa.utils import validate


@runtime_checkable
class Logger(Protocol):
    """What the trainer asks of a logger."""

    def start(self, *, name: str, group: str, config: Mapping[str, Any]) -> None:
        """Opens one run for one cell."""

    def log(self, values: Mapping[str, float], *, step: int) -> None:
        """Notes values at a step."""

    def finish(self, summary: Mapping[str, Any]) -> None:
        """Notes the final figures and closes the run."""


class NoLogger:
    """Writes nothing."""

    def start(self, *, name: str, group: str, config: Mapping[str, Any]) -> None:
        """Opens nothing."""

    def log(self, values: Mapping[str, float], *, step: int) -> None:
        """Notes nothing."""

    def finish(self, summary: Mapping[str, Any]) -> None:
        """Closes nothing."""


class SafeLogger:
    """Any logger, which is dropped for the rest of the cell where it fails, after that was said once."""

    def __init__(self, logger: Logger) -> None:
        self.logger = logger

    def start(self, *, name: str, group: str, config: Mapping[str, Any]) -> None:
        """Opens one run for one cell."""
        self.attempt("start", name=name, group=group, config=config)

    def log(self, values: Mapping[str, float], *, step: int) -> None:
        """Notes values at a step."""
        self.attempt("log", values, step=step)

    def finish(self, summary: Mapping[str, Any]) -> None:
        """Notes the final figures and closes the run."""
        self.attempt("finish", summary)

    def attempt(self, call: str, *values: Any, **named: Any) -> None:
        """Calls the logger, if there still is one."""
        try:
            getattr(self.logger, call)(*values, **named)
        except Exception as error:
            name, self.logger = type(self.logger).__name__, NoLogger()
            print(
                f"logger: {name} failed and is left out from here on ({type(error).__name__}: {error})", file=sys.stderr
            )


class WandbLogger:
    """One Weights & Biases run per cell, grouped by sweep. `mode` auto is online where the user is logged in."""

    def __init__(self, *, project: str, mode: str, dir: str) -> None:
        self.project, self.dir = project, dir
        self.mode = validate.one_of("logger.mode", mode, ("auto", "offline", "online", "disabled"))
        self.run: Any = None

    def start(self, *, name: str, group: str, config: Mapping[str, Any]) -> None:
        """Opens the run."""
        import wandb  # late: it costs a second that most cells do not need

        Path(self.dir).mkdir(parents=True, exist_ok=True)  # else wandb writes to the system's temporary folder
        mode = ("online" if is_logged_in() else "offline") if self.mode == "auto" else self.mode
        self.run = wandb.init(
            project=self.project,
            mode=mode,  # type: ignore[arg-type]  # checked above
            dir=self.dir,
            name=name,
            group=group,
            config=dict(config),
            reinit="finish_previous",
        )

    def log(self, values: Mapping[str, float], *, step: int) -> None:
        """Notes values at a step."""
        self.run.log(dict(values), step=step)

    def finish(self, summary: Mapping[str, Any]) -> None:
        """Notes the final figures and closes the run."""
        self.run.summary.update(dict(summary))
        self.run.finish()


def is_logged_in() -> bool:
    """Whether wandb would find a key: in the environment, or in the file that `wandb login` writes."""
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
        self.dir = Path(dir)
        self.writer: Any = None

    def start(self, *, name: str, group: str, config: Mapping[str, Any]) -> None:
        """Opens the folder."""
        from torch.utils.tensorboard import SummaryWriter  # late: most cells do not need it

        self.writer = SummaryWriter(str(self.dir / group / name.replace(" ", "-")))
        self.writer.add_text("config", f"```\n{json.dumps(config, indent=2, sort_keys=True)}\n```")

    def log(self, values: Mapping[str, float], *, step: int) -> None:
        """Notes values at a step."""
        for name, value in values.items():
            self.writer.add_scalar(name, value, step)

    def finish(self, summary: Mapping[str, Any]) -> None:
        """Notes the final figures and closes the folder."""
        for name, value in summary.items():
            self.writer.add_scalar(f"final/{name}", value)
        self.writer.close()
