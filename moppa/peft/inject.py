"""The only two ways in which a method changes a backbone, and the merge that folds the first into the weights.

`parametrize_weights` changes a weight: the pretrained tensor stays, frozen, and a module computes the new one from it.
`wrap_module` changes activations: a module takes the place of the one that it wraps. There are no hooks and no patched
`forward`.
"""

from collections.abc import Callable, Iterator
from typing import Any, Protocol, runtime_checkable

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils import parametrize

ClassKey = tuple[type, frozenset[str], bool]
PARAMETRIZED_CLASSES: dict[ClassKey, type] = {}


def parametrize_weights(layer: Any, **deltas: nn.Module) -> None:
    """Replaces `layer.weight` by `deltas["weight"](pretrained weight)`, and `layer.bias` likewise.

    The pretrained tensors stay in the layer, frozen. If the layer is linear and a delta is an `OutputDelta`, the
    forward pass uses its `layer_output`: the same result without the gradient of the whole weight, which alone takes
    half as long as the frozen layer's step. Deltas are moved to the layer's device.
    """
    is_first = not parametrize.is_parametrized(layer)
    for delta in deltas.values():
        move_to_device_of(layer, delta)
    if is_first:
        layer.stock_class = type(layer)
    else:  # torch adds the next tensor to the layer's class, which other layers share
        layer.__class__ = type(type(layer).__name__, (type(layer),), {})
    for tensor, delta in deltas.items():
        parametrize.register_parametrization(layer, tensor, delta, unsafe=True)  # unsafe: no trial run, also on meta
    output_deltas = [delta for delta in deltas.values() if isinstance(delta, OutputDelta)]
    if output_deltas and is_first and isinstance(layer, nn.Linear):
        layer.output_deltas = output_deltas  # type: ignore[assignment]  # a list, which registers no parameter twice
        layer.__class__ = type("ParametrizedLinear", (ParametrizedLinear, type(layer)), {})
    elif isinstance(layer, ParametrizedLinear):
        layer.output_deltas.clear()  # they do not know the later delta
    share_class(layer)


def share_class(layer: Any) -> None:
    """Gives all layers that are parametrized alike one class, so that a graph of torch.compile serves every model.

    torch creates a class for each layer.
    """
    key = (layer.stock_class, frozenset(layer.parametrizations), isinstance(layer, ParametrizedLinear))
    shared: Any = PARAMETRIZED_CLASSES.setdefault(key, type(layer))
    shared.__reduce_ex__ = pickled_layer
    layer.__class__ = shared


def pickled_layer(layer: Any, _protocol: int) -> tuple[Any, ...]:
    """Returns what `pickle` writes of a parametrized layer. torch refuses, because the class has no module."""
    deltas = {tensor: list(parametrization) for tensor, parametrization in layer.parametrizations.items()}
    state = dict(layer.__dict__)
    state["_modules"] = {name: module for name, module in layer._modules.items() if name != "parametrizations"}
    pretrained = {tensor: layer.parametrizations[tensor].original for tensor in deltas}
    state["_parameters"] = {**layer._parameters, **pretrained}
    return unpickled_layer, (state.pop("stock_class"), state, deltas)


def unpickled_layer(stock_class: type, state: dict[str, Any], deltas: dict[str, list[nn.Module]]) -> nn.Module:
    """Returns a layer that is parametrized as the one that was pickled."""
    layer: Any = object.__new__(stock_class)
    layer.__setstate__(dict(state))
    for depth in range(max(map(len, deltas.values()))):
        parametrize_weights(layer, **{tensor: of[depth] for tensor, of in deltas.items() if depth < len(of)})
    layer.parametrizations.training = layer.training
    for parametrization in layer.parametrizations.values():
        parametrization.training = layer.training
    if "output_deltas" in state:  # they may have been disabled
        layer.output_deltas = state["output_deltas"]
    return layer


class ParametrizedLinear:
    """A parametrized linear layer that computes its output by an `OutputDelta`, without building the weight."""

    output_deltas: list["OutputDelta"]

    def forward(self: Any, x: Tensor) -> Tensor:
        noise = self._modules.get("noise")
        if noise is not None and self.training:
            y = self.pretrained_output(x)
            return y + noise(self.update_output(x, y))
        return self.output_deltas[0].layer_output(self, x) if self.output_deltas else super().forward(x)  # type: ignore[misc]

    def update_output(self: Any, x: Tensor, y: Tensor) -> Tensor:
        """Returns the layer's output minus the pretrained one, y; without a difference if the update is low-rank."""
        delta = self.output_deltas[0] if self.output_deltas else None
        low_rank_update = getattr(delta, "layer_update", None)
        update = None if low_rank_update is None else low_rank_update(self, x)
        if update is not None:
            return update
        return (super().forward(x) if delta is None else delta.layer_output(self, x)) - y  # type: ignore[misc]

    def set_noise(self: Any, noise: nn.Module | None) -> None:
        """Applies a module to what the update adds to the output in training, or nothing."""
        if noise is None:
            self._modules.pop("noise", None)
        else:
            self.add_module("noise", noise)

    def pretrained_output(self: Any, x: Tensor) -> Tensor:
        """Returns the output of the pretrained layer."""
        return F.linear(x, self.pretrained("weight"), self.pretrained("bias"))

    def pretrained(self: Any, tensor: str) -> Any:
        """Returns the pretrained weight or bias; a layer without a bias has None."""
        parametrizations = self.parametrizations
        return parametrizations[tensor].original if tensor in parametrizations else getattr(self, tensor)


