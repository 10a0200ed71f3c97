"""From overrides to a composed config, and from a config to the objects that it describes, with one-line errors."""

import functools
import inspect
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import hydra.utils
from hydra import compose, initialize_config_dir
from hydra.core.hydra_config import HydraConfig
from hydra.errors import CompactHydraException, InstantiationException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

import moppa.utils.for_task  # noqa: F401 - registers its resolver
from moppa.utils.errors import SettingError, UserError, traceback_file
from moppa.utils.gpu import gpu_of_job, num_gpu_workers
from moppa.utils.paths import CONFIGS
from moppa.utils.renamed import check_overrides, importable
from moppa.utils.signals import Stopped

# arguments that come from the run, not from a YAML
PASSED_LATER = ("generator", "examples", "finished", "seed", "training")


def environment_value(name: str, default: Any) -> Any:
    """Returns an environment variable for `${env:NAME,default}` in a YAML; one that is set to nothing is unset."""
    return os.environ.get(name) or default


RESOLVERS = {
    "env": environment_value,
    "gpu_of_job": gpu_of_job,
    "num_gpu_workers": num_gpu_workers,
}
for name, resolver in RESOLVERS.items():
    OmegaConf.register_new_resolver(name, resolver, replace=True)

CONFIG_GROUPS = ("backbone", "data", "method", "protocol", "task", "train")  # those that count in a cell's key


def compose_config(overrides: Sequence[str], configs: Path = CONFIGS, *, with_hydra: bool = False) -> DictConfig:
    """Returns the config that `python run.py OVERRIDES` composes, with Hydra's own node if asked for.

    Raises:
        HydraException: if an override names a group, a file or a setting that does not exist.
    """
    check_overrides(overrides)
    with initialize_config_dir(version_base="1.3", config_dir=str(configs)):
        return compose("cell", overrides=list(overrides), return_hydra_config=with_hydra)


def instantiate(config: DictConfig, path: str, **settings: Any) -> Any:
    """Returns the object that the config node at the dotted `path` describes with its `_target_`.

    Lists and dicts are passed as Python's own. With `_partial_=True` the result is a callable, and a `SettingError`
    that it raises names the setting by its full path.

    Raises:
        UserError: if the target, one of its settings or a value is wrong.
    """
    try:
        node = OmegaConf.select(config, path)
        if OmegaConf.is_config(node):
            node = with_current_targets(OmegaConf.to_container(node, resolve=True, throw_on_missing=True))
        made = hydra.utils.instantiate(node, _convert_="all", **settings)
        if isinstance(made, partial):
            check_settings(made, path)
            return partial(with_setting_path(made.func, path), *made.args, **made.keywords)
        return made
    except InstantiationException as error:
        cause = error.__cause__
        if isinstance(cause, SettingError):
            raise cause.inside(path) from error
        if isinstance(cause, UserError):
            raise cause from error
        raise UserError(f"{path}: {' '.join(str(cause or error).split())}{yaml_of(path)}") from error
    except TypeError as error:
        raise UserError(f"{path}: {error}; choose from the settings in its YAML{yaml_of(path)}") from error
    except OmegaConfBaseException as error:
        raise config_error(error) from error


def check_settings(function: partial[Any], path: str) -> None:
    """Raises now, not when it is called, if a function of a YAML has an unknown setting or lacks one."""
    signature = inspect.signature(function.func)
    given = signature.bind_partial(*function.args, **function.keywords).arguments  # TypeError: unknown
    missing = [
        name
        for name, parameter in signature.parameters.items()
        if parameter.kind is parameter.KEYWORD_ONLY and parameter.default is parameter.empty
        if name not in given and name not in PASSED_LATER
    ]
    if missing:
        raise UserError(f"{path}: its YAML lacks {', '.join(missing)}{yaml_of(path)}")


