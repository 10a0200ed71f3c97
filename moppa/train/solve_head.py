"""The other way to train, `method.fit: lbfgs`: the head is solved for on features, instead of trained in steps."""

import time
from typing import Any

import numpy as np
import torch
from torch import nn

from moppa.data.split import Split
from moppa.peft.collect import count_parameters, trains_only_head
from moppa.train.loggers import Logger
from moppa.train.loop import EpochCallback, TrainingResult, stacked
from moppa.train.recipe import Recipe
from moppa.utils.errors import SettingError, UserError
from moppa.utils.logistic import TOLERANCE, fit_logistic


def solve_head(
    model: Any, split: Split, *, recipe: Recipe, logger: Logger, on_epoch: EpochCallback, **_steps: Any
) -> TrainingResult:
    """Sets the linear head of `model` to the solution of a logistic regression on features (N, D).

    It takes the arguments of `train` and ignores those of its steps. Of the recipe it uses the weight decay alone, as
    the L2 penalty. The curve has one entry: the loss at the solution. The seed has no influence.

    Raises:
        UserError: if the solver does not converge.
    """
    started = time.perf_counter()
    head = model.get_classifier()
    solution = fit_logistic(
        torch.from_numpy(np.array(split.images)).to(head.weight.device),
        torch.from_numpy(np.array(split.labels)).to(head.weight.device),
        num_classes=head.out_features,
        l2=recipe.weight_decay,
    )
    if not solution.has_converged:
        raise UserError(
            f"the head has not converged after {solution.num_iterations} iterations (gradient {solution.gradient:.1e}, "
            f"tolerance {TOLERANCE:.0e}): raise train.weight_decay={recipe.weight_decay}, the L2 penalty"
        )
    with torch.no_grad():
        head.weight.copy_(solution.weight)
        head.bias.copy_(solution.bias)
    logger.log({"loss": solution.loss}, step=1)
    return TrainingResult(
        curve=[{"loss": solution.loss, "iterations": solution.num_iterations}],
        diagnostics=stacked([on_epoch(model, 1, True)]),
        counts=count_parameters(model),
        seconds=time.perf_counter() - started,
    )


def check_solvable(model: Any, recipe: Recipe) -> None:
    """Raises `UserError` unless a linear head on fixed images is all that is trained, so that it can be solved for."""
    if recipe.augmentation is not None:
        raise UserError("method.fit=lbfgs solves for a head on images that do not change: remove +augmentation")
    if recipe.pace is not None:
        raise SettingError("train.pace", f"={recipe.pace}: method.fit=lbfgs takes no steps; set it to null")
    if not trains_only_head(model):
        count = count_parameters(model)["trainable_params"]
        raise UserError(
            f"method.fit=lbfgs solves for the head alone, and this method trains {count:,} parameters besides it: "
            f"remove method.fit"
        )
    if not isinstance(model.get_classifier(), nn.Linear):
        raise UserError("method.fit=lbfgs needs a linear head: remove method.fit for this backbone")
