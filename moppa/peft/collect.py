"""Reads trainable parameters, auxiliary losses and diagnostics from a model with a method attached."""

from collections.abc import Callable, Iterable
from typing import Any, Protocol, runtime_checkable

from torch import Tensor, nn


@runtime_checkable
class HasDiagnostics(Protocol):
    """A module that reports values during training, for a record and for a logger."""

    def diagnostics(self, *, is_last: bool) -> dict[str, Tensor]:
        """Returns values by name, over the steps since the last call. After the last step it may add more."""
        ...


@runtime_checkable
class HasPenalty(Protocol):
    """A module with an auxiliary loss."""

    def penalty(self, progress: Tensor | float) -> Tensor:
        """Returns the loss of the last forward pass and clears it. `progress` runs from 0 to 1 over the training.

        The training loop passes a tensor on the device, so that no step waits for a number.
        """
        ...


@runtime_checkable
class HasStepUpdate(Protocol):
    """A module that changes after each step of the optimizer, for example one that prunes what it trains."""

    def after_step(self, progress: Tensor | float) -> None:
        """Changes trained tensors and buffers in place; the gradients of the step are still there.

        The training loop passes the progress as a tensor on the device, and may record the step as a CUDA graph: no
        value is read on the host, no shape depends on one, and what is kept from step to step is in buffers, which a
        checkpoint holds.
        """
        ...


def after_step(model: nn.Module, progress: Tensor | float) -> None:
    """Lets a method act after a step of the optimizer, before its gradients are cleared. `progress` is from 0 to 1."""
    step_updates(model)(progress)


def step_updates(model: nn.Module) -> Callable[[Tensor | float], None]:
    """Returns `after_step` of this model as a function of `progress`, for a loop: it searches the modules only once."""
    modules = [module for module in model.modules() if isinstance(module, HasStepUpdate)]

    def update(progress: Tensor | float) -> None:
        for module in modules:
            module.after_step(progress)

    return update


def penalty(model: nn.Module, progress: Tensor | float) -> Tensor | float:
    """Returns the sum of all auxiliary losses, to be added to the loss. `progress` runs from 0 to 1."""
    return penalties(model)(progress)


def penalties(model: nn.Module) -> Callable[[Tensor | float], Tensor | float]:
    """Returns `penalty` of this model as a function of `progress`, for a loop: the modules are searched only once."""
    modules = [module for module in model.modules() if isinstance(module, HasPenalty)]
    return lambda progress: sum((module.penalty(progress) for module in modules), start=0.0)


def collect_diagnostics(model: nn.Module, *, is_last: bool) -> dict[str, Tensor]:
    """Returns the diagnostics of all modules on the CPU, by `module/name`."""
    return {
        f"{path}/{name}": tensor.detach().cpu()
        for path, module in model.named_modules()
        if isinstance(module, HasDiagnostics)
        for name, tensor in module.diagnostics(is_last=is_last).items()
    }


def trainable_parameters(model: nn.Module) -> dict[str, nn.Parameter]:
    """Returns the parameters of the method and of the head by name: all that the optimizer changes."""
    return {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}


def trained_tensors(model: nn.Module) -> dict[str, Tensor]:
    """Returns all that a training changes, by name: the trainable parameters, and buffers such as positions."""
    return {**trainable_parameters(model), **persistent_buffers(model)}


def persistent_buffers(model: nn.Module) -> dict[str, Tensor]:
    """Returns the buffers that belong to the model's state."""
    state = model.state_dict().keys()
    return {name: buffer for name, buffer in model.named_buffers() if name in state}


def trains_only_head(model: nn.Module) -> bool:
    """Returns whether only the head is trained. The backbone then runs in eval mode."""
    head = head_parameter_ids(model)
    return all(id(parameter) in head for parameter in trainable_parameters(model).values())


def count_parameters(model: nn.Module) -> dict[str, int]:
    """Returns the numbers of trained parameters of the method and of the head. Papers often count the former only."""
    head = head_parameter_ids(model)
    trained = trainable_parameters(model).values()
    return {
        "trainable_params": sum(parameter.numel() for parameter in trained if id(parameter) not in head),
        "head_params": sum(parameter.numel() for parameter in trained if id(parameter) in head),
    }


def count_backbone(model: nn.Module, pretrained: Iterable[nn.Parameter]) -> dict[str, int]:
    """Returns the number of parameters of a backbone, and of those that a model with a method attached keeps in memory.

    Args:
        model: the model.
        pretrained: its parameters before the method was attached. Their storages count once, without the head's, as do
            those of frozen parameters that took their place, such as a weight that blocks share.
    """
    head, pretrained = head_parameter_ids(model), list(pretrained)
    before = {id(parameter) for parameter in pretrained}
    kept = [parameter for parameter in model.parameters() if id(parameter) in before or not parameter.requires_grad]
    return {
        "pretrained": num_elements(parameter for parameter in pretrained if id(parameter) not in head),
        "kept": num_elements(parameter for parameter in kept if id(parameter) not in head),
    }


def num_elements(parameters: Iterable[nn.Parameter]) -> int:
    """Returns the number of elements of parameters, each storage once."""
    sizes = {p.untyped_storage().data_ptr() or id(p): p.numel() for p in parameters}  # on meta every pointer is 0
    return sum(sizes.values())


def head_parameter_ids(model: Any) -> set[int]:
    """Returns the ids of the parameters of the classification head."""
    return {id(parameter) for parameter in model.get_classifier().parameters()}
