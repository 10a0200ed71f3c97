"""The rows of a table: one setting of one method each, called by the method's name and by what differs from its YAML.

What else differs from the YAMLs stands in the caption where all rows share it, and in the row's name where they do not.
"""

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf

from moppa.report.load import Excluded, ValidRecord, exclude_record

# Normalizations that have a name, by their (mean, std).
NORMALIZATIONS = {
    ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)): "ImageNet",
    ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5)): "0.5",
    ((0.0, 0.0, 0.0), (1.0, 1.0, 1.0)): "none",
}


@dataclass(frozen=True, kw_only=True)
class RowRecords:
    """A row's records, by task and then in the order of their seeds."""

    name: str
    method: str
    own: Mapping[str, str]
    cells: Mapping[str, Sequence[ValidRecord]] = field(repr=False)

    @property
    def records(self) -> list[ValidRecord]:
        return [one for cell in self.cells.values() for one in cell]

    def without(self, places: set[str]) -> "RowRecords":
        """The same row less the records of some places."""
        left = {task: [one for one in cell if one.place not in places] for task, cell in self.cells.items()}
        return replace(self, cells={task: cell for task, cell in left.items() if cell})

    @property
    def params(self) -> float:
        """Trainable parameters without the head, the mean over tasks where their sizes differ."""
        sizes = [cell[0]["trainable_params"] for cell in self.cells.values()]
        return sum(sizes) / len(sizes) if sizes else 0


def group_rows(
    records: Sequence[ValidRecord], configs: Path
) -> tuple[dict[str, str], list[RowRecords], list[Excluded]]:
    """What all rows share beyond the YAMLs, the rows in order of size, and what had to be left out of them."""
    around = [surroundings(one, configs) for one in records]
    first = around[0] if around else {}
    shared = {name: value for name, value in first.items() if all(other.get(name) == value for other in around)}
    rows: dict[str, list[ValidRecord]] = defaultdict(list)
    owns: dict[str, dict[str, str]] = {}
    for one, setting in zip(records, around, strict=True):
        own = (
            {} if is_tuned(one) else differences(one["config"]["method"], configs / "method" / f"{one['method']}.yaml")
        )
        own |= {name: value for name, value in setting.items() if name not in shared}
        name = one["method"] + (f" ({', '.join(f'{key} {value}' for key, value in own.items())})" if own else "")
        rows[name].append(one)
        owns[name] = own
    settings, left_out = [], []
    for name, members in rows.items():
        cells, mixed = cells_of(name, members)
        left_out += mixed
        settings.append(RowRecords(name=name, method=members[0]["method"], own=owns[name], cells=cells))
    return shared, sorted(settings, key=order), left_out


def order(setting: RowRecords) -> tuple[float, str, str]:
    """Rows stand in order of their trainable parameters without the head, then of their names."""
    return setting.params, setting.method, setting.name


def cells_of(name: str, members: Iterable[ValidRecord]) -> tuple[dict[str, list[ValidRecord]], list[Excluded]]:
    """The records of each task in order of seed. A task whose records were run in several ways is left out whole."""
    by_task: dict[str, list[ValidRecord]] = defaultdict(list)
    for one in sorted(members, key=lambda one: one["seed"]):
        by_task[one["task"]].append(one)
    cells, left_out = {}, []
    for task, cell in by_task.items():
        if len({one["key"] for one in cell}) == 1:
            cells[task] = cell
        else:
            reason = f"the records of {name} on {task} are mixed: they differ in {', '.join(apart(cell))}"
            left_out += [exclude_record(one, f"{reason}; keep those of one key") for one in cell]
    return cells, left_out


def apart(cell: Sequence[ValidRecord]) -> list[str]:
    """The settings in which records differ, by their dotted names."""
    flats = [flat(one["config"]) | {"weights": one["weights"]["sha256"]} for one in cell]
    names = dict.fromkeys(name for one in flats for name in one)
    return [name for name in names if name != "seed" and len({str(one.get(name)) for one in flats}) > 1]


def surroundings(one: ValidRecord, configs: Path) -> dict[str, str]:
    """What a record's outcome rests on besides method, task and seed: what differs from the YAMLs, data and weights."""
    config = one["config"]
    backbone = {name: value for name, value in config["backbone"].items() if name != "weights"}
    return {
        "data lineage": one["split"]["lineage"],
        "normalization": normalization_of(one),
        "weights": f"{one['weights']['name']} (sha256 {one['weights']['sha256'][:12]})",
        **differences(backbone, configs / "backbone" / f"{one['backbone']}.yaml"),
        **recipe_of(one, configs),
    }


def recipe_of(one: ValidRecord, configs: Path) -> dict[str, str]:
    """What differs from the YAML's recipe. What was chosen on val200, task by task, is no name of a row."""
    found = differences(one["config"]["train"], configs / "train" / "common.yaml")
    if not is_tuned(one):
        return found
    return {"settings": "tuned on val200", **{name: value for name, value in found.items() if name == "epochs"}}


def is_tuned(one: ValidRecord) -> bool:
    """Whether a record says that its settings, the length of the training apart, were chosen by records of val200."""
    return bool(one.content.get("tuned"))


def normalization_of(one: ValidRecord) -> str:
    """The name of a record's normalization, or its numbers."""
    mean, std = (tuple(one["preprocess"][name]) for name in ("mean", "std"))
    return NORMALIZATIONS.get((mean, std), f"mean {text_of(list(mean))} std {text_of(list(std))}")


def differences(config: Mapping[str, Any], defaults: Path) -> dict[str, str]:
    """The settings whose values are not the YAML's, by their last names; all of them where the YAML is gone."""
    standard = standard_of(defaults)
    found = {name: value for name, value in flat(config).items() if name not in standard or standard[name] != value}
    return {name.rpartition(".")[2]: text_of(value) for name, value in found.items()}


@lru_cache
def standard_of(defaults: Path) -> Mapping[str, Any]:
    """What a YAML says, with dotted names; nothing where it is gone."""
    return flat(OmegaConf.to_container(OmegaConf.load(defaults))) if defaults.exists() else {}


def flat(config: Any, prefix: str = "") -> dict[str, Any]:
    """A nested config with dotted names."""
    leaves: dict[str, Any] = {}
    for name, value in config.items():
        leaves |= flat(value, f"{prefix}{name}.") if isinstance(value, Mapping) else {f"{prefix}{name}": value}
    return leaves


def text_of(value: Any) -> str:
    """A setting's value as a row's name shows it."""
    if isinstance(value, list):
        return "+".join(map(text_of, value))
    return f"{value:g}" if isinstance(value, float) else str(value)
