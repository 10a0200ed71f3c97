"""Checks of configured values: each returns the value, or says which setting is wrong and what would be right."""

import math
from collections.abc import Collection
from numbers import Integral, Real

from moppa.errors import UserError


def whole(setting: str, value: object, *, least: int) -> int:
    """A whole number of at least `least`."""
    if isinstance(value, bool) or not isinstance(value, Integral) or value < least:
        raise UserError(f"{setting}={value!r}: it must be a whole number of at least {least}")
    return int(value)


def number(setting: str, value: object, *, low: float, high: float = math.inf, above: bool = False) -> float:
    """A finite number in [low, high], or in (low, high] where `above` says so."""
    span = f"{'above' if above else 'at least'} {low:g}" + (f" and at most {high:g}" if high < math.inf else "")
    if isinstance(value, bool) or not isinstance(value, Real) or not math.isfinite(value):
        raise UserError(f"{setting}={value!r}: it must be a number {span}")
    amount = float(value)
    if amount < low or amount > high or (above and amount == low):
        raise UserError(f"{setting}={value!r}: it must be a number {span}")
    return amount


def one_of(setting: str, value: object, options: Collection[str]) -> str:
    """One of the named options."""
    if not isinstance(value, str) or value not in options:
        raise UserError(f"{setting}={value!r}: it must be one of {', '.join(options)}")
    return value


def flag(setting: str, value: object) -> bool:
    """True or false."""
    if not isinstance(value, bool):
        raise UserError(f"{setting}={value!r}: it must be true or false")
    return value
