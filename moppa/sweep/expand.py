"""Expands the overrides of a multirun into the resolved config of every cell, as Hydra does but much faster."""

import copy
import itertools
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hydra import compose, initialize_config_dir
from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.errors import HydraException
from omegaconf import OmegaConf

from moppa.utils.config import to_plain
from moppa.utils.errors import UserError

ENVIRONMENT = re.compile(r"\$\{(env|oc\.env|oc\.decode):")  # interpolations that refer to no other value of the config


@dataclass(frozen=True, kw_only=True)
class Expansion:
    """The overrides of a multirun, split into those of every cell and those that differ from cell to cell."""

    fixed: list[str]
    combinations: list[tuple[str, ...]]  # for each cell, in Hydra's order, one override of every swept key
    parsed: dict[str, Override]  # every override of the combinations


def expand_cells(configs: Path, overrides: Sequence[str]) -> list[dict[str, Any]]:
    """Returns the resolved config of every cell of `python run.py -m OVERRIDES`, in the order in which they run.

    Raises:
        HydraException: if Hydra does not understand an override.
        UserError: if a search has no fixed cells, or a config cannot be resolved.
    """
    with initialize_config_dir(version_base="1.3", config_dir=str(configs)):
        return list(resolve_cells(expand_overrides(overrides), configs))


def count_cells(folders: Sequence[Path], overrides: Sequence[str]) -> int | None:
    """Returns how many cells `python run.py -m OVERRIDES` runs, with the config groups in `folders`.

    None if their number is not fixed, as in a search, or if Hydra does not understand an override.
    """
    first, *others = folders
    search_path = f"hydra.searchpath=[{','.join(f'file://{folder.absolute()}' for folder in others)}]"
    try:
        with initialize_config_dir(version_base="1.3", config_dir=str(first)):
            return len(expand_overrides([*overrides, *([search_path] if others else [])]).combinations)
    except (HydraException, UserError, OSError):
        return None


def expand_overrides(overrides: Sequence[str]) -> Expansion:
    """Expands overrides, with the parameters of a named sweep, into all combinations. Hydra must be initialized."""
    parser = OverridesParser.create(config_loader=GlobalHydra.instance().config_loader())
    parsed = parser.parse_overrides(list(overrides))
    check_discrete(parsed)
    fixed = [text for text, override in zip(overrides, parsed, strict=True) if not override.is_sweep_override()]
    swept = [text for text, override in zip(overrides, parsed, strict=True) if override.is_sweep_override()]
    params = sweep_params([*fixed, *(first_choice(override) for override in parsed if override.is_sweep_override())])
    given_keys = {override.get_key_element() for override in parsed}  # the command overrides the named sweep
    from_sweep = [f"{key}={values}" for key, values in params.items() if key not in given_keys]
    lists = parser.parse_overrides([*from_sweep, *swept])
    check_discrete(lists)
    [split] = BasicSweeper.split_arguments(lists, None)
    combinations = [tuple(combination) for combination in split]
    choices = dict.fromkeys(itertools.chain(*combinations))
    return Expansion(
        fixed=fixed,
        combinations=combinations,
        parsed={choice: parser.parse_override(choice) for choice in choices},
    )


def check_discrete(overrides: Sequence[Override]) -> None:
    """Raises `UserError` for an override such as `interval(0, 1)`, which only a search algorithm can sample."""
    for override in overrides:
        if override.is_sweep_override() and not override.is_discrete_sweep():
            raise UserError(f"{override.input_line}: a search over a range has no fixed number of cells to plan")


def first_choice(override: Override) -> str:
    """Returns the first choice of a swept override, as an override."""
    return f"{override.get_key_element()}={next(iter(override.sweep_string_iterator()))}"


def sweep_params(overrides: Sequence[str]) -> Mapping[str, str]:
    """Returns what the named sweep among the overrides varies: the values of each key, comma-separated."""
    config = compose("cell", overrides=list(overrides), return_hydra_config=True)
    if not config.hydra.sweeper._target_.endswith(".BasicSweeper"):
        raise UserError("a search over settings chooses its cells from the results of others: there is nothing to plan")
    return OmegaConf.to_container(config.hydra.sweeper.params or OmegaConf.create({}))  # type: ignore[return-value]


def resolve_cells(expansion: Expansion, configs: Path) -> Iterator[dict[str, Any]]:
    """Yields one resolved config per combination. Each choice of a config group is composed only once."""
    keys = [expansion.parsed[choice].key_or_group for choice in expansion.combinations[0]]
    groups = [key for key in dict.fromkeys(keys) if (configs / key).is_dir()]
    base, changes = compose_choices(expansion, groups)
    has_references = any("${" in ENVIRONMENT.sub("", json.dumps(nodes)) for nodes in (base, *changes.values()))
    if not has_references:  # a node then has the same values in every cell, so resolve it once
        base = to_plain(OmegaConf.create(base))
        changes = {choice: to_plain(OmegaConf.create(nodes)) for choice, nodes in changes.items()}
    for combination in expansion.combinations:
        config = dict(base)
        for group in groups:
            config |= changes[choices_of(expansion, combination, group)]
        overrides = [expansion.parsed[choice] for choice in combination]
        values = [override for override in overrides if override.key_or_group not in groups]
        yield with_values(config, values, has_references=has_references)


def choices_of(expansion: Expansion, combination: Sequence[str], group: str) -> tuple[str, ...]:
    """Returns the choices of one group: `method=compose`, and `method@PLACE=lora` for the methods that it composes."""
    return tuple(choice for choice in combination if expansion.parsed[choice].key_or_group == group)


def compose_choices(
    expansion: Expansion, groups: Sequence[str]
) -> tuple[dict[str, Any], dict[tuple[str, ...], dict[str, Any]]]:
    """Returns the unresolved nodes of the first cell, and by the choices of each group the nodes that they change."""

    def nodes(choices: Mapping[str, Sequence[str]]) -> dict[str, Any]:
        config = compose("cell", overrides=[*expansion.fixed, *itertools.chain(*choices.values())])
        return OmegaConf.to_container(config)  # type: ignore[return-value]

    first = {group: choices_of(expansion, expansion.combinations[0], group) for group in groups}
    base = nodes(first)
    changes = {}
    for group in groups:
        for choices in {choices_of(expansion, combination, group) for combination in expansion.combinations}:
            changed = nodes({**first, group: choices})
            changes[choices] = {name: node for name, node in changed.items() if node != base.get(name)}
    return base, changes


def with_values(config: dict[str, Any], values: Sequence[Override], *, has_references: bool) -> dict[str, Any]:
    """Returns a resolved copy of a config with single values overridden."""
    if has_references:  # a value may be used elsewhere in the config, which OmegaConf resolves
        node = OmegaConf.create(config)
        for override in values:
            OmegaConf.update(node, override.key_or_group, override.value(), force_add=override.is_add())
        return to_plain(node)
    config = copy.deepcopy(config)
    for override in values:
        set_value(config, override)
    return config


def set_value(config: dict[str, Any], override: Override) -> None:
    """Sets a value in place. Raises `UserError` if the config has no such setting."""
    *path, last = override.key_or_group.split(".")
    node: Any = config
    for name in path:
        node = node.get(name, {})
    keys = {
        str(key): key for key in (range(len(node)) if isinstance(node, list) else node)
    }  # also of an entry of a list
    if last not in keys and not override.is_add():
        method = config["method"]["name"]
        raise UserError(f"{override.input_line}: a cell of {method} has no setting {override.key_or_group}")
    node[keys.get(last, last)] = override.value()
