"""From a composed config to the objects it names, with errors of one line."""

import inspect
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

from hydra.core.hydra_config import HydraConfig
from hydra.errors import CompactHydraException, InstantiationException
from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from moppa.errors import UserError
from moppa.stop import Stopped


def make(config: DictConfig, path: str, **settings: Any) -> Any:
    """What the config's node at the dotted `path` describes with its `_target_`; lists and dicts arrive as Python's."""
    try:
        made = instantiate(OmegaConf.select(config, path), _convert_="all", **settings)
        if isinstance(made, partial):
            # a setting that it does not have is told now, not when it is called
            inspect.signature(made.func).bind_partial(**made.keywords)
        return made
    except InstantiationException as error:
        cause = error.__cause__
        if isinstance(cause, UserError):
            raise cause from error
        raise UserError(f"{path}: {' '.join(str(cause or error).split())}") from error
    except TypeError as error:
        raise UserError(f"{path}: {error}; choose from the settings in its YAML") from error
    except OmegaConfBaseException as error:
        raise UserError(f"{path}: {str(error).splitlines()[0]}") from error


def sweep_name() -> str:
    """The named sweep that this cell is one of, or `cells`."""
    return (HydraConfig.get().runtime.choices.get("sweep") if HydraConfig.initialized() else None) or "cells"


def offer(function: Callable[..., Any], *given: Any, **offered: Any) -> Any:
    """Calls a function with what is given, and with what of the rest it asks for by name."""
    asked = inspect.signature(function).parameters
    return function(*given, **{name: value for name, value in offered.items() if name in asked})


@contextmanager
def one_line_errors() -> Iterator[None]:
    """Errors that are the user's to mend end the program with one line; all others keep their traceback."""
    try:
        yield
    except UserError as error:
        raise CompactHydraException(f"error: {error}") from error  # Hydra prints it without a traceback
    except Stopped as stopped:
        print(stopped.message, file=sys.stderr)
        raise
    except KeyboardInterrupt:
        print("stopped; the same command goes on from the last checkpoint", file=sys.stderr)
        raise SystemExit(130) from None
