"""Friedman and Nemenyi agree with cases computed by hand and with scipy."""

from itertools import permutations

import numpy as np
import pandas as pd
import pytest
from scikit_posthocs import posthoc_nemenyi_friedman
from scipy import stats as reference

from moppa.report.ranks import average_ranks, friedman, win_tie_loss
from moppa.utils.errors import UserError

ACCURACIES = pd.DataFrame(
    {"a": [90.0, 80, 70], "b": [85, 86, 60], "c": [70, 60, 50], "d": [90, 90, 10]}, index=["x", "y", "z"]
)


def test_average_ranks_equal_those_computed_by_hand():
    # a: 1 2 3, b: 2 1 3, c: 1 2 3, d: 1.5 1.5 3
    assert average_ranks(ACCURACIES).to_dict() == {"x": 5.5 / 4, "y": 6.5 / 4, "z": 3.0}


def test_friedman_equals_scipy_and_the_formula():
    test = friedman(ACCURACIES)
    # 12 / (N k (k + 1)) * sum of squared rank sums - 3 N (k + 1), over 1 - ties / (N k (k^2 - 1)) for one tied pair
    plain = 12 / (4 * 3 * 4) * (5.5**2 + 6.5**2 + 12**2) - 3 * 4 * 4
    assert test.statistic == pytest.approx(plain / (1 - 6 / (4 * 3 * 8)))
    assert test.p_value == pytest.approx(reference.chi2.sf(test.statistic, 2))


@pytest.mark.parametrize(("num_methods", "quantile"), [(3, 2.343), (5, 2.728), (10, 3.164)])
def test_the_critical_difference_is_that_of_demsars_table(num_methods, quantile):
    table = pd.DataFrame(np.random.default_rng(0).random((num_methods, 14)))
    expected = quantile * np.sqrt(num_methods * (num_methods + 1) / (6 * 14))
    assert friedman(table).critical_difference == pytest.approx(expected, rel=1e-3)


def test_nemenyis_p_is_below_five_percent_if_and_only_if_ranks_differ_by_the_critical_difference():
    table = pd.DataFrame(np.random.default_rng(1).random((6, 19)) + np.linspace(0, 1, 6)[:, None])
    test = friedman(table)
    p_values = posthoc_nemenyi_friedman(table.T.reset_index(drop=True))
    ranks = test.average_ranks
    for first, second in permutations(table.index, 2):
        is_different = abs(ranks[first] - ranks[second]) > test.critical_difference
        assert (p_values.loc[first, second] < 0.05) == is_different


def test_wins_ties_and_losses_equal_those_counted_by_hand():
    table = win_tie_loss(ACCURACIES)
    assert table.loc["x", "y"] == "2/1/1"
    assert table.loc["y", "x"] == "1/1/2"
    assert table.loc["x", "z"] == "4/0/0"
    assert table.loc["x", "x"] == ""
    assert win_tie_loss(ACCURACIES, margin=7).loc["x", "y"] == "2/2/0"


def test_too_few_methods_and_missing_cells_are_errors():
    with pytest.raises(UserError, match="3 methods"):
        friedman(ACCURACIES.iloc[:2])
    with pytest.raises(UserError, match="incomplete"):
        friedman(ACCURACIES.replace(90.0, np.nan))
