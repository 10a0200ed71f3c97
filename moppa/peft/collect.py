"""What a model with a method attached holds: its trainable parameters, auxiliary losses and diagnostics."""

from collections.abc import Callable
from typing import Protocol, runtime_checkable

from torch import Tensor, nn


@runtime_checkable
class HasDiagnostics(Protocol):
    """A module that reports what it has learned."""

    def diagnostics(self, *, is_last: bool) -> dict[str, Tensor]:
        """Returns tensors by name, over the steps since the last call; after the last step it may return more."""
        ...


@runtime_checkable
class HasPenalty(Protocol):
    """A module with an auxiliary loss."""

    def penalty(self, progress: float) -> Tensor:
        """Returns the loss of the last forward and forgets it. `progress` runs from 0 to 1 over the training."""
        ...


def penalty(model: nn.Module, progress: float) -> Tensor | float:
    """Returns the sum of the modules' auxiliary losses; `progress` runs from 0 to 1 over the training."""
    return penalties(model)(progress)


def penalties(model: nn.Module) -> Callable[[float], Tensor | float]:
    """Returns `penalty` of this model as a function of progress. The modules are searched once, which takes milliseconds."""
    modules = [module for module in model.modules() if isinstance(module, HasPenalty)]
    return lambda progress: sum((module.penalty(progress) for module in modules), start=0.0)


def collect_diagnostics(model: nn.Module, *, is_last: bool) -> dict[str, Tensor]:
    """Returns the modules' diagnostics as CPU tensors, named `module/name`."""
    return {
        f"{path}/{name}": tensor.detach().cpu()
        for path, module in model.named_modules()
        if isinstance(module, HasDiagnostics)
        for name, tensor in module.diagnostics(is_last=is_last).items()
    }


def trainable_parameters(model: nn.Module) -> dict[str, nn.Parameter]:
    """Returns the parameters of method and head by name."""
    return {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}


def trains_only_head(model: nn.Module) -> bool:
    """Returns whether only the head is trained."""
    head = {id(parameter) for parameter in model.get_classifier().parameters()}
    return all(id(parameter) in head for parameter in trainable_parameters(model).values())


def count_parameters(model: nn.Module) -> dict[str, int]:
    """Returns the number of trained parameters of the method and of the head, which some papers do not count."""
    head = {id(parameter) for parameter in model.get_classifier().parameters()}
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    return {
        "trainable_params": sum(p.numel() for p in trained if id(p) not in head),
        "head_params": sum(p.numel() for p in trained if id(p) in head),
    }
