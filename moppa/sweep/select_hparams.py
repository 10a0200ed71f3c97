"""`hparams=best`: selects the setting with the highest accuracy on val200 among the records of `protocol=tune`."""

import copy
import json
from collections.abc import Iterator, Mapping, Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any, NamedTuple

from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig, OmegaConf

from moppa.record.cell import Cell
from moppa.record.integrity import find_inconsistency, read_predictions
from moppa.record.schema import NEUTRAL, get_entry, identity_of, mean_accuracy, methods_of, read_record, without_entries
from moppa.utils import validate
from moppa.utils.atomic import sha256_file
from moppa.utils.errors import UserError
from moppa.utils.flatten import is_inside
from moppa.utils.paths import user_path

SELECTED = ("train", "method")  # the config nodes that make a setting, without the entries below
LENGTH = ("epochs", "epoch_images")  # of a training; the settings of another length are not those of this one
MISSING = object()
OBJECTIVES = (["maximize"], ["maximize", "minimize"])  # the accuracy on val200, and the trainable parameters
NOT_SELECTED = tuple(f"train.{name}" for name in LENGTH)


class TuneRecord(NamedTuple):
    """A record of `protocol=tune` and its path."""

    path: Path
    content: dict[str, Any]


Settings = dict[str, dict[int, TuneRecord]]  # by setting (as JSON) and seed


def select_hparams(config: DictConfig, *, weights_sha256: str) -> tuple[DictConfig, dict[str, Any] | None]:
    """Returns the config to run, and the evidence for its setting; `config` and None if the setting is given.

    Under `hparams=best` the settings in the tune records of the same backbone, weights, method, task, lineage and
    number of epochs, and with the same values of `hparams_fixed`, are compared by their mean accuracy on val200, over
    the seeds that all of them have. Among equal ones the one with the fewest trainable parameters is selected. Settings
    with more than `hparams_max_params` trainable parameters do not take part.

    Raises:
        UserError: if no setting was tuned, if an override sets what is to be selected, or if a search over settings
            would optimize another split than val200.
    """
    check_search(config)
    limit = config.get("hparams_max_params")
    if limit is not None:
        validate.integer("hparams_max_params", limit, minimum=0)
    if validate.one_of("hparams", config.hparams, ("given", "best")) == "given":
        if limit is not None:
            raise UserError(f"hparams_max_params={limit} limits what hparams=best selects: add hparams=best")
        return config, None
    check_fixed(config)
    check_overrides(config)
    records = user_path(config.run.results) / "records"
    settings = within_limit(tuned_settings(config, records, weights_sha256), limit)
    seeds = sorted(set.intersection(*map(set, settings.values()))) if settings else []
    if not seeds:
        raise no_tuning_error(config, records, settings)

    def rank(setting: str) -> tuple[Fraction, int, str]:
        contents = [settings[setting][seed].content for seed in seeds]
        return -mean_accuracy(contents), contents[0]["trainable_params"], setting

    best, *others = sorted(settings, key=rank)
    paths = [settings[best][seed].path for seed in seeds]
    evidence = {
        "val200": float(-rank(best)[0]),
        "seeds": seeds,
        "num_settings": len(settings),
        **({} if limit is None else {"max_params": limit}),
        "records": {path.relative_to(records).as_posix(): sha256_file(path) for path in paths},
        "beaten": {setting_key(settings[other]): float(-rank(other)[0]) for other in others},
    }
    return with_setting(config, json.loads(best)), evidence


def objectives(cell: Cell) -> float | tuple[float, int] | None:
    """Returns what a search over settings optimizes, or None for a cell of another protocol than tune.

    This is the accuracy on val200, and the number of trainable parameters too if the search has two directions.
    """
    if cell.config["protocol"]["name"] != "tune" or not cell.is_done:
        return None
    record = read_record(cell.record)
    accuracy = float(mean_accuracy([record]))
    return (accuracy, record["trainable_params"]) if len(search_directions()) == 2 else accuracy


def search_directions() -> list[str]:
    """Returns the directions of the search that Hydra runs; none if it runs none."""
    sweeper: Any = HydraConfig.get().sweeper if HydraConfig.initialized() else None
    if sweeper is None or "optuna" not in sweeper._target_:
        return []
    directions = list(sweeper.direction) if OmegaConf.is_list(sweeper.direction) else [sweeper.direction]
    return [str(getattr(direction, "name", direction)) for direction in directions]


def check_search(config: DictConfig) -> None:
    """Raises `UserError` before any image is read if a search over settings would optimize something else."""
    directions = search_directions()
    if directions and config.protocol.name != "tune":
        raise UserError(
            f"a search with protocol={config.protocol.name}: settings are chosen on val200, by protocol=tune"
        )
    if directions and directions not in OBJECTIVES:
        raise UserError(
            f"hydra.sweeper.direction={','.join(directions)}: a search has the accuracy on val200 to maximize, and may "
            f"have the trainable parameters to minimize: give maximize or [maximize,minimize]"
        )


