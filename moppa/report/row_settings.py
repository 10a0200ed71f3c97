"""The settings that name a row: those of the method, the recipe and the run that differ from their YAML files."""

import json
import sys
from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any

from moppa.record.schema import ADDED
from moppa.record.task_changes import recorded_task_changes
from moppa.report.composed import composed_overrides
from moppa.report.load import ValidRecord
from moppa.utils.errors import UserError
from moppa.utils.flatten import flatten, is_inside
from moppa.utils.for_task import recipe_settings
from moppa.utils.yaml_files import read_yaml

# Names of normalizations by their (mean, std).
NORMALIZATIONS = {
    ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)): "ImageNet",
    ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5)): "0.5",
    ((0.0, 0.0, 0.0), (1.0, 1.0, 1.0)): "none",
}
CHANGED_TASK = "task"  # the entry of a row whose task differs from its YAML


def run_settings(record: ValidRecord, configs: Path, *, is_tuned: bool) -> dict[str, str]:
    """Returns what a record's result depends on besides method, task and seed: data, weights, changed settings."""
    return {
        "data lineage": record["split"]["lineage"],
        "normalization": normalization_name(record),
        "weights": f"{record['weights']['name']} (sha256 {record['weights']['sha256'][:12]})",
        "dtype": str(record["dtype"]),
        **backbone_overrides(record, configs),
        **recipe_overrides(record, configs, is_tuned=is_tuned),
        **draw_settings(record),
        **({"sender": record.sender} if record.sender else {}),
        **task_changes(record, configs),
    }


def backbone_overrides(record: ValidRecord, configs: Path) -> dict[str, str]:
    """Returns the backbone's settings that differ from its YAML, which may lack those that were added since."""
    backbone = {name: value for name, value in record["config"]["backbone"].items() if name != "weights"}
    defaults = configs / "backbone" / f"{record['backbone']}.yaml"
    added = within(ADDED, "backbone") if defaults.exists() else {}
    implied = [name for name in added if name not in read_defaults(defaults) and backbone[name] == added[name]]
    return changed_settings({name: value for name, value in backbone.items() if name not in implied}, defaults)


def draw_settings(record: ValidRecord) -> dict[str, str]:
    """Returns the number of images of each class of a few-shot record, and their draw if all seeds share it."""
    protocol = record["config"]["protocol"]
    return {name: str(protocol[name]) for name in ("shots", "draw") if protocol.get(name) is not None}


def task_changes(record: ValidRecord, configs: Path) -> dict[str, str]:
    """Returns which settings of the task differ from its YAML; they name the row, and bar it from marks and means."""
    split = {name: value for name, value in record["split"].items() if name not in ("fingerprint", "pixels_sha256")}
    changes = task_changes_of(json.dumps({"config": {"task": record["config"]["task"]}, "split": split}), configs)
    return {CHANGED_TASK: f"changed: {'+'.join(changes)}"} if changes else {}


@lru_cache(maxsize=1024)
def task_changes_of(content: str, configs: Path) -> list[str]:
    """Returns the changes of a task, once for all records that say the same of it."""
    return recorded_task_changes(json.loads(content), configs)


def method_overrides(record: ValidRecord, configs: Path, *, is_tuned: bool) -> dict[str, str]:
    """Returns the method's settings that differ from its YAML. A method without a version has version 1.

    Settings that are all those of a file in configs/variant/ are its name instead. Of a tuned record these are the
    version and what `hparams_fixed` names: the settings that were tuned on val200 are not listed.
    """
    method, defaults = record["config"]["method"], configs / "method" / f"{record['method']}.yaml"
    version = method.get("version", 1)
    version_override = {"version": str(version)} if version != read_defaults(defaults).get("version", 1) else {}
    composed = composed_overrides(method, configs / "method", differing, is_tuned=is_tuned)
    if composed is not None:
        return composed | version_override
    settings = fixed_settings(record) if is_tuned else flatten(method)
    recipe = within(recipe_of(record, configs), "method")
    if recipe:
        return differing(settings, {**read_defaults(defaults), **recipe}) | version_override
    overrides = changed_settings(settings, defaults)
    if overrides and (variant := variant_of(json.dumps(settings), record["method"], configs)):
        overrides = {"variant": variant}
    return overrides | version_override


