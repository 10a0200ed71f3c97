"""From words as run.py takes them to the tasks, the sources and the look of the images that they choose."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from hydra import compose, initialize_config_dir
from omegaconf import DictConfig

from moppa import check
from moppa.configured import make
from moppa.data.images import INTERPOLATIONS
from moppa.data.part import Source
from moppa.data.task import Task

OWN = ("task", "size", "interpolation")


def asked_of(words: Sequence[str]) -> tuple[dict[str, str], list[str]]:
    """What `task=`, `size=` and `interpolation=` ask for, and the other words, which are overrides of run.py."""
    pairs = [word.partition("=") for word in words]
    own = {name: value for name, _, value in pairs if name in OWN}
    return own, [word for word, (name, *_) in zip(words, pairs, strict=True) if name not in OWN]


def suite(configs: Path) -> list[str]:
    """The names of all tasks of the suite: the YAMLs that stand in `configs/task` itself."""
    return sorted(path.stem for path in (configs / "task").glob("*.yaml"))


def config_of(configs: Path, overrides: Sequence[str]) -> DictConfig:
    """The composed config of `python run.py OVERRIDES`. Raises `HydraException` for words that it does not know."""
    with initialize_config_dir(version_base="1.3", config_dir=str(configs)):
        return compose("cell", overrides=list(overrides))


def tasks_and_sources(configs: Path, names: Sequence[str], overrides: Sequence[str]) -> list[tuple[Task, Source]]:
    """Each task with the source that run.py would read it from."""
    chosen = [config_of(configs, [f"task={name}", *overrides]) for name in names]
    return [(make(config, "task"), make(config, "data")) for config in chosen]


def look_of(config: DictConfig, asked: Mapping[str, str]) -> dict[str, Any]:
    """Size and interpolation: as asked, else as run.py takes them from the backbone; no weights are needed."""
    look: dict[str, Any] = {}
    if not {"size", "interpolation"} <= set(asked):
        backbone = make(config, "backbone")
        seen = backbone.preprocess(backbone.bare(drop_path=0.0))
        look = {"size": seen.size, "interpolation": seen.interpolation}
    if "size" in asked:
        look["size"] = size_of(asked["size"])
    if "interpolation" in asked:
        look["interpolation"] = check.one_of("interpolation", asked["interpolation"], INTERPOLATIONS)
    return look


def size_of(word: str) -> int:
    """A size in pixels, as written on the command line."""
    return check.whole("size", int(word) if word.isdecimal() else word, least=1)