def within_limit(settings: Settings, limit: int | None) -> Settings:
    """Returns the settings with at most so many trainable parameters, without the head.

    Raises:
        UserError: if there are settings, and none has so few.
    """
    params = {
        setting: max(record.content["trainable_params"] for record in of.values()) for setting, of in settings.items()
    }
    small = {setting: of for setting, of in settings.items() if limit is None or params[setting] <= limit}
    if settings and not small:
        raise UserError(
            f"hparams_max_params={limit}: the smallest tuned setting has {min(params.values()):,} parameters"
        )
    return small


def check_fixed(config: DictConfig) -> None:
    """Raises `UserError` if `hparams_fixed` names something else than settings of the recipe or the method."""
    for name in config.get("hparams_fixed", ()):
        if not is_inside(str(name), SELECTED) or OmegaConf.select(config, str(name), default=MISSING) is MISSING:
            raise UserError(
                f"hparams_fixed={name}: it must be settings of {' or '.join(SELECTED)} that the config has, "
                "such as method.attach or train.lr"
            )


def check_overrides(config: DictConfig) -> None:
    """Raises `UserError` if `hparams=best` would silently replace a setting of the command."""
    if config.protocol.name == "tune":
        raise UserError("hparams=best with protocol=tune: the tune records are its input; use protocol=final")
    overrides = HydraConfig.get().overrides.task if HydraConfig.initialized() else ()
    for override in overrides:
        name = override.partition("=")[0]
        is_setting = name not in SELECTED and is_inside(name, SELECTED)  # method=lora chooses a YAML
        if is_setting and not is_inside(name, [*NOT_SELECTED, *config.get("hparams_fixed", ())]):
            raise UserError(
                f"{override} with hparams=best, which selects this setting: remove one of the two, or select the "
                f"other settings for this value with hparams_fixed=[{name}]"
            )


def tuned_settings(config: DictConfig, records: Path, weights_sha256: str) -> Settings:
    """Returns the settings of the tune records that differ from `config` in nothing but the setting and the seed."""
    fixed = config.get("hparams_fixed", ())
    context = tuning_context(OmegaConf.to_container(config, resolve=True), fixed)
    settings: Settings = {}
    for record in tune_records(config, records):
        content = record.content
        if content["weights"]["sha256"] == weights_sha256 and tuning_context(content["config"], fixed) == context:
            setting = identity_of({node: content["config"][node] for node in SELECTED})
            settings.setdefault(json.dumps(setting, sort_keys=True), {})[content["seed"]] = record
    return settings


def tune_records(config: DictConfig, records: Path) -> Iterator[TuneRecord]:
    """Yields the tune records of the config's suite, backbone, task and method.

    Raises:
        UserError: if one of them contradicts itself or its predictions.
    """
    folder = records / config.task.suite / config.backbone.name / config.task.name / config.method.name
    for path in sorted(folder.glob("*/seed*.json")):
        content = read_record(path)
        if content["protocol"] == "tune":
            if problem := find_inconsistency(content):
                raise UserError(f"{path}: {problem}; delete it and run its cell again")
            read_predictions(path, content)
            yield TuneRecord(path, content)


def tuning_context(config: Any, fixed: Sequence[str]) -> dict[str, Any]:
    """Returns what two cells must have in common for a setting of one to be valid for the other."""
    common = identity_of(without_entries(config, (*NEUTRAL, "protocol", *SELECTED)))
    draw = {name: config["protocol"].get(name) for name in ("shots", "draw")}
    return {
        **common,
        **draw,
        **{name: identity_of(get_entry(config, name, None)) for name in fixed},
        **{name: config["train"].get(name) for name in LENGTH},
        "method_version": config["method"].get("version", 1),
        "composed": sorted(methods_of(config)[1:]),
    }


def with_setting(config: DictConfig, setting: Mapping[str, Any]) -> DictConfig:
    """Returns a copy of the config with a setting. Its Python paths stay, because a setting has none."""
    selected = copy.deepcopy(config)
    for node in SELECTED:
        OmegaConf.update(selected, node, setting[node], merge=True, force_add=True)
    return selected


def setting_key(setting: Mapping[int, TuneRecord]) -> str:
    """Returns the key that the tune cells of a setting share."""
    return next(iter(setting.values())).content["key"]


def no_tuning_error(config: DictConfig, records: Path, settings: Settings) -> UserError:
    """Returns the error that says why there is no best setting, and how to get one."""
    name = f"{config.backbone.name} {config.method.name} {config.task.name}"
    if settings:
        return UserError(
            f"hparams=best: the {len(settings)} tuned settings of {name} share no seed; tune all of them with one seed"
        )
    epochs = sorted({record.content["config"]["train"]["epochs"] for record in tune_records(config, records)})
    hint = f" (there are tune records with train.epochs={epochs}, or of other images or weights)" if epochs else ""
    shots = config.protocol.get("shots")
    tune = "protocol=tune" if shots is None else f"protocol=tune +protocol.shots={shots}"
    return UserError(
        f"hparams=best: nothing was tuned for {name} with train.epochs={config.train.epochs} in {records}{hint}; "
        f"run it with {tune} first, or with hparams=given"
    )
