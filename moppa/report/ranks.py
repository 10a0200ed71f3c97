"""Methods over many tasks: average ranks, Friedman's test with Nemenyi's differences, wins, ties and losses.

Source: Demsar, Statistical Comparisons of Classifiers over Multiple Data Sets, JMLR 7 (2006).
"""

from dataclasses import dataclass

import numpy as np
import pandas as pd

from moppa.utils.errors import UserError


@dataclass(frozen=True, kw_only=True)
class Friedman:
    """Whether methods differ over the tasks, their average ranks (1 is best), and by how much ranks must differ."""

    statistic: float
    p_value: float
    average_ranks: pd.Series
    critical_difference: float
    nemenyi: pd.DataFrame
    num_tasks: int


def average_ranks(accuracies: pd.DataFrame) -> pd.Series:
    """The mean rank over tasks of each method (rows: methods, columns: tasks); equal accuracies share their ranks."""
    return accuracies.rank(axis=0, ascending=False, method="average").mean(axis=1).sort_values(kind="stable")


def friedman(accuracies: pd.DataFrame, *, alpha: float = 0.05) -> Friedman:
    """Friedman's test and Nemenyi's post-hoc over methods (rows) and tasks (columns), without missing cells."""
    from scikit_posthocs import posthoc_nemenyi_friedman
    from scipy import stats

    num_methods, num_tasks = accuracies.shape
    if num_methods < 3 or num_tasks < 2:
        raise UserError(
            f"Friedman's test needs 3 methods and 2 tasks at least, and there are {num_methods} and {num_tasks}"
        )
    if accuracies.isna().any(axis=None):
        raise UserError("Friedman's test needs every method on every task: leave out the incomplete rows")
    statistic, p_value = stats.friedmanchisquare(*accuracies.to_numpy())
    quantile = stats.studentized_range.ppf(1 - alpha, num_methods, np.inf) / np.sqrt(2)
    nemenyi = posthoc_nemenyi_friedman(accuracies.T.reset_index(drop=True))
    nemenyi.index = nemenyi.columns = accuracies.index
    return Friedman(
        statistic=float(statistic),
        p_value=float(p_value),
        average_ranks=average_ranks(accuracies),
        critical_difference=float(quantile * np.sqrt(num_methods * (num_methods + 1) / (6 * num_tasks))),
        nemenyi=nemenyi,
        num_tasks=num_tasks,
    )


def win_tie_loss(accuracies: pd.DataFrame, *, margin: float = 0.0) -> pd.DataFrame:
    """For every two methods, on how many tasks the row's wins, ties with and loses to the column's, as `W/T/L`.

    A tie is a difference of at most `margin` points.
    """
    values = accuracies.to_numpy()
    ahead = values[:, None, :] - values[None, :, :]
    wins, losses = (ahead > margin).sum(axis=2), (ahead < -margin).sum(axis=2)
    ties = np.isfinite(ahead).sum(axis=2) - wins - losses
    text = [
        ["" if i == j else f"{wins[i, j]}/{ties[i, j]}/{losses[i, j]}" for j in range(len(values))]
        for i in range(len(values))
    ]
    return pd.DataFrame(text, index=accuracies.index, columns=accuracies.index)
