"""Checks of setting values. Each returns the value or raises `SettingError`, which names the setting and the fix."""

import math
from collections.abc import Collection, Mapping, Sequence
from numbers import Integral, Real

from moppa.utils.errors import SettingError


def integer(setting: str, value: object, *, minimum: int) -> int:
    """Returns `value` if it is an integer of at least `minimum`."""
    if isinstance(value, bool) or not isinstance(value, Integral) or value < minimum:
        raise SettingError(setting, f"={value!r}: it must be an integer of at least {minimum}")
    return int(value)


def number(
    setting: str, value: object, *, minimum: float, maximum: float = math.inf, exclusive_minimum: bool = False
) -> float:
    """Returns `value` as a float if it is finite and in [minimum, maximum], or (minimum, maximum] if exclusive."""
    lower = f"{'above' if exclusive_minimum else 'at least'} {minimum:g}"
    wanted = f"={value!r}: it must be a number {lower}" + (f" and at most {maximum:g}" if maximum < math.inf else "")
    if isinstance(value, bool) or not isinstance(value, Real) or not math.isfinite(value):
        raise SettingError(setting, wanted)
    amount = float(value)
    if amount < minimum or amount > maximum or (exclusive_minimum and amount == minimum):
        raise SettingError(setting, wanted)
    return amount


def one_of(setting: str, value: object, options: Collection[str]) -> str:
    """Returns `value` if it is one of the named options."""
    if not isinstance(value, str) or value not in options:
        raise SettingError(setting, f"={value!r}: it must be one of {', '.join(options)}")
    return value


def subset(setting: str, values: Sequence[str], options: Collection[str]) -> list[str]:
    """Returns `values` as a list if it holds at least one of the options, each at most once."""
    for value in values:
        one_of(setting, value, options)
    if not values or len(set(values)) < len(values):
        raise SettingError(setting, f"={list(values)}: name at least one of {', '.join(options)}, each once")
    return list(values)


def boolean(setting: str, value: object) -> bool:
    """Returns `value` if it is true or false."""
    if not isinstance(value, bool):
        raise SettingError(setting, f"={value!r}: it must be true or false")
    return value


def text(setting: str, value: object) -> str:
    """Returns `value` if it is a text that is not empty."""
    if not isinstance(value, str) or not value.strip():
        raise SettingError(setting, f"={value!r}: it must be a text; put it in quotes if YAML reads it otherwise")
    return value


def texts(setting: str, values: object) -> list[str]:
    """Returns `values` as a list if it is a list of texts, which may be empty."""
    if isinstance(values, str) or not isinstance(values, Sequence):
        raise SettingError(setting, f"={values!r}: it must be a list, as in [{values}]")
    return [text(f"{setting}[{index}]", value) for index, value in enumerate(values)]


def text_by_name(setting: str, values: object) -> Mapping[str, str]:
    """Returns `values` if it maps names to texts."""
    if not isinstance(values, Mapping):
        raise SettingError(setting, f"={values!r}: it must hold names with their values, as in the YAMLs beside it")
    for name, value in values.items():
        text(f"{setting}.{name}", value)
    return values
