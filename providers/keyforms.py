"""The forms of client keys and teams."""

from contextlib import suppress
from datetime import datetime
from typing import Any

from django import forms
from django.core.exceptions import ValidationError
from django.utils.text import capfirst

from providers import aliases as alias_names
from providers import allowances, newkeys
from providers.forms import CAPTURE_HELP, LIMIT_HELP, JSONText, Lines, OptionalNumbers
from providers.models import ClientKey, Team, every_alias
from providers.names import provider_names

BUDGET_HELP = {"budget": "US dollars a day, a month or in total: 5.00/month, or 50/month, 5/day. Empty: no budget."}


class PatternLines(Lines):
    def to_python(self, value: Any) -> Any:
        patterns = super().to_python(value)
        try:
            alias_names.check_all(patterns)
        except ValueError as error:
            raise ValidationError(capfirst(str(error))) from None
        return patterns


class Percentages(forms.CharField):
    """Whole numbers with commas between, such as 80, 100."""

    def prepare_value(self, value: Any) -> Any:
        return ", ".join(str(item) for item in value) if isinstance(value, list) else value

    def has_changed(self, initial: Any, data: Any) -> bool:
        return bool(super().has_changed(self.prepare_value(initial), data))

    def to_python(self, value: Any) -> Any:
        parts = [part.strip().removesuffix("%") for part in str(super().to_python(value)).split(",") if part.strip()]
        try:
            return allowances.percentages([int(part) for part in parts])
        except ValueError:
            raise ValidationError("Write whole percentages from 1 to 1000, such as 80, 100.") from None


class BudgetForm(OptionalNumbers):
    budget_alerts = Percentages(
        label="Alerts at percent", required=False, help_text="Of the budget, such as 80, 100. Empty: no alert."
    )

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        if self.instance._state.adding:
            self.fields["budget_alerts"].initial = allowances.BUDGET["budget_alerts"].default


class TeamForm(BudgetForm):
    class Meta:
        model = Team
        fields = ("name", "enabled", *allowances.TEAM)
        help_texts = {
            **LIMIT_HELP,
            **BUDGET_HELP,
            "enabled": "Switched off, all its keys are refused within two seconds.",
        }


class ClientKeyForm(BudgetForm):
    aliases = PatternLines(
        required=False,
        initial=every_alias,
        help_text="The models that it may ask for, one a line: fast, mistral/*, or * for all. Empty: none.",
    )
    endpoints = forms.MultipleChoiceField(
        required=False,
        choices=[(name, name) for name in allowances.ENDPOINTS],
        widget=forms.CheckboxSelectMultiple,
        help_text="None chosen: all but organization; without the alias * all but realtime, batches, evals, other too.",
    )
    cidrs = Lines(
        label="Source networks",
        required=False,
        help_text="Where calls may come from, one a line: 192.0.2.0/24, 2001:db8::/32. Empty: anywhere.",
    )
    origins = Lines(
        label="Web origins",
        required=False,
        help_text="Pages that may use a publishable key, one a line: https://app.example.com, https://*.example.com. "
        "Of a secret key: pages that the tokens which it mints may be meant for.",
    )
    tags = JSONText(required=False, help_text='Names and texts for your own accounts: {"cost_centre": "4711"}.')
    unknown_price = forms.CharField(
        label="Where no price is known",
        required=False,
        initial="allow",
        help_text="allow, block, or the US dollars that such a request is charged, as 0.05.",
    )

    class Meta:
        model = ClientKey
        fields = ("name", "kind", "aliases", "expires_at", "enabled", "team", *allowances.KEY)
        help_texts = {
            **LIMIT_HELP,
            **BUDGET_HELP,
            "name": "Who holds it, such as web-app or anna-laptop.",
            "expires_at": "From then on it is refused. Empty: it does not expire.",
            "enabled": "Switched off, it is refused within two seconds, everywhere.",
            "team": "Its limits and budget hold beside the key's own.",
            "max_tokens": "The most that a request may ask for, and what holds where it asks for nothing.",
            "cache": "On and off count where the alias keeps answers: an alias that is off keeps none.",
            "cache_ttl": "0: as long as the alias says.",
            **CAPTURE_HELP,
            "may_explain": "With the header x-gateway-explain: 1 it is told routes, prices, limits and what is left.",
            "max_n": "The most choices that a request may ask for.",
            "default_provider": "Where calls go that name no model, such as files. Empty: the oldest alias's.",
            "address_rpm": "Of each address that calls come from, of IPv6 each /64. 0: no limit. "
            "A publishable key must have it: it is what a script gets that has stolen the key.",
            "end_user_rpm": "Of each end user that the application names. 0: no limit.",
            "end_user_budget": "Of each end user: 1.00/day. Empty: no budget.",
        }

    kind = forms.ChoiceField(
        choices=[
            ("secret", "secret: for servers, never in a page or an app"),
            ("publishable", "publishable: may stand in a page's source"),
        ],
        required=False,
        initial=allowances.SECRET,
        help_text="A publishable key must name its pages, models and endpoints, most output tokens and requests a "
        "minute of an address.",
    )

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        if not self.instance._state.adding:
            self.fields.pop("kind", None)  # a key stays what it is
            return
        with suppress(ValueError):  # which the system check has said
            usual = newkeys.defaults()
            self.fields["rpm"].initial, self.fields["budget"].initial = usual.rpm, usual.budget
            self.fields["expires_at"].initial = usual.ends_at()

    def clean_default_provider(self) -> str:
        name: str = self.cleaned_data["default_provider"]
        known = provider_names()
        if name and name != self.initial.get("default_provider") and name not in known:
            raise ValidationError(f"There is no provider {name}; there are {', '.join(known) or 'none'}.")
        return name

    def clean_expires_at(self) -> datetime | None:
        """The page shows no fractions of a second: left as it is, the end is no change for the history."""
        given: datetime | None = self.cleaned_data["expires_at"]
        kept = self.instance.expires_at
        return kept if given and kept and given == kept.replace(microsecond=0) else given

    def clean_kind(self) -> str:
        return self.cleaned_data["kind"] or allowances.SECRET

    def clean_unknown_price(self) -> str:
        return self.cleaned_data["unknown_price"] or "allow"
