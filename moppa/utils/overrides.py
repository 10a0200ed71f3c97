"""Overrides as people type them: paths and names that Hydra's grammar does not allow are put in quotes."""

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException

from moppa.utils.errors import UserError

STARTS_OF_VALUES = ("[", "{", "'", '"', "$")  # lists, dicts, quotes and interpolations are not quoted again


def quoted(words: Sequence[str], configs: Path, *, is_multirun: bool) -> list[str]:
    """Returns overrides that Hydra understands, with quotes around values such as ~/data, /data/été (1) or /a=b.

    The choice of a config group is always a name, so `method=1e3` and `task=null` become `method='1e3'` and
    `task='null'`. What is still not understood stays as it is, and Hydra says why.

    Raises:
        UserError: in a multirun, if a value has to be quoted and contains a comma, which may separate values.
    """
    parser = OverridesParser.create()
    return [quoted_word(word, parser, configs, is_multirun=is_multirun) for word in words]


def quoted_word(word: str, parser: OverridesParser, configs: Path, *, is_multirun: bool) -> str:
    """Returns one override with quotes around its value if it needs them."""
    name, equals, value = word.partition("=")
    if not equals or value.startswith(STARTS_OF_VALUES) or not needs_quotes(word, name, parser, configs):
        return word
    # in quotes, Hydra's grammar doubles backslashes before a quote and at the end
    escaped = re.sub(r"(\\*)('|$)", lambda found: found[1] * 2 + (f"\\{found[2]}" if found[2] else ""), value)
    candidate = f"{name}='{escaped}'"
    if parsed(candidate, parser) is None:
        return word
    if is_multirun and "," in value:
        raise UserError(f"{word}: quote each value, as in \"{name}='A','B'\", or all of it if the comma belongs to it")
    return candidate


def needs_quotes(word: str, name: str, parser: OverridesParser, configs: Path) -> bool:
    """Returns whether Hydra does not understand an override, or reads the choice of a config group as no name."""
    override = parsed(word, parser)
    if override is None:
        return True
    is_group = name.isidentifier() and (configs / name).is_dir()
    return is_group and not override.is_sweep_override() and not isinstance(override.value(), (str, list))


def parsed(word: str, parser: OverridesParser) -> Any:
    """Returns an override as Hydra parses it, or None if it cannot."""
    try:
        return parser.parse_override(word)
    except HydraException:
        return None
