"""torch's optimizers without their decorators, which import torch.compile: that takes two seconds."""

import inspect
from typing import Any

import torch

METHODS = ("add_param_group", "zero_grad", "state_dict", "load_state_dict")


class AdamW(torch.optim.AdamW):
    """torch's AdamW."""


class SGD(torch.optim.SGD):
    """torch's SGD."""


class LBFGS(torch.optim.LBFGS):
    """torch's L-BFGS."""


def remove_decorators(optimizer: Any) -> None:
    """Gives a class of optimizers the undecorated methods of its base class. They tell torch.compile where to stop."""
    for name in METHODS:
        setattr(optimizer, name, inspect.unwrap(getattr(optimizer, name)))
    optimizer.step = torch.no_grad()(inspect.unwrap(optimizer.step))


for optimizer in (AdamW, SGD, LBFGS):
    remove_decorators(optimizer)
