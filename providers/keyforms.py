"""The forms of client keys and teams."""

from contextlib import suppress
from datetime import datetime
from typing import Any

from django import forms
from django.core.exceptions import ValidationError
from django.utils.text import capfirst

from providers import aliases as alias_names
from providers import allowances, newkeys
from providers.forms import CAPTURE_HELP, CAPTURE_LABELS, LIMIT_HELP, LIMIT_LABELS, JSONText, Lines, OptionalNumbers
from providers.models import ClientKey, Team, every_alias
from providers.names import provider_names

BUDGET_HELP = {
    "budget": "US dollars per day, per month or in total, such as 5.00/month or 100/total. Several with commas: "
    "50/month, 5/day. Empty: no budget."
}


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
        label="Alert at (%)",
        required=False,
        help_text="An alert is sent when so much of the budget is spent, such as 80, 100. Empty: no alert.",
    )

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        if self.instance._state.adding:
            self.fields["budget_alerts"].initial = allowances.BUDGET["budget_alerts"].default


class TeamForm(BudgetForm):
    class Meta:
        model = Team
        fields = ("name", "enabled", *allowances.TEAM)
        labels = LIMIT_LABELS
        help_texts = {
            **LIMIT_HELP,
            **BUDGET_HELP,
            "enabled": "If off, all its keys are refused within two seconds.",
        }


class ClientKeyForm(BudgetForm):
    aliases = PatternLines(
        label="Model aliases",
        required=False,
        initial=every_alias,
        help_text="The models that this key may use, one per line: fast, mistral/* for all that begin so, * for every "
        "model. Empty: none.",
    )
    endpoints = forms.MultipleChoiceField(
        label="API endpoints",
        required=False,
        choices=[(name, name) for name in allowances.ENDPOINTS],
        widget=forms.CheckboxSelectMultiple,
        help_text="The parts of the API that this key may call. None checked: all except organization. A key that may "
        "not use every model (*) then has no realtime, batches, evals and other either: they name models in places "
        "that the gateway does not read.",
    )
    cidrs = Lines(
        label="Allowed IP addresses",
        required=False,
        help_text="Addresses or networks (CIDR) that may use this key, one per line: 192.0.2.0/24, 2001:db8::/32. "
        "Empty: all.",
    )
    origins = Lines(
        label="Allowed web origins",
        required=False,
        help_text="Web pages that may use a publishable key, one per line: https://app.example.com, "
        "https://*.example.com. For a secret key: pages that may use the tokens which a server makes with it.",
    )
    tags = JSONText(
        required=False, help_text='Names and values for your own bookkeeping, as JSON: {"cost_centre": "4711"}.'
    )
    unknown_price = forms.CharField(
        label="If the price is unknown",
        required=False,
        initial="allow",
        help_text="For models without a price. allow: serve the request; block: refuse it; or the US dollars to charge "
        "for it, such as 0.05.",
    )

    class Meta:
        model = ClientKey
        fields = ("name", "kind", "aliases", "expires_at", "enabled", "team", *allowances.KEY)
        labels = {
            **LIMIT_LABELS,
            **CAPTURE_LABELS,
            "expires_at": "Expires at (UTC)",
            "max_tokens": "Max output tokens",
            "max_n": "Max choices (n)",
            "cache": "Response cache",
            "cache_ttl": "Time to live (seconds)",
            "may_explain": "May see routing details",
            "address_rpm": "Requests per minute per IP address",
            "address_tpm": "Tokens per minute per IP address",
            "address_concurrency": "Concurrent requests per IP address",
            "end_user_rpm": "Requests per minute per end user",
            "end_user_tpm": "Tokens per minute per end user",
            "end_user_concurrency": "Concurrent requests per end user",
            "end_user_budget": "Budget per end user",
            "id": "Key id",
            "foreign": "Imported",
            "principal": "Usage counted under",
            "successor": "Replaced by",
            "pepper_deadline": "Must be used before",
            "source": "Managed in",
        }
        help_texts = {
            **LIMIT_HELP,
            **BUDGET_HELP,
            **CAPTURE_HELP,
            "name": "Who uses it, such as web-app or anna-laptop.",
            "expires_at": "The key is refused from then on. Empty: it does not expire.",
            "enabled": "If off, the key is refused everywhere within two seconds.",
            "team": "The team's limits and budget hold in addition to the key's own.",
            "default_provider": "Where requests go that name no model, such as uploads of files. Empty: to the "
            "provider of the oldest alias that this key may use.",
            "max_tokens": "The highest max_tokens of a request, and what holds if it has none. Empty: no limit.",
            "max_n": "The highest n of a request. Empty: no limit.",
            "cache": "on and off have an effect only if the model alias has a response cache.",
            "cache_ttl": "How long an answer may be given to this key again. 0: as long as the alias says.",
            "may_explain": "With the header x-gateway-explain: 1 a client is told the routes, prices and limits of its "
            "request, and what is left of them.",
            "address_rpm": "For each address that requests come from; for IPv6 each /64 network. 0: no limit. Required "
            "for a publishable key: anybody can copy it, and this is all that one address then gets.",
            "end_user_rpm": "For each end user: whom the application names (safety_identifier, user), else each IP "
            "address. 0: no limit.",
            "end_user_budget": "US dollars, such as 1.00/day. Empty: no budget.",
            "foreign": "Made elsewhere and brought here, so that the key does not hold its id.",
            "principal": "The id of the first key, if this one took another's place: they share limits and budget.",
            "pepper_deadline": "The secret that keys are stored with (the pepper) was replaced. A key that is not used "
            "before this moment is refused from then on.",
        }

    kind = forms.ChoiceField(
        choices=[
            ("secret", "secret: for servers, never in a web page or an app"),
            ("publishable", "publishable: may be seen in the source of a web page"),
        ],
        required=False,
        initial=allowances.SECRET,
        help_text="A publishable key needs web origins, model aliases and endpoints that are named one by one, max "
        "output tokens, and requests per minute per IP address. It cannot be changed later.",
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
