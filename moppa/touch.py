"""The only two ways in which a method touches a backbone, and what undoes or collects them.

`reweight` where a weight changes (a torch parametrization: the pretrained tensor stays, `merge` folds it in);
`hold` where activations change (a module that wraps the one it stands for). No hooks, no patched `forward`.
"""

from collections.abc import Callable
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from moppa.products import linear

KINDS: dict[tuple[Any, ...], type] = {}  # of reweighted layers, by stock class, tensors, whether it is Applying


def reweight(layer: nn.Module, **deltas: nn.Module) -> None:
    """From now on `layer.weight` is `deltas["weight"](pretrained weight)`, the bias likewise; both stay, frozen.

    Where a delta of a linear layer is `Applied`, a step goes its way: it gives the same without the gradient of a whole
    weight, which alone costs half as much as the frozen layer's step.
    """
    was_stock = not parametrize.is_parametrized(layer)
    if was_stock:
        layer.stock_class = type(layer)  # type: ignore[assignment]
    else:  # torch writes what comes now into the layer's class, which others share
        layer.__class__ = type(type(layer).__name__, (type(layer),), {})
    for tensor, delta in deltas.items():
        parametrize.register_parametrization(layer, tensor, delta, unsafe=True)  # unsafe: no trial run, also on meta
    quick = [delta for delta in deltas.values() if isinstance(delta, Applied)]
    if quick and was_stock and isinstance(layer, nn.Linear):
        layer.quick = quick  # type: ignore[assignment]  # a list, so that no parameter has a second name
        layer.__class__ = type("Applying", (Applying, type(layer)), {})
    elif isinstance(layer, Applying):
        layer.quick.clear()  # what came later is not in it
    # torch makes a class for each layer: with one for all alike, what torch.compile made for a model serves the next
    kind = (layer.stock_class, frozenset(layer.parametrizations), isinstance(layer, Applying))
    layer.__class__ = KINDS.setdefault(kind, type(layer))


class Applying:
    """A reweighted linear layer that computes its output the quick way."""

    def forward(self: Any, x: Tensor) -> Tensor:
        return self.quick[0].applied(self, x) if self.quick else super().forward(x)

    def plain(self: Any, x: Tensor) -> Tensor:
        """The output of the pretrained layer."""
        return linear(x, self.pretrained("weight"), self.pretrained("bias"))

    def pretrained(self: Any, tensor: str) -> Tensor:
        """The pretrained weight or bias."""
        held = self.parametrizations
        return held[tensor].original if tensor in held else getattr(self, tensor)


@runtime_checkable
class Applied(Protocol):
    """A delta that knows what its layer gives out without making the layer's weight."""

    def applied(self, layer: Applying, x: Tensor) -> Tensor:
        """The reweighted layer's output."""
        ...


def hold(owner: nn.Module, name: str, wrap: Callable[[nn.Module], nn.Module]) -> None:
    """From now on `owner.name` is `wrap(owner.name)`."""
    setattr(owner, name, wrap(getattr(owner, name)))


@torch.no_grad()
def merge(model: nn.Module) -> nn.Module:
    """Folds every `reweight` into its weight, in place, and lets what is held compute once what no input changes.

    The model is then for evaluation; where no module is held it is a stock one.
    """
    for layer in list(model.modules()):
        if parametrize.is_parametrized(layer):
            make_stock(layer)
        if isinstance(layer, Foldable):
            layer.fold()
    return model


def make_stock(layer: nn.Module) -> None:
    """Puts what the `reweight`s of a layer give in the place of its pretrained tensors, and makes it a plain layer.

    torch's own removal would take the tensor's name from the class too, which deep copies of the layer share.
    """
    held: Any = layer.parametrizations
    merged = {tensor: getattr(layer, tensor) for tensor in held}  # all, before any is replaced
    pretrained = {tensor: held[tensor].original for tensor in merged}
    del layer.parametrizations
    layer.__class__ = layer.__dict__.pop("stock_class")
    layer.__dict__.pop("quick", None)
    for tensor, parameter in pretrained.items():
        parameter.copy_(merged[tensor])
        layer.register_parameter(tensor, parameter)


@runtime_checkable
class Foldable(Protocol):
    """A held module with something to compute once before an evaluation."""

    def fold(self) -> None:
        """Computes it."""
        ...


@runtime_checkable
class Observed(Protocol):
    """A module with something to tell about what it learns."""

    def observations(self, *, is_last: bool) -> dict[str, Tensor]:
        """What it tells, by name, over the steps since the last call; after the last step it may tell more."""
        ...


@runtime_checkable
class Penalised(Protocol):
    """A module with an auxiliary loss."""

    def penalty(self, progress: float) -> Tensor:
        """The loss of the last forward, which is then forgotten."""
        ...


def penalty(model: nn.Module, progress: float) -> Tensor | float:
    """The sum of what the modules leave to be added to the loss; `progress` runs from 0 to 1 over the training."""
    return penalties(model)(progress)


def penalties(model: nn.Module) -> Callable[[float], Tensor | float]:
    """`penalty` of this model, for a loop: to find its modules costs milliseconds, and is done here, once."""
    modules = [module for module in model.modules() if isinstance(module, Penalised)]
    return lambda progress: sum((module.penalty(progress) for module in modules), start=0.0)


def observe(model: nn.Module, *, is_last: bool) -> dict[str, Tensor]:
    """What the modules tell of themselves, on the CPU, by `module/name`."""
    return {
        f"{path}/{name}": tensor.detach().cpu()
        for path, module in model.named_modules()
        if isinstance(module, Observed)
        for name, tensor in module.observations(is_last=is_last).items()
    }


def trainable(model: nn.Module) -> dict[str, nn.Parameter]:
    """The parameters of the method and of the head, by name: all that a checkpoint must hold."""
    return {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}


def trains_only_the_head(model: nn.Module) -> bool:
    """Whether all that is trained belongs to the head: the backbone is then shown images as at a test."""
    head = {id(parameter) for parameter in model.get_classifier().parameters()}
    return all(id(parameter) in head for parameter in trainable(model).values())