@runtime_checkable
class OutputDelta(Protocol):
    """A delta that can compute the output of its layer without building the layer's weight."""

    def layer_output(self, layer: ParametrizedLinear, x: Tensor) -> Tensor:
        """Returns the output of the parametrized layer."""
        ...


def disable_output_deltas(model: nn.Module) -> nn.Module:
    """Makes parametrized layers build their weight in every forward pass. For tests and benchmarks."""
    for module in model.modules():
        if isinstance(module, ParametrizedLinear):
            module.output_deltas.clear()
    return model


def wrap_module(
    owner: nn.Module, name: str, wrap: Callable[[nn.Module], nn.Module], *, outermost: bool = False
) -> None:
    """Replaces `owner.name` by `wrap(owner.name)`, on the device of `owner`. A wrapper holds what it wraps as `inner`.

    If a wrapper of another method is there and `changes_input` of what it wraps, the new one goes inside of it, so that
    it reads what it reads alone; unless it is to be the `outermost`.
    """
    for wrapper in [] if outermost else wrappers_of(getattr(owner, name)):
        if getattr(wrapper, "changes_input", False):
            owner, name = wrapper, "inner"
    wrapped = wrap(getattr(owner, name))
    move_to_device_of(owner, wrapped)
    setattr(owner, name, wrapped)


def wrappers_of(module: Any) -> Iterator[nn.Module]:
    """Yields the wrappers that methods have put around a module, from the outermost on."""
    while isinstance(getattr(module, "inner", None), nn.Module):
        yield module
        module = module.inner


def unwrapped(module: Any) -> Any:
    """Returns the module inside of all wrappers that methods have put around it."""
    for wrapper in wrappers_of(module):
        module = wrapper.inner
    return module


def pretrained_tensor(layer: Any, tensor: str) -> nn.Parameter | None:
    """Returns the pretrained weight or bias of a layer, also of a parametrized one; None if it has none."""
    if parametrize.is_parametrized(layer, tensor):
        return layer.parametrizations[tensor].original
    value = getattr(layer, tensor, None)
    return value if isinstance(value, nn.Parameter) else None


def move_to_device_of(owner: nn.Module, module: nn.Module) -> None:
    """Moves a module to the device of the owner's parameters."""
    if (parameter := next(owner.parameters(), None)) is not None:
        module.to(parameter.device)


@torch.no_grad()
def merge(model: nn.Module) -> nn.Module:
    """Folds every parametrization into its weight, in place, and calls `merge` of each `Mergeable` module.

    The merged model is for evaluation. Without wrapped modules it is a stock timm model.
    """
    separate_pretrained(model)
    for module in list(model.modules()):
        if parametrize.is_parametrized(module):
            merge_parametrizations(module)
    for module in list(model.modules()):  # after all weights, since a module may add to one
        if isinstance(module, Mergeable):
            module.merge()
    return model


def separate_pretrained(model: nn.Module) -> None:
    """Gives every parametrized tensor a pretrained parameter of its own, where several share one, without a copy."""
    seen: set[int] = set()
    for module in model.modules():
        if isinstance(module, parametrize.ParametrizationList) and isinstance(module.original, nn.Parameter):
            if id(module.original) in seen:
                module.original = nn.Parameter(module.original.data, module.original.requires_grad)
            seen.add(id(module.original))


def merge_parametrizations(layer: nn.Module) -> None:
    """Writes the parametrized values into the pretrained tensors and restores the layer's stock class.

    torch's own removal would also delete the property from the class, which deep copies of the layer share.
    """
    parametrizations: Any = layer.parametrizations
    dtypes = {tensor: parametrizations[tensor].original.dtype for tensor in parametrizations}
    for tensor, dtype in dtypes.items():  # in half precision a small update would be lost before it is rounded
        original = parametrizations[tensor].original
        original.data = original.data.to(torch.promote_types(dtype, torch.float32))
    merged = {tensor: getattr(layer, tensor) for tensor in parametrizations}  # all of them before any is replaced
    pretrained = {tensor: parametrizations[tensor].original for tensor in merged}
    del layer.parametrizations
    layer.__class__ = layer.__dict__.pop("stock_class")
    layer.__dict__.pop("output_deltas", None)
    for tensor, parameter in pretrained.items():
        parameter.data = merged[tensor].to(dtypes[tensor])
        layer.register_parameter(tensor, parameter)


@runtime_checkable
class Mergeable(Protocol):
    """A module that can compute something once before an evaluation."""

    def merge(self) -> None:
        """Computes and stores it."""
        ...
