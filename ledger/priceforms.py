"""The form of an operator's own price: it names only providers and aliases that there are."""

from typing import ClassVar

from django import forms
from django.core.exceptions import ValidationError

from ledger.models import PriceRow
from providers.names import alias_names, provider_names


class PriceForm(forms.ModelForm):  # type: ignore[type-arg]
    class Meta:
        model = PriceRow
        fields = ("provider", "model", "alias", "starts_at", "ends_at", *PriceRow.RATES)
        labels: ClassVar[dict[str, str]] = {
            "starts_at": "From (UTC)",
            "ends_at": "Until (UTC)",
            "input": "Input tokens",
            "output": "Output tokens",
            "cached": "Cached input tokens",
            "cache_write": "Input tokens written to a cache",
            "reasoning": "Reasoning tokens",
            "audio_in": "Audio input tokens",
            "audio_out": "Audio output tokens",
        }
        help_texts: ClassVar[dict[str, str]] = {
            "provider": "The name of a provider, such as mistral. Empty: every provider.",
            "model": "As the provider calls it, such as gpt-4o; gpt-4o* for all that begin so, * for every model.",
            "alias": "The name of a model alias: the price is for requests through it only. Empty: for all.",
            "ends_at": "Empty: it does not end.",
            "cached": "Empty: priced as input tokens.",
            "cache_write": "Empty: priced as input tokens.",
            "reasoning": "Empty: priced as output tokens.",
            "audio_in": "Empty: priced as input tokens.",
            "audio_out": "Empty: priced as output tokens.",
            "second": "Of audio or video.",
        }

    def clean_provider(self) -> str:
        return self._known("provider", provider_names())

    def clean_alias(self) -> str:
        return self._known("alias", alias_names())

    def _known(self, field: str, names: list[str]) -> str:
        """The name of one that is gone since may stay."""
        name: str = self.cleaned_data[field]
        if name and name != self.initial.get(field) and name not in names:
            raise ValidationError(f"There is no {field} {name}; there are {', '.join(names) or 'none'}.")
        return name
