"""What to print if Hydra cannot compose a config: the extra that is missing, or the YAML that cannot be read."""

import re
from collections.abc import Iterator, Sequence
from pathlib import Path

import yaml
from hydra.errors import CompactHydraException, HydraException
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from moppa.utils.config import compose_config, to_plain
from moppa.utils.errors import UserError, traceback_file
from moppa.utils.flatten import flatten
from moppa.utils.known_settings import no_such_setting
from moppa.utils.paths import IS_CHECKOUT

PLUGINS = ("joblib", "submitit", "ray", "optuna")  # of the extra `sweep`


def explain(error: Exception, folders: Sequence[Path], overrides: Sequence[str]) -> str:
    """Returns what to print for an error of Hydra, given the folders of the configs and the overrides."""
    text = str(error)
    missing = re.search(r"Could not (?:find|load) 'hydra/(launcher|sweeper)/(\w+)'", text)
    if missing and missing[2].startswith(PLUGINS):
        extra = ".[sweep]" if IS_CHECKOUT else "moppa[sweep]"
        return f"error: hydra/{missing[1]}={missing[2]} is not installed: pip install '{extra}'"
    if unknown := re.match(r"Could not override '([\w.@]+)'", text):
        return f"error: {no_such_setting(unknown[1], known_names(unknown[1], overrides))}"
    if isinstance(error, CompactHydraException):
        cause = error.__cause__
        return "\n".join([text, *([str(cause)] if isinstance(cause, OmegaConfBaseException) else [])])
    if isinstance(error, (yaml.YAMLError, UnicodeError)) and (problem := unreadable_yaml(folders, overrides)):
        return f"error: {problem}"
    line = " ".join(f"{type(error).__name__}: {text}".split())
    return f"error: {line} (traceback in {traceback_file(error)})"


def known_names(setting: str, overrides: Sequence[str]) -> list[str]:
    """Returns the names of the settings that the config has without this override; none if another is wrong, too."""
    others = [word for word in overrides if "," not in word and word.partition("=")[0] != setting]
    try:
        config = to_plain(compose_config(others))
    except (HydraException, UserError):
        return []
    return [*flatten(config), *config]


def unreadable_yaml(folders: Sequence[Path], overrides: Sequence[str]) -> str:
    """Returns the YAML that Hydra could not read, and why, or an empty string. Those that were chosen come first."""
    for path in dict.fromkeys([*chosen_yamls(folders, overrides), *all_yamls(folders)]):
        try:
            OmegaConf.load(path)
        except Exception as error:
            return f"{path} cannot be read as YAML in UTF-8: {' '.join(str(error).split())}"
    return ""


def chosen_yamls(folders: Sequence[Path], overrides: Sequence[str]) -> Iterator[Path]:
    """Yields the YAMLs that the overrides choose."""
    for override in overrides:
        group, _, names = override.lstrip("+").partition("=")
        paths = [folder / group / f"{name}.yaml" for folder in folders for name in names.strip("'").split(",")]
        yield from (path for path in paths if path.is_file())


def all_yamls(folders: Sequence[Path]) -> list[Path]:
    """Returns the YAMLs in the folders, without hidden ones."""
    return sorted(path for folder in folders for path in folder.rglob("*.yaml") if not path.name.startswith("."))
