"""Multinomial logistic regression, solved to convergence."""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

from moppa.utils.optimizers import LBFGS

TOLERANCE = 1e-5  # largest entry of the gradient at the solution; 1e-8 gave the same predictions on the mini suite
MAX_ITERATIONS = 2000
HISTORY = 20  # pairs of steps and gradients from which L-BFGS estimates the curvature


@dataclass(frozen=True, kw_only=True)
class LogisticFit:
    """A solution for features as they are: the logits are `features @ weight.T + bias`, both float64.

    `loss` is the mean cross-entropy without the penalty, `gradient` the largest entry of the gradient.
    """

    weight: Float[Tensor, "classes dim"]
    bias: Float[Tensor, " classes"]
    loss: float
    gradient: float
    num_iterations: int

    @property
    def has_converged(self) -> bool:
        """Whether the gradient is within the tolerance."""
        return self.gradient <= TOLERANCE


def fit_logistic(
    features: Float[Tensor, "count dim"], labels: Int[Tensor, " count"], *, num_classes: int, l2: float
) -> LogisticFit:
    """Minimizes the mean cross-entropy plus `l2 / 2` times the squared weights, for standardized features.

    Features are standardized by their mean and standard deviation (constant ones by their mean alone), and the solution
    is returned for the features as they are. The bias has no penalty. Full-batch L-BFGS starts from zero, computes in
    float64 and draws nothing. scikit-learn's `LogisticRegression(C=1 / (l2 * count))` after a `StandardScaler` has the
    same optimum.
    """
    features = features.double()
    std, mean = torch.std_mean(features, dim=0, correction=0)
    std = torch.where(std > 1e-7 * mean.abs(), std, 1.0)  # float32 noise is no variation
    standardized = (features - mean) / std
    # In these coordinates the second derivatives are of similar size, so that fewer iterations suffice: those of a
    # cross-entropy are at most half the covariance, and about a tenth of it near a solution.
    _, singular_values, axes = torch.linalg.svd(standardized, full_matrices=False)
    variances = singular_values.square() / len(features)
    scale = torch.where(variances > 1e-12 * variances.max(), (variances / 10 + l2).rsqrt(), 0.0)
    inputs, labels = standardized @ axes.T * scale, labels.long()
    weight = features.new_zeros(num_classes, len(axes), requires_grad=True)
    bias = features.new_zeros(num_classes, requires_grad=True)
    optimizer = LBFGS(
        [weight, bias],
        max_iter=MAX_ITERATIONS,
        max_eval=2 * MAX_ITERATIONS,
        tolerance_grad=TOLERANCE,
        tolerance_change=0.0,
        history_size=HISTORY,
        line_search_fn="strong_wolfe",
    )

    def penalty() -> Tensor:
        return l2 / 2 * (weight * scale).square().sum()

    def objective() -> Tensor:
        optimizer.zero_grad()
        loss = F.cross_entropy(inputs @ weight.T + bias, labels) + penalty()
        loss.backward()
        return loss

    with torch.enable_grad():
        optimizer.step(objective)
        loss = float((objective() - penalty()).detach())
    gradients = [parameter.grad for parameter in (weight, bias) if parameter.grad is not None]
    solution = (weight.detach() * scale) @ axes / std
    return LogisticFit(
        weight=solution,
        bias=bias.detach() - solution @ mean,
        loss=loss,
        gradient=max(float(gradient.abs().max()) for gradient in gradients),
        num_iterations=optimizer.state_dict()["state"][0]["n_iter"],
    )
