"""One rule of rounding, exact, for every number that is shown."""

from decimal import ROUND_HALF_UP, Decimal
from fractions import Fraction

import numpy as np
import pytest

from moppa.report.rounding import round_text


@pytest.mark.parametrize(
    ("value", "digits", "text"),
    [
        (Fraction(5195, 100), 1, "52.0"),  # f"{51.95:.1f}" is 52.0 and f"{16.25:.1f}" is 16.2
        (Fraction(1625, 100), 1, "16.3"),
        (Fraction(-5, 100), 1, "-0.1"),
        (Fraction(-4, 100), 1, "0.0"),
        (0.15, 1, "0.2"),
        (np.float64(0.25), 1, "0.3"),
        (99.95, 1, "100.0"),
        (0.0004, 3, "0.000"),
    ],
)
def test_half_is_rounded_away_from_zero(value, digits, text):
    assert round_text(value, digits) == text


@pytest.mark.parametrize(
    ("value", "text"), [(Fraction(2995, 100), "+30.0"), (-1.05, "-1.1"), (0, "+0.0"), (-0.01, "+0.0")]
)
def test_a_signed_number_always_has_a_sign_and_zero_has_no_minus(value, text):
    assert round_text(value, signed=True) == text


def test_fractions_are_rounded_as_decimals_are():
    for numerator in range(-2000, 2000, 7):
        exact = Decimal(numerator) / 80
        expected = exact.quantize(Decimal("0.1"), rounding=ROUND_HALF_UP)
        assert round_text(Fraction(numerator, 80)) == str(expected).replace("-0.0", "0.0")
