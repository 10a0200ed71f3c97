"""A budget of ranks that all adapted matrices share: training prunes the least important ones, as in AdaLoRA.

Zhang et al., "Adaptive Budget Allocation for Parameter-Efficient Fine-Tuning", ICLR 2023, arXiv 2303.10512.
"""

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor, nn

from moppa.peft.low_rank import LowRankDelta
from moppa.utils import validate
from moppa.utils.errors import SettingError, UserError


class TripletDelta(LowRankDelta):
    """An update of each adapted matrix by triplets: a row of `down`, a column of `up`, and one of `values`."""

    down: nn.ParameterList
    up: nn.ParameterList
    values: nn.ParameterList

    def triplets(self) -> list[tuple[nn.Parameter, nn.Parameter, nn.Parameter]]:
        """Returns down (r, d_in), up (d_out, r) and values (r, 1) of each adapted matrix."""
        return list(zip(self.down, self.up, self.values, strict=True))  # torch.compile takes no generator here


class RankBudget(nn.Module):
    """Prunes the triplets of all deltas together after each step; a penalty keeps their vectors close to orthonormal.

    The sensitivity of a trained number p is |p dL/dp|. Its importance is the product of two moving averages: of the
    sensitivity, and of the distance of the sensitivity from its average. That of a triplet is the importance of its
    value plus the means over its two vectors. The budget falls as a cubic from all triplets to `target_rank` for each
    matrix, between the fractions `warmup` and 1 - `final` of the training, and the values of the other triplets are set
    to zero. From 1 - `final` on the averages stay, so that the same triplets are pruned after every step.

    Raises:
        SettingError: if a setting has a value that it cannot have.
    """

    def __init__(
        self,
        deltas: Sequence[TripletDelta],
        *,
        target_rank: int,
        warmup: float,
        final: float,
        beta1: float,
        beta2: float,
        orthogonality: float,
    ) -> None:
        super().__init__()
        validate.number("warmup", warmup, minimum=0, maximum=1)
        validate.number("final", final, minimum=0, maximum=1)
        if warmup + final >= 1:
            raise SettingError("warmup", f"={warmup} and final={final} leave no steps to prune in: lower one of them")
        validate.number("beta1", beta1, minimum=0, maximum=1)
        validate.number("beta2", beta2, minimum=0, maximum=1)
        validate.number("orthogonality", orthogonality, minimum=0)
        self.deltas = tuple(deltas)  # a tuple hides them from nn.Module: they are part of their layers
        self.warmup, self.final = warmup, final
        self.beta1, self.beta2, self.orthogonality = beta1, beta2, orthogonality
        trained = self.trained()
        self.target = target_rank * len(trained[2::3])
        for index, parameter in enumerate(trained):
            for name in ("sensitivity", "uncertainty"):
                self.register_buffer(f"{name}_{index}", torch.zeros_like(parameter), persistent=False)

    def trained(self) -> list[nn.Parameter]:
        """Returns down, up and values of the first matrix, then those of the second, and so on."""
        return [parameter for delta in self.deltas for triplets in delta.triplets() for parameter in triplets]

    def averages(self, name: str) -> list[Tensor]:
        """Returns the moving averages of a name, in the order of `trained`."""
        return [self.get_buffer(f"{name}_{index}") for index in range(len(self.trained()))]

    def penalty(self, progress: Tensor | float) -> Tensor:  # noqa: ARG002
        """Returns the weighted mean of ||P^T P - I|| over all matrices of vectors."""
        trained = self.trained()
        products = [down @ down.T for down in trained[0::3]] + [up.T @ up for up in trained[1::3]]
        products = torch.stack(products)
        identity = torch.eye(products.shape[-1], dtype=products.dtype, device=products.device)
        return self.orthogonality * torch.linalg.matrix_norm(products - identity).mean()

    @torch.no_grad()
    def after_step(self, progress: Tensor | float) -> None:
        """Updates the averages and prunes.

        Raises:
            UserError: if there are no gradients.
        """
        progress = torch.as_tensor(progress, device=self.get_buffer("sensitivity_0").device)
        self.update_averages(progress < 1 - self.final)
        scores = self.scores()
        is_pruned = self.is_pruned(scores, progress)
        values = self.trained()[2::3]
        for value, mask in zip(values, is_pruned.split([len(value) for value in values]), strict=True):
            value.masked_fill_(mask[:, None], 0.0)

    def update_averages(self, is_open: Tensor) -> None:
        """Updates the averages if `is_open`; else they stay."""
        averages = zip(self.trained(), self.averages("sensitivity"), self.averages("uncertainty"), strict=True)
        for parameter, sensitivity, uncertainty in averages:
            if parameter.grad is None:
                raise UserError("AdaLoRA reads gradients after a step: call moppa.after_step before the next zero_grad")
            weight = is_open.to(parameter.dtype)
            current = (parameter * parameter.grad).abs()
            sensitivity.lerp_(current, (1 - self.beta1) * weight)
            uncertainty.lerp_((current - sensitivity).abs(), (1 - self.beta2) * weight)

    def scores(self) -> Float[Tensor, " ranks"]:
        """Returns the importance of each triplet, matrix by matrix."""
        averages = zip(self.averages("sensitivity"), self.averages("uncertainty"), strict=True)
        importance = [sensitivity * uncertainty for sensitivity, uncertainty in averages]
        matrices = zip(importance[0::3], importance[1::3], importance[2::3], strict=True)
        return torch.cat([values.flatten() + down.mean(dim=1) + up.mean(dim=0) for down, up, values in matrices])

    def is_pruned(self, scores: Float[Tensor, " ranks"], progress: Tensor) -> Tensor:
        """Returns which triplets are outside of the budget. No shape and no host value depends on the progress."""
        share = ((progress - self.warmup) / (1 - self.warmup - self.final)).clamp(0, 1)
        num_spared = ((len(scores) - self.target) * (1 - share) ** 3).floor()
        num_pruned = (len(scores) - self.target - num_spared).long().view(1)
        threshold = scores.sort().values.gather(0, (num_pruned - 1).clamp(min=0))
        return (scores <= threshold) & (num_pruned > 0)

    def diagnostics(self, *, is_last: bool) -> dict[str, Tensor]:
        """Returns how many triplets each matrix has left, after the last step."""
        values = self.trained()[2::3]
        return {"ranks": torch.stack([value.count_nonzero().float() for value in values])} if is_last else {}
