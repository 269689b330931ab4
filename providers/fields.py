"""A column that can hold a sealed credential and nothing else."""

from typing import TYPE_CHECKING, Any

from django.core.exceptions import ValidationError
from django.db import models

from providers import vault

if TYPE_CHECKING:
    TextField = models.TextField[str, str]
else:
    TextField = models.TextField


class SealedField(TextField):
    """Text that is "" or sealed by providers/vault.py; else it is refused on its way to the database or a dump."""

    def get_prep_value(self, value: Any) -> Any:
        value = super().get_prep_value(value)
        if isinstance(value, str) and value and not vault.is_sealed(value):
            raise ValidationError(f"{self.name} holds sealed values only", code="not_sealed")
        return value

    def value_to_string(self, obj: models.Model) -> str:
        return str(self.get_prep_value(self.value_from_object(obj)))
