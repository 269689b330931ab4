"""Numbers as people read them (pure)."""

from decimal import Decimal

LETTERS = ((10**9, "B"), (10**6, "M"), (10**3, "k"))


def compact(number: int | Decimal) -> str:
    """Three figures and a letter: 950, 12.3k, 4.56M."""
    for size, letter in LETTERS:
        # 999,950 is a million to three figures.
        if number >= size * Decimal("0.9995") and number >= 1000:
            value = Decimal(number) / size
            places = 2 if value < Decimal("9.995") else 1 if value < Decimal("99.95") else 0
            text = f"{value:.{places}f}"
            return (text.rstrip("0").rstrip(".") if places else text) + letter
    return f"{number:f}" if isinstance(number, Decimal) else str(number)


def places_for(largest: Decimal) -> int:
    """The places after the point at which a column with this amount in it is read: cents, or parts of them."""
    return 2 if largest >= 10 else 4 if largest >= Decimal("0.1") else 6


def dollars(amount: Decimal, places: int) -> str:
    if amount == 0:
        return "$0"
    least = Decimal(1).scaleb(-places)
    if 0 < amount < least / 2:
        return f"<${least:f}"
    return f"{'-' * (amount < 0)}${abs(amount):,.{places}f}"


def percent(part: int | Decimal, whole: int | Decimal) -> str:
    """To a tenth, and whole from ten on."""
    if not whole:
        return ""
    value = Decimal(part) * 100 / Decimal(whole)
    if 0 < value < Decimal("0.05"):
        return "<0.1%"
    return f"{value:.0f}%" if value >= 10 or value == 0 else f"{value:.1f}%"


def change(now: int | Decimal, before: int | Decimal) -> str:
    """`+12%`; nothing where there is nothing to compare with."""
    if not before:
        return ""
    value = (Decimal(now) - Decimal(before)) * 100 / Decimal(before)
    if value > 999:
        return f"{compact(Decimal(now) / Decimal(before))[:5]} times"
    return "0%" if abs(value) < Decimal("0.5") else f"{value:+.0f}%".replace("-", "\u2212")
