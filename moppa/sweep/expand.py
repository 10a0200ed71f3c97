"""The cells that the words of a command mean, composed as Hydra composes them but each choice of a group only once."""

import copy
import itertools
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from hydra import compose, initialize_config_dir
from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from moppa.utils.errors import UserError

Choice = tuple[Override, ...]
ENVIRONMENT = re.compile(r"\$\{oc\.(env|decode):")  # what refers to no other value of the config


def expand_cells(configs: Path, words: Sequence[str]) -> list[dict[str, Any]]:
    """The resolved config of every cell of `python run.py -m WORDS`, in the order in which it would run them.

    Raises:
        HydraException: for words that run.py would not understand either.
        UserError: for a search space without a fixed number of cells.
    """
    with initialize_config_dir(version_base="1.3", config_dir=str(configs)):
        parser = OverridesParser.create(config_loader=GlobalHydra.instance().config_loader())
        given = parser.parse_overrides(list(words))
        fixed = [word for word, one in zip(words, given, strict=True) if not one.is_sweep_override()]
        swept = [word for word, one in zip(words, given, strict=True) if one.is_sweep_override()]
        check_discrete(given)
        params = params_of(fixed, [first_of(one) for one in given if one.is_sweep_override()])
        named = {one.get_key_element() for one in given}  # the command's word counts, not the named sweep's
        varied = [f"{name}={values}" for name, values in params.items() if name not in named]
        lists = parser.parse_overrides([*varied, *swept])
        check_discrete(lists)
        [combinations] = BasicSweeper.split_arguments(lists, None)
        parsed = {word: parser.parse_override(word) for word in set(itertools.chain(*combinations))}
        choices = [tuple(parsed[word] for word in words) for words in combinations]
        return list(assembled(choices, fixed, configs))


def check_discrete(overrides: Sequence[Override]) -> None:
    """Refuses a search space that only a search can walk."""
    for one in overrides:
        if one.is_sweep_override() and not one.is_discrete_sweep():
            raise UserError(f"{one.input_line}: a search over a range has no fixed number of cells to plan")


def params_of(fixed: Sequence[str], firsts: Sequence[str]) -> Mapping[str, str]:
    """What a named sweep varies."""
    config = compose("cell", overrides=[*fixed, *firsts], return_hydra_config=True)
    return OmegaConf.to_container(config.hydra.sweeper.params or OmegaConf.create({}))  # type: ignore[return-value]


def first_of(override: Override) -> str:
    """The first of the choices of a swept override, as an override."""
    return f"{override.get_key_element()}={next(iter(override.sweep_string_iterator()))}"


def assembled(choices: Sequence[Choice], fixed: Sequence[str], configs: Path) -> Iterator[dict[str, Any]]:
    """One resolved config for each combination: the nodes that its choices of groups bring, then its values."""
    groups = [word.key_or_group for word in choices[0] if is_group(word, configs)]
    standard = {word.key_or_group: word.input_line for word in choices[0] if word.key_or_group in groups}
    base = nodes([*fixed, *standard.values()])
    brought: dict[str, dict[str, Any]] = {}
    for word in {
        word.input_line: word for choice in choices for word in choice if word.key_or_group in groups
    }.values():
        found = nodes([*fixed, *({**standard, word.key_or_group: word.input_line}).values()])
        brought[word.input_line] = {name: node for name, node in found.items() if node != base.get(name)}

    refers = any("${" in ENVIRONMENT.sub("", text) for text in map(json.dumps, (base, brought)))
    if not refers:  # then a part means the same in every cell, and is resolved once
        base = resolved(OmegaConf.create(base))
        brought = {line: resolved(OmegaConf.create(part)) for line, part in brought.items()}
    for choice in choices:
        config = dict(base)
        for word in choice:
            config |= brought.get(word.input_line, {})
        values = [word for word in choice if word.key_or_group not in groups]
        if refers:  # from one value to another: only OmegaConf knows the way
            whole = OmegaConf.create(config)
            for word in values:
                OmegaConf.update(whole, word.key_or_group, word.value(), force_add=word.is_add())
            config = resolved(whole)
        else:
            config = copy.deepcopy(config)
            for word in values:
                put(config, word)
        yield config


def resolved(config: DictConfig) -> dict[str, Any]:
    """A config without interpolations."""
    try:
        return OmegaConf.to_container(config, resolve=True, throw_on_missing=True)  # type: ignore[return-value]
    except OmegaConfBaseException as error:
        raise UserError(str(error).splitlines()[0]) from error


def nodes(words: Sequence[str]) -> dict[str, Any]:
    """The top of a composed config, each part plain and unresolved."""
    return OmegaConf.to_container(compose("cell", overrides=list(words)))  # type: ignore[return-value]


def is_group(word: Override, configs: Path) -> bool:
    """Whether an override chooses a YAML and not a value."""
    return (configs / word.key_or_group).is_dir()


def put(config: dict[str, Any], word: Override) -> None:
    """Sets a value, where there is one to set."""
    *path, last = word.key_or_group.split(".")
    node = config
    for name in path:
        node = node.get(name, {})
    if last not in node and not word.is_add():
        raise UserError(f"{word.input_line}: there is no {word.key_or_group} in a cell of {config['method']['name']}")
    node[last] = word.value()
