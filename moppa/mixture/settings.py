"""The settings of MoPPA. `configs/method/moppa.yaml` and `moppa.attach` both take exactly these."""

import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import Any, TypeVar

from moppa.utils import validate
from moppa.utils.errors import SettingError

PRIORS = ("identity", "heat", "wave", "poisson")
POSITIONS = ("attn_input", "residual", "attn_parallel", "mlp_parallel", "qv")
ROUTERS = ("dynamic", "static")
CONSTANTS_PER = ("channel", "frequency")
POISSON_GAINS = ("exact", "unit")
CONSTANTS = ("diffusivity", "speed", "time")

Function = TypeVar("Function", bound=Callable[..., Any])


@dataclass(frozen=True, kw_only=True)
class MixtureSettings:
    """Settings of the units in one model. The defaults are the values of `configs/method/moppa.yaml`.

    Args:
        rank: Width of the bottleneck. None applies the operator at the full width of the tokens.
        priors: The priors to mix, at least one of identity, heat, wave and poisson. Identity alone is a control.
        position: "attn_input" changes the input of attention, "residual" the input of the block. "attn_parallel" and
            "mlp_parallel" add to the output of attention and of the MLP. "qv" adds to the queries and values, as LoRA.
        router: "dynamic" mixes the priors with weights per image, "static" with the same weights for all images.
        start: Initial values of diffusivity (tokens^2 / time), speed (tokens / time) and time. With the first two at
            0.01, heat and wave start near the identity.
        constants_per: "channel" trains a diffusivity and a speed per channel, "frequency" one per frequency and
            channel, from an embedding that all blocks share.
        damping: Initial damping (1 / time) of the wave, which then also has an initial velocity. None: no damping.
        physics_rate: Factor on the updates of the physical constants, the source and the router, relative to the
            projections.
        poisson_gain: "exact" solves Poisson's equation, "unit" divides the solution by its largest gain.
        gate: Whether the bottleneck ends with a LayerNorm and a SiLU gate.
        scale: Factor on the output of a unit.
        route_weight: Weight of the route regularization in the loss.

    Raises:
        SettingError: If a value is out of range.
    """

    rank: int | None = 4
    priors: Sequence[str] = PRIORS
    position: str = "qv"
    router: str = "dynamic"
    start: Mapping[str, float] = field(default_factory=lambda: {"diffusivity": 0.01, "speed": 0.01, "time": 1.0})
    constants_per: str = "channel"
    damping: float | None = None
    physics_rate: float = 3
    poisson_gain: str = "unit"
    gate: bool = False
    scale: float = 1.0
    route_weight: float = 0.1

    def __post_init__(self) -> None:
        if self.rank is not None:
            validate.integer("rank", self.rank, minimum=1)
        validate.subset("priors", self.priors, PRIORS)
        validate.one_of("position", self.position, POSITIONS)
        validate.one_of("router", self.router, ROUTERS)
        validate.one_of("constants_per", self.constants_per, CONSTANTS_PER)
        validate.one_of("poisson_gain", self.poisson_gain, POISSON_GAINS)
        if not isinstance(self.start, Mapping) or set(self.start) != set(CONSTANTS):
            raise SettingError("start", f"={self.start!r}: give a number for each of {', '.join(CONSTANTS)}")
        for name in CONSTANTS:
            validate.number(f"start.{name}", self.start[name], minimum=0, exclusive_minimum=True)
        if self.damping is not None:
            validate.number("damping", self.damping, minimum=0, exclusive_minimum=True)
        validate.boolean("gate", self.gate)
        if self.rank is None and (self.gate or self.constants_per == "frequency"):
            name, value = ("gate", "true") if self.gate else ("constants_per", "frequency")
            raise SettingError(name, f"={value}: it works in a bottleneck; set rank to a number")
        validate.number("physics_rate", self.physics_rate, minimum=0, exclusive_minimum=True)
        validate.number("scale", self.scale, minimum=0, exclusive_minimum=True)
        validate.number("route_weight", self.route_weight, minimum=0)


def accepts_settings(function: Function) -> Function:
    """Declares the fields of `MixtureSettings` as keyword arguments of a function that takes `**settings`.

    The signature of the function then lists them, so that `help` shows them and a misspelled one can be reported
    before the function is called.
    """
    signature = inspect.signature(function)
    own = [parameter for parameter in signature.parameters.values() if parameter.kind is not parameter.VAR_KEYWORD]
    settings = inspect.signature(MixtureSettings).parameters.values()
    function.__signature__ = signature.replace(parameters=[*own, *settings])  # type: ignore[attr-defined]
    return function


def parse_settings(settings: Mapping[str, Any]) -> MixtureSettings:
    """Returns keyword arguments as checked settings.

    Raises:
        SettingError: If a name is unknown or a value is out of range.
    """
    names = [setting.name for setting in fields(MixtureSettings)]
    for name in settings:
        if name not in names:
            raise SettingError(name, f": there is no such setting; choose from {', '.join(names)}")
    return MixtureSettings(**settings)
