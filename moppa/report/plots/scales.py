"""Scales whose domain is known before a chart is drawn, so that labels can be placed in pixels."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

MARGIN = 0.05  # of the length, beyond the smallest and the largest value


@dataclass(frozen=True, kw_only=True)
class Scale:
    """A Vega-Lite scale: `kind` is linear, log or symlog, which is about linear below `constant`."""

    kind: str
    low: float
    high: float
    constant: float = 1.0

    def forward(self, value: float) -> float:
        """Returns a value on the transformed, linear axis."""
        if self.kind == "log":
            return math.log(value)
        return math.copysign(math.log1p(abs(value) / self.constant), value) if self.kind == "symlog" else value

    def inverse(self, position: float) -> float:
        """Returns the value at a position on the transformed axis."""
        if self.kind == "log":
            return math.exp(position)
        if self.kind == "symlog":
            return math.copysign(self.constant * math.expm1(abs(position)), position)
        return position

    def share(self, value: float) -> float:
        """Returns where a value lies on the axis, from 0 to 1."""
        low, high = self.forward(self.low), self.forward(self.high)
        return (self.forward(value) - low) / (high - low)

    @property
    def spec(self) -> dict[str, Any]:
        """The scale as an entry of a chart."""
        others = {"linear": {"zero": False}, "symlog": {"constant": self.constant}}.get(self.kind, {})
        return {"type": self.kind, "domain": [self.low, self.high], "nice": False, **others}


def fit_scale(values: Sequence[float], kind: str = "linear", constant: float = 1.0) -> Scale:
    """Returns the scale that holds some values with a margin on both sides."""
    exact = Scale(kind=kind, low=min(values), high=max(values), constant=constant)
    low, high = exact.forward(exact.low), exact.forward(exact.high)
    margin = MARGIN * (high - low) or 0.5
    return Scale(kind=kind, low=exact.inverse(low - margin), high=exact.inverse(high + margin), constant=constant)
