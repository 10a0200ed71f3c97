"""Bootstrap, McNemar, Friedman and Nemenyi agree with cases computed by hand and with scipy."""

from itertools import permutations

import numpy as np
import pandas as pd
import pytest
from scikit_posthocs import posthoc_nemenyi_friedman
from scipy import stats as reference

from moppa.report.bootstrap import accuracy_interval, difference_draws, draw_accuracies, mcnemar, paired_difference
from moppa.report.ranks import average_ranks, friedman, win_tie_loss
from moppa.utils.errors import UserError


def correctness(*rows):
    return np.array(rows, dtype=bool)


def test_mcnemar_is_the_sign_test_on_the_images_that_only_one_run_predicts_correctly():
    first = np.array([1] * 8 + [0] * 2 + [1] * 50 + [0] * 40, dtype=bool)
    second = np.array([0] * 8 + [1] * 2 + [1] * 50 + [0] * 40, dtype=bool)
    # 8 against 2: 2 * (1 + 10 + 45) / 2**10
    assert mcnemar(first, second) == pytest.approx(112 / 1024)
    assert mcnemar(second, first) == mcnemar(first, second)
    assert mcnemar(first, first) == 1.0


def test_the_interval_of_one_run_is_that_of_the_binomial_distribution():
    correct = correctness([1] * 600 + [0] * 400)
    interval = accuracy_interval(correct, seed=0, num_draws=20_000)
    spread = 1.96 * 100 * np.sqrt(0.6 * 0.4 / 1000)
    assert interval.value == pytest.approx(60)
    assert interval.low == pytest.approx(60 - spread, abs=0.15)
    assert interval.high == pytest.approx(60 + spread, abs=0.15)


def test_the_spread_of_a_paired_difference_is_that_of_the_discordant_images():
    first = correctness([1] * 700 + [1] * 30 + [0] * 10 + [0] * 260)
    second = correctness([1] * 700 + [0] * 30 + [1] * 10 + [0] * 260)
    draws = difference_draws(first, second, seed=0, num_draws=20_000)
    variance = (40 - 20**2 / 1000) / 1000**2  # of the mean of +1 (30 times), -1 (10 times) and 0
    assert draws.mean() == pytest.approx(2.0, abs=0.03)
    assert draws.std() == pytest.approx(100 * np.sqrt(variance), rel=0.03)
    assert paired_difference(first, second, seed=0).excludes_zero


def test_only_seeds_of_different_accuracy_widen_the_interval():
    generator = np.random.default_rng(0)
    equal = np.stack([generator.permutation(np.arange(4000) < 2000) for _ in range(3)])
    different = np.stack([generator.permutation(np.arange(4000) < count) for count in (1800, 2000, 2200)])
    [equal_draws] = draw_accuracies([equal], seed=0, num_draws=20_000)
    [different_draws] = draw_accuracies([different], seed=0, num_draws=20_000)
    images = 100 * np.sqrt(0.25 / 4000 / 3)  # three independent runs
    seeds = np.std([45, 50, 55], ddof=1) / np.sqrt(3)
    assert equal_draws.std() < 2 * images
    assert different_draws.std() == pytest.approx(seeds, rel=0.1)


def test_the_same_seed_gives_the_same_interval():
    correct = correctness([1, 0] * 50, [1, 1] * 50)
    assert accuracy_interval(correct, seed=3) == accuracy_interval(correct, seed=3)
    assert accuracy_interval(correct, seed=3) != accuracy_interval(correct, seed=4)


def test_more_than_sixteen_seeds_are_drawn_too():
    correct = np.random.default_rng(0).random((20, 500)) < 0.7
    interval = accuracy_interval(correct, seed=0)
    assert interval.low < 100 * correct.mean() < interval.high
    assert interval.high - interval.low < 6


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
