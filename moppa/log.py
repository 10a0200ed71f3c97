"""Loggers: where the curve goes while a cell trains. The record keeps it in any case; a logger may fail, a cell not."""

from collections.abc import Mapping
from typing import Any, Protocol, runtime_checkable


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


class WandbLogger:
    """One Weights & Biases run per cell. The first failure is said once and ends the logging, not the cell."""

    def __init__(self, *, project: str, mode: str, dir: str) -> None:
        self.project, self.mode, self.dir = project, mode, dir
        self.run: Any = None

    def start(self, *, name: str, group: str, config: Mapping[str, Any]) -> None:
        """Opens the run."""
        try:
            import wandb  # late: it costs a second that most cells do not need

            self.run = wandb.init(
                project=self.project,
                mode=self.mode,  # type: ignore[arg-type]  # wandb checks it
                dir=self.dir,
                name=name,
                group=group,
                config=dict(config),
                reinit="finish_previous",
            )
        except Exception as error:
            self.give_up(error)

    def log(self, values: Mapping[str, float], *, step: int) -> None:
        """Notes values at a step."""
        self.attempt("log", dict(values), step=step)

    def finish(self, summary: Mapping[str, Any]) -> None:
        """Notes the final figures and closes the run."""
        if self.run is not None:
            self.run.summary.update(dict(summary))
        self.attempt("finish")

    def attempt(self, call: str, *values: Any, **named: Any) -> None:
        """Calls the run, if there still is one."""
        if self.run is not None:
            try:
                getattr(self.run, call)(*values, **named)
            except Exception as error:
                self.give_up(error)

    def give_up(self, error: Exception) -> None:
        """A logger that fails is dropped for the rest of the cell."""
        self.run = None
        print(f"logger: wandb failed and is left out from here on ({type(error).__name__}: {error})")