def yaml_of(path: str) -> str:
    """Returns " (configs/GROUP/NAME.yaml)" for a setting of a config group, or nothing outside of a run of Hydra."""
    group = path.partition(".")[0]
    name = HydraConfig.get().runtime.choices.get(group) if HydraConfig.initialized() else None
    return f" ({group}/{name}.yaml)" if name else ""


def to_plain(config: DictConfig) -> dict[str, Any]:
    """Returns a config as plain dicts without interpolations.

    Raises:
        UserError: if a value is missing (???) or an interpolation cannot be resolved.
    """
    try:
        return OmegaConf.to_container(config, resolve=True, throw_on_missing=True)  # type: ignore[return-value]
    except OmegaConfBaseException as error:
        raise config_error(error) from error


def config_error(error: OmegaConfBaseException) -> UserError:
    """Returns a one-line error with the full name of the setting that OmegaConf cannot resolve."""
    return UserError(f"{error.full_key}: {str(error).splitlines()[0]}")


def with_current_targets(node: Any) -> Any:
    """Returns a plain config in which every `_target_` is importable here.

    Python paths that have changed are replaced, and in a wheel `baselines.X` becomes `moppa.baselines.X`.
    """
    if isinstance(node, list):
        return [with_current_targets(item) for item in node]
    if not isinstance(node, dict):
        return node
    node = {name: with_current_targets(value) for name, value in node.items()}
    if "_target_" in node:
        node["_target_"] = importable(node["_target_"])
    return node


def with_setting_path(function: Callable[..., Any], path: str) -> Callable[..., Any]:
    """Returns `function` with `path.` added to the setting that a `SettingError` of it names."""

    @functools.wraps(function)
    def wrapped(*args: Any, **kwargs: Any) -> Any:
        try:
            return function(*args, **kwargs)
        except SettingError as error:
            raise error.inside(path) from error

    return wrapped


def loaded_configs() -> dict[str, Path]:
    """Returns the YAMLs from which Hydra composed the cell that it runs, by name: `cell.yaml` and those of its groups.

    Empty if the config was composed in Python, where Hydra does not tell.
    """
    if not HydraConfig.initialized():
        return {}
    runtime = HydraConfig.get().runtime
    folders = [Path(source.path) for source in runtime.config_sources if source.schema == "file"]
    choices = sorted((group.partition("@")[0], name) for group, name in runtime.choices.items() if name)  # method@PLACE
    names = ["cell", *(f"{group}/{name}" for group, name in choices if group in CONFIG_GROUPS)]
    found = {f"{name}.yaml": find_file(folders, f"{name}.yaml") for name in names}
    return {name: path for name, path in found.items() if path is not None}


def find_file(folders: Sequence[Path], name: str) -> Path | None:
    """Returns the file of that name in the first folder that has one."""
    return next((folder / name for folder in folders if (folder / name).is_file()), None)


def sweep_name() -> str:
    """Returns the name of the sweep that this cell belongs to, or `cells`."""
    return (HydraConfig.get().runtime.choices.get("sweep") if HydraConfig.initialized() else None) or "cells"


class UnexpectedError(CompactHydraException):
    """An error that is not the user's, in one line with the file that has its traceback."""


@contextmanager
def one_line_errors() -> Iterator[None]:
    """Ends the program with one line for any error; the traceback of one that is not a `UserError` is in a file.

    Hydra prints a `CompactHydraException` without a traceback.
    """
    try:
        yield
    except UserError as error:
        raise CompactHydraException(f"error: {error}") from error
    except Exception as error:
        line = f"{type(error).__name__}: {str(error).strip()}".splitlines()[0]
        raise UnexpectedError(f"error: {line} (traceback in {traceback_file(error)})") from error
    except Stopped as stopped:
        print(stopped.message, file=sys.stderr)
        raise
    except KeyboardInterrupt:
        print("stopped; the same command resumes from the last checkpoint", file=sys.stderr)
        raise SystemExit(130) from None
