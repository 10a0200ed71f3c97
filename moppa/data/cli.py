"""Parses the arguments of the data commands to tasks, sources and an image format."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from omegaconf import DictConfig

from moppa.data.images import INTERPOLATIONS, ImageFormat
from moppa.data.source import Source
from moppa.data.task import Task
from moppa.utils import validate
from moppa.utils.config import compose_config, instantiate
from moppa.utils.network import set_connect_timeout

OPTIONS = ("task", "size", "interpolation")


def parse_args(args: Sequence[str]) -> tuple[dict[str, str], list[str]]:
    """Returns the options `task=`, `size=` and `interpolation=`, and the rest: overrides of `moppa run`."""
    pairs = [arg.partition("=") for arg in args]
    options = {name: value for name, _, value in pairs if name in OPTIONS}
    return options, [arg for arg, (name, *_) in zip(args, pairs, strict=True) if name not in OPTIONS]


def vtab_tasks(configs: Path) -> list[str]:
    """Returns the names of the tasks of VTAB-1K: the YAMLs directly in `configs/task`."""
    return sorted(path.stem for path in (configs / "task").glob("*.yaml"))


def tasks_and_sources(configs: Path, names: Sequence[str], overrides: Sequence[str]) -> list[tuple[Task, Source]]:
    """Returns each task with the source from which `moppa run` would read it."""
    task_configs = [compose_config([f"task={name}", *overrides], configs) for name in names]
    set_connect_timeout(task_configs[0].run.connect_timeout)
    return [(instantiate(config, "task"), instantiate(config, "data")) for config in task_configs]


def image_format(config: DictConfig, options: Mapping[str, str]) -> ImageFormat:
    """Returns the size and interpolation from the options, or else from the backbone, whose weights are not needed."""
    size = parse_size(options["size"]) if "size" in options else None
    interpolation = options.get("interpolation")
    if interpolation is not None:
        validate.one_of("interpolation", interpolation, INTERPOLATIONS)
    if size is None or interpolation is None:
        backbone = instantiate(config, "backbone")
        preprocess = backbone.preprocess(backbone.create_model(drop_path=0.0))
        size, interpolation = size or preprocess.size, interpolation or preprocess.interpolation
    return ImageFormat(size, interpolation)


def parse_size(text: str) -> int:
    """Returns a size in pixels from its command line argument."""
    return validate.integer("size", int(text) if text.isdecimal() else text, minimum=1)
