"""The only two ways in which a method touches a backbone, and what undoes or collects them.

`reweight` where a weight changes (a torch parametrization: the pretrained tensor stays, `merge` folds it in);
`hold` where activations change (a module that wraps the one it stands for). No hooks, no patched `forward`.
"""

from collections.abc import Callable
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from moppa.utils.matmul import linear

KINDS: dict[tuple[Any, ...], type] = {}  # of reweighted layers, by stock class, tensors, whether it is Applying


def parametrize_weights(layer: nn.Module, **deltas: nn.Module) -> None:
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
    quick = [delta for delta in deltas.values() if isinstance(delta, DirectDelta)]
    if quick and was_stock and isinstance(layer, nn.Linear):
        layer.quick = quick  # type: ignore[assignment]  # a list, so that no parameter has a second name
        layer.__class__ = type("Applying", (DirectLinear, type(layer)), {})
    elif isinstance(layer, DirectLinear):
        layer.quick.clear()  # what came later is not in it
    # torch makes a class for each layer: with one for all alike, what torch.compile made for a model serves the next
    kind = (layer.stock_class, frozenset(layer.parametrizations), isinstance(layer, DirectLinear))
    layer.__class__ = KINDS.setdefault(kind, type(layer))


class DirectLinear:
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
class DirectDelta(Protocol):
    """A delta that knows what its layer gives out without making the layer's weight."""

    def applied(self, layer: DirectLinear, x: Tensor) -> Tensor:
        """The reweighted layer's output."""
        ...


def wrap_module(owner: nn.Module, name: str, wrap: Callable[[nn.Module], nn.Module]) -> None:
    """From now on `owner.name` is `wrap(owner.name)`."""
    setattr(owner, name, wrap(getattr(owner, name)))


@torch.no_grad()
def merge(model: nn.Module) -> nn.Module:
    """Folds every `reweight` into its weight, in place, and lets what is held compute once what no input changes.

    The model is then for evaluation; where no module is held it is a stock one.
    """
    for layer in list(model.modules()):
        if parametrize.is_parametrized(layer):
            restore_layer(layer)
        if isinstance(layer, Mergeable):
            layer.merge()
    return model


def restore_layer(layer: nn.Module) -> None:
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
class Mergeable(Protocol):
    """A held module with something to compute once before an evaluation."""

    def merge(self) -> None:
        """Computes it."""
        ...
