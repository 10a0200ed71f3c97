"""From words as run.py takes them to the tasks, the sources and the look of the images that they choose."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from omegaconf import DictConfig

from moppa.data.images import INTERPOLATIONS
from moppa.data.split import Source
from moppa.data.task import Task
from moppa.utils import validate
from moppa.utils.config import compose_config, instantiate

OWN = ("task", "size", "interpolation")


def parse_args(words: Sequence[str]) -> tuple[dict[str, str], list[str]]:
    """What `task=`, `size=` and `interpolation=` ask for, and the other words, which are overrides of run.py."""
    pairs = [word.partition("=") for word in words]
    own = {name: value for name, _, value in pairs if name in OWN}
    return own, [word for word, (name, *_) in zip(words, pairs, strict=True) if name not in OWN]


def vtab_tasks(configs: Path) -> list[str]:
    """The names of all tasks of the suite: the YAMLs that stand in `configs/task` itself."""
    return sorted(path.stem for path in (configs / "task").glob("*.yaml"))


def tasks_and_sources(configs: Path, names: Sequence[str], overrides: Sequence[str]) -> list[tuple[Task, Source]]:
    """Each task with the source that run.py would read it from."""
    chosen = [compose_config([f"task={name}", *overrides], configs) for name in names]
    return [(instantiate(config, "task"), instantiate(config, "data")) for config in chosen]


def image_format(config: DictConfig, asked: Mapping[str, str]) -> dict[str, Any]:
    """Size and interpolation: as asked, else as run.py takes them from the backbone; no weights are needed."""
    look: dict[str, Any] = {}
    if not {"size", "interpolation"} <= set(asked):
        backbone = instantiate(config, "backbone")
        seen = backbone.preprocess(backbone.create_model(drop_path=0.0))
        look = {"size": seen.size, "interpolation": seen.interpolation}
    if "size" in asked:
        look["size"] = parse_size(asked["size"])
    if "interpolation" in asked:
        look["interpolation"] = validate.one_of("interpolation", asked["interpolation"], INTERPOLATIONS)
    return look


def parse_size(word: str) -> int:
    """A size in pixels, as written on the command line."""
    return validate.integer("size", int(word) if word.isdecimal() else word, minimum=1)
