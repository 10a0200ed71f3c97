"""`hparams=best`: the setting that did best on val200, as the records of `protocol=tune` prove it."""

import copy
import json
from collections.abc import Iterator, Mapping
from fractions import Fraction
from pathlib import Path
from typing import Any

from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig, OmegaConf

from moppa.record.cell import Cell
from moppa.record.schema import NEUTRAL, read_record, without_entries
from moppa.utils import validate
from moppa.utils.atomic import sha256_file
from moppa.utils.errors import UserError

# A tuned setting is the recipe, the length of the training apart, and the method's own values.
TUNED = ("train", "method")
ASKED = "train.epochs"

Group = dict[int, tuple[Path, dict[str, Any]]]  # by seed: a record and where it lies


def select_hparams(config: DictConfig, *, weights_sha256: str) -> tuple[DictConfig, dict[str, Any] | None]:
    """The config to run, and what its choice of settings rests on: None where they are as given.

    Under `hparams=best` the settings of all tune records of this backbone, weights, method, task, lineage and number
    of epochs are compared by their mean accuracy on val200 over the seeds that all of them have; of equals the one
    with fewer trainable parameters is taken.

    Raises:
        UserError: where nothing was tuned, or a setting is both given and to be chosen, or a search over settings
            would go by something else than val200.
    """
    check_search(config)
    if validate.one_of("hparams", config.hparams, ("given", "best")) == "given":
        return config, None
    check_asked(config)
    records = Path(config.run.results).expanduser() / "records"
    groups = settings_of(config, records, weights_sha256)
    seeds = set.intersection(*map(set, groups.values())) if groups else set()
    if not seeds:
        raise nothing_tuned(config, records, groups)

    def rank(setting: str) -> tuple[Fraction, int, str]:
        found = [groups[setting][seed][1] for seed in seeds]
        return -accuracy(found), found[0]["trainable_params"], setting

    order = sorted(groups, key=rank)
    best = groups[order[0]]
    taken = copy.deepcopy(config)
    for part in TUNED:
        OmegaConf.update(taken, part, json.loads(order[0])[part], merge=False)
    return taken, {
        "val200": float(-rank(order[0])[0]),
        "seeds": sorted(seeds),
        "num_settings": len(groups),
        "records": {
            best[seed][0].relative_to(records).as_posix(): sha256_file(best[seed][0]) for seed in sorted(seeds)
        },
        "beaten": {setting_key(groups[other]): float(-rank(other)[0]) for other in order[1:]},
    }


def val200_accuracy(cell: Cell) -> float | None:
    """What a search over settings goes by: a tune cell's accuracy. None for all others, and where it is not done."""
    if cell.config["protocol"]["name"] != "tune" or not cell.is_done:
        return None
    return float(accuracy([read_record(cell.record)]))


def check_search(config: DictConfig) -> None:
    """Refuses, before any image is read, a search that has nothing honest to go by."""
    if HydraConfig.initialized() and "optuna" in HydraConfig.get().sweeper._target_ and config.protocol.name != "tune":
        raise UserError(
            f"a search with protocol={config.protocol.name}: settings are chosen on val200, by protocol=tune"
        )


def check_asked(config: DictConfig) -> None:
    """Refuses what would be silently replaced."""
    if config.protocol.name == "tune":
        raise UserError("hparams=best with protocol=tune: what is best is being tuned; choose protocol=final")
    given = HydraConfig.get().overrides.task if HydraConfig.initialized() else ()
    for override in given:
        if override.startswith(tuple(f"{part}." for part in TUNED)) and not override.startswith(f"{ASKED}="):
            raise UserError(f"{override} beside hparams=best, which chooses it: leave one of the two out")


def settings_of(config: DictConfig, records: Path, weights_sha256: str) -> dict[str, Group]:
    """The tune records that answer a config, by setting (as JSON) and seed."""
    groups: dict[str, Group] = {}
    for path, one in tune_records(config, records):
        if one["weights"]["sha256"] == weights_sha256 and surroundings(one["config"]) == surroundings(plain(config)):
            setting = json.dumps({part: one["config"][part] for part in TUNED}, sort_keys=True)
            groups.setdefault(setting, {})[one["seed"]] = (path, one)
    return groups


def tune_records(config: DictConfig, records: Path) -> Iterator[tuple[Path, dict[str, Any]]]:
    """The tune records of a config's suite, backbone, task and method, whatever else differs."""
    place = records / config.task.suite / config.backbone.name / config.task.name / config.method.name
    for path in sorted(place.glob("*/seed*.json")):
        one = read_record(path)
        if one["protocol"] == "tune":
            yield path, one


def surroundings(config: Mapping[str, Any]) -> dict[str, Any]:
    """What two cells must share for a setting of the one to be a setting of the other."""
    return {**without_entries(config, (*NEUTRAL, "protocol", *TUNED)), "epochs": config["train"]["epochs"]}


def plain(config: DictConfig) -> dict[str, Any]:
    """A config as a record keeps it."""
    resolved: Any = OmegaConf.to_container(config, resolve=True)
    return resolved


def accuracy(records: list[dict[str, Any]]) -> Fraction:
    """The mean accuracy, exactly, so that equals are equal."""
    return sum((Fraction(one["correct"], one["total"]) for one in records), Fraction(0)) / len(records)


def setting_key(group: Group) -> str:
    """The key that the cells of a setting share."""
    return next(iter(group.values()))[1]["key"]


def nothing_tuned(config: DictConfig, records: Path, groups: Mapping[str, Group]) -> UserError:
    """Why there is no best setting, and how there could be one."""
    what = f"{config.backbone.name} {config.method.name} {config.task.name}"
    if groups:
        return UserError(f"hparams=best: the {len(groups)} tuned settings of {what} share no seed; complete the tuning")
    others = sorted({one["config"]["train"]["epochs"] for _, one in tune_records(config, records)})
    hint = (
        f"; there are tune records of train.epochs={others}, of these or of other images or weights" if others else ""
    )
    return UserError(
        f"hparams=best: nothing was tuned for {what} with train.epochs={config.train.epochs} in {records}{hint}; "
        f"run it with protocol=tune first, or with hparams=given"
    )
