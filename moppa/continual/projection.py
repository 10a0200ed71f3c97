"""Orthogonal projection: an update of a new task reads no direction that the updates of earlier tasks read.

Our reading of the abstract of iGSP: Cui et al., "iGSP: Implicit Gradient Subspace Projection for Efficient Continual
Learning of Vision-Language Models", arXiv 2605.19301, without its experts, routers and first phase.
"""

import torch
from jaxtyping import Float
from torch import Tensor, nn

from moppa.continual.strategy import Strategy, adapted_layers, as_delta, as_tensors, updates_of_model
from moppa.merging.updates import Delta, Update, concatenated, decompose, dense
from moppa.record.parts import Attached, Parts
from moppa.utils import validate
from moppa.utils.errors import UserError


class Projection(nn.Module):
    """Removes from the factors A (r, d_in) their part in rows Q (q, d_in), at the start and after each step.

    This is projected gradient descent: the gradient's part in the subspace has no effect.
    """

    def __init__(self, layers: list[tuple[list[Tensor], Tensor]]) -> None:
        super().__init__()
        self.downs = [downs for downs, _ in layers]  # lists, which register no parameter twice
        for index, (downs, rows) in enumerate(layers):
            self.register_buffer(f"rows{index}", rows.to(downs[0]), persistent=False)

    @torch.no_grad()
    def after_step(self, progress: Tensor | float) -> None:  # noqa: ARG002
        """Projects the factors."""
        for index, downs in enumerate(self.downs):
            rows = self.get_buffer(f"rows{index}")
            for down in downs:
                down.sub_(down @ rows.T @ rows)


class OrthogonalProjection(Strategy):
    """Adds an update for each task whose rows are orthogonal to the main directions of the sum of the earlier ones.

    The main directions are the right singular vectors with a share `energy` of the sum of squared singular values. One
    backbone, with the sum of all updates, serves all tasks.
    """

    def __init__(self, *, energy: float) -> None:
        super().__init__()
        self.energy = validate.number("energy", energy, minimum=0.0, maximum=1.0)

    @torch.no_grad()
    def attach(self, parts: Parts, device: torch.device) -> Attached:
        """Returns the backbone with the sum of the earlier updates in its weights, and a new update beside them."""
        attached, earlier = parts.attached(device), self.delta("")
        constrained = []
        for name, layer, delta in adapted_layers(attached.model):
            downs = getattr(delta, "down", None)
            if not isinstance(downs, nn.ParameterList):
                raise UserError("the projection acts on the factors A of LoRA: choose method=lora")
            if update := earlier.get(f"{name}.weight"):
                layer.pretrained("weight").add_(dense(update).to(device))
                constrained.append((list(downs), main_rows(update, self.energy)))
        if constrained:
            projection = Projection(constrained)
            projection.after_step(0.0)
            attached.model.add_module("projection", projection)
        return attached

    def keep(self, task: str, model: nn.Module) -> None:  # noqa: ARG002 - one sum for all tasks
        """Adds the update of the task."""
        earlier, new = self.delta(""), updates_of_model(model)
        total = {name: concatenated([earlier[name], new[name]] if name in earlier else [new[name]]) for name in new}
        self.tensors = as_tensors(total, "delta")

    def delta(self, task: str) -> Delta:  # noqa: ARG002
        """Returns the sum of all updates."""
        return as_delta(self.tensors, "delta")


def main_rows(update: Update, energy: float) -> Float[Tensor, "q d_in"]:
    """Returns the first right singular vectors that have a share `energy` of the squared singular values."""
    decomposition = decompose(update)
    shares = decomposition.s.square().cumsum(dim=0) / decomposition.s.square().sum()
    return decomposition.cut(int((shares < energy).sum()) + (energy > 0)).vh
