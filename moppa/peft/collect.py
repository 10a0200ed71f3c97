"""What a model with a method attached holds: its trainable parameters, auxiliary losses and diagnostics."""

from collections.abc import Callable
from typing import Protocol, runtime_checkable

from torch import Tensor, nn


@runtime_checkable
class HasDiagnostics(Protocol):
    """A module with something to tell about what it learns."""

    def diagnostics(self, *, is_last: bool) -> dict[str, Tensor]:
        """What it tells, by name, over the steps since the last call; after the last step it may tell more."""
        ...


@runtime_checkable
class HasPenalty(Protocol):
    """A module with an auxiliary loss."""

    def penalty(self, progress: float) -> Tensor:
        """The loss of the last forward, which is then forgotten."""
        ...


def penalty(model: nn.Module, progress: float) -> Tensor | float:
    """The sum of what the modules leave to be added to the loss; `progress` runs from 0 to 1 over the training."""
    return penalties(model)(progress)


def penalties(model: nn.Module) -> Callable[[float], Tensor | float]:
    """`penalty` of this model, for a loop: to find its modules costs milliseconds, and is done here, once."""
    modules = [module for module in model.modules() if isinstance(module, HasPenalty)]
    return lambda progress: sum((module.penalty(progress) for module in modules), start=0.0)


def collect_diagnostics(model: nn.Module, *, is_last: bool) -> dict[str, Tensor]:
    """What the modules tell of themselves, on the CPU, by `module/name`."""
    return {
        f"{path}/{name}": tensor.detach().cpu()
        for path, module in model.named_modules()
        if isinstance(module, HasDiagnostics)
        for name, tensor in module.diagnostics(is_last=is_last).items()
    }


def trainable_parameters(model: nn.Module) -> dict[str, nn.Parameter]:
    """The parameters of the method and of the head, by name: all that a checkpoint must hold."""
    return {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}


def trains_only_head(model: nn.Module) -> bool:
    """Whether all that is trained belongs to the head: the backbone is then shown images as at a test."""
    head = {id(parameter) for parameter in model.get_classifier().parameters()}
    return all(id(parameter) in head for parameter in trainable_parameters(model).values())


def count_parameters(model: nn.Module) -> dict[str, int]:
    """How many parameters are trained: those of the method, and those of the head, which some papers leave out."""
    head = {id(parameter) for parameter in model.get_classifier().parameters()}
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    return {
        "trainable_params": sum(p.numel() for p in trained if id(p) not in head),
        "head_params": sum(p.numel() for p in trained if id(p) in head),
    }
