"""Comparisons of methods over many tasks: average ranks, Friedman's test, Nemenyi's test, wins, ties and losses.

Source: Demsar, Statistical Comparisons of Classifiers over Multiple Data Sets, JMLR 7 (2006).
"""

from dataclasses import dataclass

import numpy as np
import pandas as pd

from moppa.utils.errors import UserError


@dataclass(frozen=True, kw_only=True)
class Friedman:
    """The result of Friedman's test over tasks.

    Rank 1 is best. Average ranks that differ by less than the critical difference of Nemenyi's test are not
    significantly different.
    """

    statistic: float
    p_value: float
    average_ranks: pd.Series
    critical_difference: float
    num_tasks: int


def average_ranks(accuracies: pd.DataFrame) -> pd.Series:
    """Returns the mean rank over tasks (columns) of each method (rows); equal accuracies share their ranks."""
    return accuracies.rank(axis=0, ascending=False, method="average").mean(axis=1).sort_values(kind="stable")


def friedman(accuracies: pd.DataFrame, *, alpha: float = 0.05) -> Friedman:
    """Returns Friedman's test with Nemenyi's post-hoc test over methods (rows) and tasks (columns).

    Raises:
        UserError: with fewer than 3 methods or 2 tasks, or if a cell is missing.
    """
    from scipy import stats

    num_methods, num_tasks = accuracies.shape
    if num_methods < 3 or num_tasks < 2:
        raise UserError(
            f"Friedman's test needs at least 3 methods and 2 tasks, but there are {num_methods} and {num_tasks}"
        )
    if accuracies.isna().any(axis=None):
        raise UserError("Friedman's test needs every method on every task: leave out the incomplete rows")
    statistic, p_value = stats.friedmanchisquare(*accuracies.to_numpy())
    quantile = stats.studentized_range.ppf(1 - alpha, num_methods, np.inf) / np.sqrt(2)
    return Friedman(
        statistic=float(statistic),
        p_value=float(p_value),
        average_ranks=average_ranks(accuracies),
        critical_difference=float(quantile * np.sqrt(num_methods * (num_methods + 1) / (6 * num_tasks))),
        num_tasks=num_tasks,
    )


def win_tie_loss(accuracies: pd.DataFrame, *, margin: float = 0.0) -> pd.DataFrame:
    """Returns on how many tasks the row's method wins, ties with and loses to the column's, as `W/T/L`.

    A tie is a difference of at most `margin` points.
    """
    values = accuracies.to_numpy()
    differences = values[:, None, :] - values[None, :, :]
    wins, losses = (differences > margin).sum(axis=2), (differences < -margin).sum(axis=2)
    ties = np.isfinite(differences).sum(axis=2) - wins - losses
    text = [
        ["" if i == j else f"{wins[i, j]}/{ties[i, j]}/{losses[i, j]}" for j in range(len(values))]
        for i in range(len(values))
    ]
    return pd.DataFrame(text, index=accuracies.index, columns=accuracies.index)
