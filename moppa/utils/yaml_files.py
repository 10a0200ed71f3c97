"""The YAMLs of a folder that can be read, and why the others cannot."""

from functools import lru_cache
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException
from yaml import YAMLError

from moppa.utils.errors import UserError


def yaml_files(folder: Path) -> list[Path]:
    """Returns the YAMLs in a folder and below it, without hidden ones, which editors and systems leave there."""
    return sorted(
        path
        for path in folder.rglob("*.yaml")
        if not any(part.startswith(".") for part in path.relative_to(folder).parts)
    )


@lru_cache
def read_yaml(path: Path) -> dict[str, Any]:
    """Returns the settings in a YAML. Interpolations stay as they are.

    Raises:
        UserError: if the file cannot be read, is not YAML in UTF-8, or holds no settings.
    """
    try:
        node: Any = OmegaConf.to_container(OmegaConf.load(path))
    except (OSError, UnicodeError, YAMLError, OmegaConfBaseException) as error:
        raise UserError(f"{path} cannot be read as YAML in UTF-8: {' '.join(str(error).split())}") from error
    if not isinstance(node, dict) or not node:
        raise UserError(f"{path} holds no settings: complete it, or delete it")
    return {str(name): value for name, value in node.items()}
