"""Amounts of US dollars (pure): a Decimal in the code, a whole number of units of 1e-10 dollars in SQL.

SQLite has no decimals: it would add them up as floating-point numbers, and a limit would be passed by a rounding error.
"""

from decimal import ROUND_CEILING, ROUND_HALF_UP, Context, Decimal

PLACES = 10
LARGEST = 2**63 - 1  # units, about 922 million dollars
ZERO = Decimal(0)
# Of its own: the usual context of a thread may be changed by anyone, and has 28 digits.
_CONTEXT = Context(prec=60)


def units(amount: Decimal) -> int:
    """The nearest whole number of units, at most LARGEST in either direction."""
    count = int(amount.scaleb(PLACES, _CONTEXT).to_integral_value(ROUND_HALF_UP))
    return count if -LARGEST <= count <= LARGEST else _bounded(count)


def units_up(amount: Decimal) -> int:
    """The smallest whole number of units that is not below the amount: what is set aside."""
    count = int(amount.scaleb(PLACES, _CONTEXT).to_integral_value(ROUND_CEILING))
    return count if -LARGEST <= count <= LARGEST else _bounded(count)


def dollars(count: int) -> Decimal:
    """The amount of so many units, without zeros at its end: 0.01, 12, 0."""
    amount = Decimal(count).scaleb(-PLACES, _CONTEXT).normalize(_CONTEXT)
    exponent = amount.as_tuple().exponent
    return amount.quantize(Decimal(1)) if isinstance(exponent, int) and exponent > 0 else amount


def text(amount: Decimal) -> str:
    """In figures: of a small amount `str` would make 1E-7."""
    return f"{amount:f}"


def rounded(amount: Decimal) -> Decimal:
    """The amount as SQL will give it back."""
    return dollars(units(amount))


def _bounded(count: int) -> int:
    return min(max(count, -LARGEST), LARGEST)
