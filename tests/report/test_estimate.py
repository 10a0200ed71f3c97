"""Intervals, differences, McNemar's test and Holm's method agree with cases computed by hand and with scipy."""

from fractions import Fraction

import numpy as np
import pytest
from scipy import stats as reference

from moppa.report.estimate import (
    Component,
    Correctness,
    Estimate,
    estimate_accuracy,
    estimate_difference,
    holm,
    mcnemar,
    weighted_sum,
)


def seeds(*rows):
    return Correctness.from_seeds([np.array(row, dtype=bool) for row in rows])


def test_mcnemar_is_the_sign_test_on_the_images_that_only_one_run_predicts_correctly():
    first = np.array([1] * 8 + [0] * 2 + [1] * 50 + [0] * 40, dtype=bool)
    second = np.array([0] * 8 + [1] * 2 + [1] * 50 + [0] * 40, dtype=bool)
    # 8 against 2: 2 * (1 + 10 + 45) / 2**10
    assert mcnemar(first, second) == pytest.approx(112 / 1024)
    assert mcnemar(second, first) == mcnemar(first, second)
    assert mcnemar(first, first) == 1.0


def test_the_interval_of_one_run_is_that_of_the_binomial_distribution():
    interval = estimate_accuracy(seeds([1] * 600 + [0] * 400)).interval()
    width = 1.96 * 100 * np.sqrt(0.6 * 0.4 / 1000)
    assert interval.value == 60
    assert interval.low == pytest.approx(60 - width, abs=0.01)
    assert interval.high == pytest.approx(60 + width, abs=0.01)


def test_the_difference_of_single_runs_is_the_paired_t_test_over_images():
    first = np.array([1] * 700 + [1] * 30 + [0] * 10 + [0] * 260)
    second = np.array([1] * 700 + [0] * 30 + [1] * 10 + [0] * 260)
    difference = estimate_difference(seeds(first), seeds(second))
    expected = reference.ttest_rel(first, second)
    assert difference.value == 2
    assert difference.p_value == pytest.approx(expected.pvalue)
    interval = expected.confidence_interval(0.95)
    assert difference.interval().low == pytest.approx(100 * interval.low)
    assert difference.interval().high == pytest.approx(100 * interval.high)


def test_the_difference_of_rows_without_noise_of_images_is_the_t_test_of_welch_over_seeds():
    counts = ([5000, 5200, 5600], [4900, 4950, 4960])
    first, second = (Correctness(by_image=np.full(10**4, 1.5), by_seed=tuple(of_row)) for of_row in counts)
    expected = reference.ttest_ind(*counts, equal_var=False)
    assert estimate_difference(first, second).p_value == pytest.approx(expected.pvalue)


def test_a_row_of_three_seeds_counts_all_of_them():
    generator = np.random.default_rng(0)
    rows = [[generator.random(2000) < accuracy for accuracy in of_row] for of_row in ((0.7, 0.7, 0.7), (0.7, 0.4, 0.7))]
    both = [Correctness.from_seeds(row) for row in rows]
    alone = [Correctness.from_seeds(row[:1]) for row in rows]
    assert estimate_difference(*both).value > 5
    assert abs(estimate_difference(*alone).value) < 3
    variances = [component.variance for component in estimate_difference(*both).components]
    assert variances[2] == pytest.approx(np.var([100 * seed.mean() for seed in rows[1]], ddof=1) / 3)


def test_a_mean_over_tasks_adds_variances_by_squared_weights_and_satterthwaites_degrees_of_freedom():
    estimates = [
        Estimate(value=Fraction(4), components=(Component(variance=9, freedom=2),)),
        Estimate(value=Fraction(6), components=(Component(variance=16, freedom=4),)),
    ]
    total = weighted_sum((Fraction(1, 2), estimate) for estimate in estimates)
    assert (total.value, total.variance) == (5, 25 / 4)
    assert total.freedom == pytest.approx(25**2 / (9**2 / 2 + 16**2 / 4))
    assert total.p_value == pytest.approx(2 * reference.t.sf(5 / 2.5, total.freedom))
    unknown = weighted_sum((Fraction(1), estimate) for estimate in (estimates[0], Estimate(value=Fraction(1))))
    assert (unknown.value, unknown.p_value) == (5, 1.0)
    assert unknown.interval().low == unknown.interval().high == 5


def test_equal_rows_do_not_differ_and_constant_differences_do():
    row = seeds([1, 1, 0, 0], [1, 1, 1, 0])
    assert estimate_difference(row, row).p_value == 1.0
    assert estimate_difference(seeds([1] * 9, [1] * 9), seeds([0] * 9, [0] * 9)).p_value == 0.0


def test_holm_adjusts_as_computed_by_hand():
    p_values = [0.03, 0.01, 0.02, 0.5]
    assert holm(p_values, list("abcd")) == pytest.approx([0.06, 0.04, 0.06, 0.5])
    assert holm([], []) == []


def test_a_family_whose_claims_imply_each_other_counts_once_until_all_are_accepted():
    # 2 families for 0.01 and 0.02 (family a still has a claim), then a and b for 0.02, then b alone
    assert holm([0.01, 0.02, 0.04], ["a", "a", "b"]) == pytest.approx([0.02, 0.04, 0.04])
