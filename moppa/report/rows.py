"""Groups records into rows: one row for each method and setting, over all tasks and seeds.

A row is named by its method and by the settings that differ from the method's YAML. Other settings that differ from the
YAML files are in the table's caption if all rows share them, and in the row's name otherwise.
"""

import json
import sys
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from fractions import Fraction
from functools import lru_cache
from pathlib import Path
from typing import Any

from moppa.record.task_changes import recorded_task_changes
from moppa.report.budget import Budget, cell_budget
from moppa.report.load import Excluded, ValidRecord, exclude_record
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


@dataclass(frozen=True, kw_only=True)
class RowRecords:
    """The records of a row by task, in the order of their seeds; `overrides` are the settings in its name.

    If the records' tasks differ from their YAMLs, the row is not comparable: it has no marks and no means. If the row
    is tuned, its settings were chosen on val200, for each task.
    """

    name: str
    method: str
    overrides: Mapping[str, str]
    by_task: Mapping[str, Sequence[ValidRecord]] = field(repr=False)
    is_comparable: bool = True
    is_tuned: bool = False

    @property
    def records(self) -> list[ValidRecord]:
        return [record for records in self.by_task.values() for record in records]

    @property
    def params(self) -> Fraction:
        """The trainable parameters without the head: the mean over the tasks."""
        sizes = [records[0]["trainable_params"] for records in self.by_task.values()]
        return Fraction(sum(sizes), len(sizes)) if sizes else Fraction(0)

    @property
    def budgets(self) -> dict[str, Budget]:
        """The budget of the cells of each task."""
        return {task: cell_budget(records) for task, records in self.by_task.items()}

    def without(self, relative_paths: set[str]) -> "RowRecords":
        """Returns the same row without the records at some paths."""
        rest = {
            task: [record for record in records if record.relative_path not in relative_paths]
            for task, records in self.by_task.items()
        }
        return replace(self, by_task={task: records for task, records in rest.items() if records})


def group_rows(
    records: Sequence[ValidRecord], configs: Path
) -> tuple[dict[str, str], list[RowRecords], list[Excluded]]:
    """Returns the settings that all rows share, the rows from smallest to largest, and the excluded records."""
    tuned = {cell_of(record) for record in records if record.content.get("tuned")}
    are_tuned = [cell_of(record) in tuned for record in records]
    settings = [run_settings(rec, configs, is_tuned=is_tuned) for rec, is_tuned in zip(records, are_tuned, strict=True)]
    first = settings[0] if settings else {}
    shared = {
        name: value
        for name, value in first.items()
        if name != CHANGED_TASK and all(other.get(name) == value for other in settings)
    }
    members: dict[str, list[ValidRecord]] = defaultdict(list)
    overrides_by_name: dict[str, dict[str, str]] = {}
    for record, setting, is_tuned in zip(records, settings, are_tuned, strict=True):
        overrides = method_overrides(record, configs, is_tuned=is_tuned)
        overrides |= {name: value for name, value in setting.items() if name not in shared}
        suffix = f" ({', '.join(f'{key} {value}' for key, value in overrides.items())})" if overrides else ""
        name = record["method"] + suffix
        members[name].append(record)
        overrides_by_name[name] = overrides
    rows, excluded = [], []
    for name, of_row in members.items():
        by_task, mixed = group_by_task(name, of_row)
        excluded += mixed
        method, overrides = of_row[0]["method"], overrides_by_name[name]
        rows.append(
            RowRecords(
                name=name,
                method=method,
                overrides=overrides,
                by_task=by_task,
                is_comparable=CHANGED_TASK not in overrides,
                is_tuned=cell_of(of_row[0]) in tuned,
            )
        )
    return shared, sorted(rows, key=lambda row: (row.params, row.method, row.name)), excluded


def group_by_task(name: str, records: Iterable[ValidRecord]) -> tuple[dict[str, list[ValidRecord]], list[Excluded]]:
    """Returns a row's records of each task by seed. A task whose records have different settings is excluded."""
    by_task: dict[str, list[ValidRecord]] = defaultdict(list)
    for record in sorted(records, key=lambda record: record["seed"]):
        by_task[record["task"]].append(record)
    consistent, excluded = {}, []
    for task, of_task in by_task.items():
        if len({record["key"] for record in of_task}) == 1:
            consistent[task] = of_task
        else:
            differing = ", ".join(differing_settings(of_task))
            reason = f"the records of {name} on {task} differ in {differing}; keep those of one key"
            excluded += [exclude_record(record, reason) for record in of_task]
    return consistent, excluded


def differing_settings(records: Sequence[ValidRecord]) -> list[str]:
    """Returns the dotted names of the settings in which records differ, without the seed."""
    settings = [
        flatten(record["config"]) | {"weights": record["weights"]["sha256"], "dtype": record["dtype"]}
        for record in records
    ]
    names = dict.fromkeys(name for setting in settings for name in setting)
    return [name for name in names if name != "seed" and len({str(setting.get(name)) for setting in settings}) > 1]


def cell_of(record: ValidRecord) -> tuple[str, str, str]:
    """Returns sender, task and key: all seeds with them are in one row, however their setting was found."""
    return record.sender, record["task"], record["key"]


def run_settings(record: ValidRecord, configs: Path, *, is_tuned: bool) -> dict[str, str]:
    """Returns what a record's result depends on besides method, task and seed: data, weights, changed settings."""
    backbone = {name: value for name, value in record["config"]["backbone"].items() if name != "weights"}
    return {
        "data lineage": record["split"]["lineage"],
        "normalization": normalization_name(record),
        "weights": f"{record['weights']['name']} (sha256 {record['weights']['sha256'][:12]})",
        "dtype": str(record["dtype"]),
        **changed_settings(backbone, configs / "backbone" / f"{record['backbone']}.yaml"),
        **recipe_overrides(record, configs, is_tuned=is_tuned),
        **draw_settings(record),
        **({"sender": record.sender} if record.sender else {}),
        **task_changes(record, configs),
    }


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

    Of a tuned record these are the version and what `hparams_fixed` names: the settings that were tuned on val200 are
    not listed.
    """
    method, defaults = record["config"]["method"], configs / "method" / f"{record['method']}.yaml"
    version = method.get("version", 1)
    is_other = version != read_defaults(defaults).get("version", 1)
    recipe = within(recipe_of(record, configs), "method")
    if recipe:
        overrides = differing(fixed_settings(record) if is_tuned else method, {**read_defaults(defaults), **recipe})
    else:
        overrides = changed_settings(fixed_settings(record) if is_tuned else method, defaults)
    return overrides | ({"version": str(version)} if is_other else {})


def fixed_settings(record: ValidRecord) -> dict[str, Any]:
    """Returns the method's settings, by their dotted names, that `hparams=best` did not select."""
    fixed = record["config"].get("hparams_fixed", ())
    settings = flatten(record["config"]["method"]).items()
    return {name: value for name, value in settings if is_inside(f"method.{name}", fixed)}


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
