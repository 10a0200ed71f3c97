"""Checks of setting values. Each returns the value or raises `SettingError`, which names the setting and the fix."""

import math
from collections.abc import Collection, Sequence
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
