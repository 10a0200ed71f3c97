"""What a method has changed in a model, and whether the gradient reaches it."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn
from torch.nn.utils import parametrize

from moppa.utils.errors import UserError, first_line


@dataclass(kw_only=True)
class Change:
    """The tensors that a method trains, and the pretrained ones from which it computes others: names by id."""

    trained: dict[int, str] = field(default_factory=dict)
    computed: dict[int, str] = field(default_factory=dict)
    adds_tokens: bool = False
    reads_grid: bool = False


@contextmanager
def changed_by(model: nn.Module) -> Iterator[Change]:
    """Yields what the code inside the context changes in a model, which is known at its end."""
    trained, deltas, modules = trained_names(model), num_deltas(model), set(model.modules())
    change = Change()
    yield change
    change.trained = {number: name for number, name in trained_names(model).items() if number not in trained}
    change.computed = {
        number: name for number, (name, count) in num_deltas(model).items() if count > deltas.get(number, ("", 0))[1]
    }
    added = [module for module in model.modules() if module not in modules]
    change.adds_tokens = any(getattr(module, "adds_tokens", False) for module in added)
    change.reads_grid = any(hasattr(module, "grid") for module in added)


def trained_names(model: nn.Module) -> dict[int, str]:
    """Returns the names of the trainable parameters by their ids."""
    return {id(tensor): name for name, tensor in model.named_parameters() if tensor.requires_grad}


def num_deltas(model: nn.Module) -> dict[int, tuple[str, int]]:
    """Returns the name of each parametrized tensor and the number of its deltas, by the id of the pretrained one."""
    counts: dict[int, tuple[str, int]] = {}
    for path, module in model.named_modules():
        if parametrize.is_parametrized(module):
            parametrizations: Any = module.parametrizations
            for tensor, deltas in parametrizations.items():
                counts[id(deltas.original)] = f"{path}.{tensor}", len(deltas)
    return counts


def check_gradients(model: Any, trained: Mapping[str, Mapping[int, str]]) -> None:
    """Runs the model once and raises `UserError` if it fails, or if a tensor that a method trains has no gradient.

    `trained` has the tensors of each method, by the method's label.
    """
    owners = {number: label for label, names in trained.items() for number in names}
    parameters = {name: tensor for name, tensor in model.named_parameters() if id(tensor) in owners}
    first = next(model.parameters())
    images = torch.zeros(1, *input_size(model), dtype=first.dtype, device=first.device)
    was_training = model.training
    try:
        logits = model.eval()(images)
        gradients = torch.autograd.grad(logits.sum(), list(parameters.values()), allow_unused=True)
    except (RuntimeError, TypeError, AttributeError) as error:
        raise UserError(
            f"{', '.join(trained)} cannot be combined in {type(model).__name__}: leave one out, or change their order "
            f"({first_line(error)})"
        ) from error
    finally:
        model.train(was_training)
    for (name, tensor), gradient in zip(parameters.items(), gradients, strict=True):
        if gradient is None:
            raise UserError(
                f"{owners[id(tensor)]}: another method lets no gradient pass to {name}; give it a later place, or "
                f"leave one out"
            )


def input_size(model: Any) -> tuple[int, int, int]:
    """Returns the channels, height and width of the images that a timm model reads."""
    channels, height, width = model.pretrained_cfg["input_size"]
    size = getattr(getattr(model, "patch_embed", None), "img_size", None) or (height, width)
    return (channels, *size)
