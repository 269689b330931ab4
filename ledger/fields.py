"""A column for money: a Decimal of US dollars to the code, a whole number in the database."""

from decimal import Decimal
from typing import TYPE_CHECKING, Any

from django import forms
from django.db import models

from ledger import money

if TYPE_CHECKING:  # generic for the type checker alone
    _Integers = models.BigIntegerField[Any, Any]
else:
    _Integers = models.BigIntegerField


class MoneyField(_Integers):
    """Units of 1e-10 dollars; sums and comparisons in SQL are exact in every database."""

    if TYPE_CHECKING:  # by these names django-stubs finds what may be put in, and what comes out
        _pyi_private_set_type: Any
        _pyi_private_get_type: Any
        _pyi_lookup_exact_type: Any

    def from_db_value(self, value: int | Decimal | None, expression: Any, connection: Any) -> Decimal | None:
        return None if value is None else money.dollars(int(value))

    def to_python(self, value: Any) -> Any:
        if value is None or isinstance(value, Decimal):
            return value
        return models.DecimalField(max_digits=19, decimal_places=money.PLACES).to_python(value)

    def get_prep_value(self, value: Any) -> int | None:
        return None if value is None else money.units(Decimal(value))

    def formfield(self, **kwargs: Any) -> Any:
        # BigIntegerField sets bounds in whole numbers, which are units here.
        return models.Field.formfield(
            self, **{"form_class": forms.DecimalField, "decimal_places": money.PLACES, "max_digits": 19, **kwargs}
        )