def fixed_settings(record: ValidRecord) -> dict[str, Any]:
    """Returns the method's settings, by their dotted names, that `hparams=best` did not select."""
    fixed = record["config"].get("hparams_fixed", ())
    settings = flatten(record["config"]["method"]).items()
    return {name: value for name, value in settings if is_inside(f"method.{name}", fixed)}


@lru_cache(maxsize=4096)
def variant_of(settings: str, method: str, configs: Path) -> str | None:
    """Returns the variant whose YAML makes these settings, as JSON, of the method's; None if there is none."""
    defaults = read_defaults(configs / "method" / f"{method}.yaml")
    actual = {**defaults, **json.loads(settings)}
    for path in sorted((configs / "variant").glob(f"{method}_*.yaml")):
        if {**defaults, **within(read_defaults(path), "method")} == actual:
            return path.stem.removeprefix(f"{method}_")
    return None


def recipe_overrides(record: ValidRecord, configs: Path, *, is_tuned: bool) -> dict[str, str]:
    """Returns the training settings that differ from the YAML; those that were tuned on val200 are not listed.

    A recipe that reproduces a published row is named, and compared with its own YAML for the task.
    """
    train = {name: value for name, value in record["config"]["train"].items() if name not in ("recipe", "published")}
    augmented = augmentation_settings(train.pop("augmentation", None), configs)
    if recipe := within(recipe_of(record, configs), "train"):
        overrides = {"recipe": str(recipe["recipe"]), **differing(train, recipe), **augmented}
    else:
        overrides = changed_settings(train, configs / "train" / "common.yaml") | augmented
    if not is_tuned:
        return overrides
    length = {name: value for name, value in overrides.items() if name in ("epochs", "epoch_images")}
    return {"settings": "tuned on val200", **length}


def augmentation_settings(augmentation: Mapping[str, Any] | None, configs: Path) -> dict[str, str]:
    """Returns the name of an augmentation's YAML and the settings that differ from it; none without augmentation."""
    if augmentation is None:
        return {}
    name = str(augmentation.get("name"))
    return {"augmentation": name} | changed_settings(augmentation, configs / "augmentation" / f"{name}.yaml")


def recipe_of(record: ValidRecord, configs: Path) -> Mapping[str, Any]:
    """Returns the settings of the recipe that a record names, for its task; none if it names none."""
    name = record["config"]["train"].get("recipe")
    return recipe_settings(configs / "train" / f"{name}.yaml", record["task"]) if name else {}


def within(settings: Mapping[str, Any], group: str) -> dict[str, Any]:
    """Returns the dotted settings of a group, without its name in front."""
    return {name[len(group) + 1 :]: value for name, value in settings.items() if name.startswith(f"{group}.")}


def normalization_name(record: ValidRecord) -> str:
    """Returns the name of a record's normalization, or its mean and std."""
    mean, std = (tuple(record["preprocess"][name]) for name in ("mean", "std"))
    return NORMALIZATIONS.get((mean, std), f"mean {format_value(list(mean))} std {format_value(list(std))}")


def changed_settings(config: Mapping[str, Any], defaults: Path) -> dict[str, str]:
    """Returns the settings that differ from a YAML file, by their last names; all of them if there is no file."""
    return dict(changed_settings_of(json.dumps(config), defaults))


@lru_cache(maxsize=4096)
def changed_settings_of(config: str, defaults: Path) -> Mapping[str, str]:
    """Returns the same of a config as JSON, once for all records that share it."""
    return differing(json.loads(config), read_defaults(defaults))


def differing(config: Mapping[str, Any], standard: Mapping[str, Any]) -> dict[str, str]:
    """Returns the settings that differ from dotted ones, by their last names."""
    changed = {
        name: value for name, value in flatten(config).items() if name not in standard or standard[name] != value
    }
    return {name.rpartition(".")[2]: format_value(value) for name, value in changed.items()}


@lru_cache
def read_defaults(path: Path) -> Mapping[str, Any]:
    """Returns the settings in a YAML file with dotted names; none if there is no file, or if it cannot be read."""
    try:
        return flatten(read_yaml(path)) if path.exists() else {}
    except UserError as error:
        print(f"passed over: {error}", file=sys.stderr)
        return {}


def format_value(value: Any) -> str:
    """Returns a setting's value as it is written in a row's name."""
    if isinstance(value, list):
        return "+".join(map(format_value, value))
    return f"{value:g}" if isinstance(value, float) else str(value)
