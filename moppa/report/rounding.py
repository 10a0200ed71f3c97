"""The one way in which a number becomes text: exact arithmetic, and half is rounded away from zero.

Tables, comparisons, figures and the page use it, so that the same quantity reads the same everywhere.
"""

from fractions import Fraction

Number = Fraction | float


def exact(value: Number) -> Fraction:
    """Returns a number as a fraction; of a float, the decimal that it is printed as."""
    return value if isinstance(value, Fraction) else Fraction(str(value))


def round_text(value: Number, digits: int = 1, *, signed: bool = False) -> str:
    """Returns a number with this many decimals (at least 1); half is rounded away from zero, and zero has no minus."""
    number = exact(value) * 10**digits
    units = (2 * abs(number.numerator) + number.denominator) // (2 * number.denominator)  # floor of |number| + 1/2
    whole, rest = divmod(units, 10**digits)
    sign = "-" if number < 0 and units else "+" if signed else ""
    return f"{sign}{whole}.{rest:0{digits}d}"
