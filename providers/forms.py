"""The forms of the admin: they say what is wrong at the field, and never show a secret again."""

import json
from typing import Any

from django import forms
from django.conf import settings
from django.core.exceptions import ValidationError
from django.utils.text import capfirst

from providers import aliases as alias_names
from providers import dialects, quirks
from providers.addresses import AddressError, origin
from providers.configfile import ConfigError
from providers.draft import ProviderValues, settled
from providers.models import Credential, ModelAlias, Provider, Route
from providers.overlay import address_policy


class JSONText(forms.JSONField):
    """JSON in a small text area, indented so that it can be read; nothing written is an empty object."""

    widget = forms.Textarea(attrs={"rows": 4, "class": "json", "spellcheck": "false"})

    def prepare_value(self, value: Any) -> Any:
        if value is None or isinstance(value, dict):
            return json.dumps(value or {}, indent=2, ensure_ascii=False)
        return super().prepare_value(value)

    def clean(self, value: Any) -> Any:
        found = super().clean(value)
        if found in (None, ""):
            return {}
        if not isinstance(found, dict):
            raise ValidationError("This must be an object: names and values in { }.")
        return found


class Lines(forms.CharField):
    """A list of texts, one a line."""

    widget = forms.Textarea(attrs={"rows": 4, "class": "json", "spellcheck": "false"})

    def prepare_value(self, value: Any) -> Any:
        return "\n".join(str(item) for item in value) if isinstance(value, list) else value

    def has_changed(self, initial: Any, data: Any) -> bool:
        return bool(super().has_changed(self.prepare_value(initial), data))

    def to_python(self, value: Any) -> Any:
        return [line.strip() for line in str(super().to_python(value)).splitlines() if line.strip()]


class AdapterLines(Lines):
    def to_python(self, value: Any) -> Any:
        try:
            return alias_names.adapters(super().to_python(value))
        except ValueError as error:
            raise ValidationError(f"{capfirst(str(error))}.") from None


def _options_help() -> str:
    lines = {f"{name}: {text}" for dialect in dialects.registry().values() for name, text in dialect.options.items()}
    return f"{'; '.join(sorted(lines))}. Placeholders of the base URL may be given here too."


class ProviderForm(forms.ModelForm):  # type: ignore[type-arg]
    options = JSONText(required=False)
    quirks = JSONText(
        required=False,
        help_text='What is different at this upstream, such as {"rename": {"max_completion_tokens": "max_tokens"}, '
        f'"drop": ["user"], "set": {{"safe_prompt": true}}}}. There are {", ".join(quirks.NAMES)}: docs/providers.md.',
    )
    timeouts = JSONText(
        required=False,
        help_text='Seconds, such as {"first_byte": 120, "gap": 60, "total": 600}; what is left out keeps its default.',
    )

    class Meta:
        model = Provider
        fields = ("name", "dialect", "base_url", "enabled", "options", "quirks", "timeouts")
        widgets = {"base_url": forms.TextInput(attrs={"class": "vTextField wide", "spellcheck": "false"})}
        help_texts = {
            "name": "Short, such as mistral or lab-gpu: aliases and the usage table call it so.",
            "dialect": "How the upstream wants to be spoken to. Most speak OpenAI's.",
            "base_url": "Up to and with /v1, such as https://api.mistral.ai/v1. "
            "What stands in { } is for you to fill in.",
            "enabled": "Switched off, it is passed over; the next route of an alias takes its place.",
        }

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.fields["options"].help_text = _options_help()
        self.fields["quirks"].widget.attrs["rows"] = 10

    def clean(self) -> dict[str, Any]:
        data = super().clean() or self.cleaned_data
        if not {"dialect", "base_url", "options", "quirks", "timeouts"} <= data.keys():
            return data
        given = ProviderValues(data["dialect"], data["base_url"], data["options"], data["quirks"], data["timeouts"])
        try:
            values, faults = settled(given, address_policy())
        except ConfigError as error:
            raise ValidationError(list(error.problems)) from None
        for fault in faults:
            # What is wrong with JSON begins with a name in it, which is written as it is.
            said = capfirst(fault.message) if fault.field in ("dialect", "base_url") else fault.message
            self.add_error(fault.field, said)
        if not faults:
            data["base_url"], data["options"] = values.base_url, dict(values.options)
        return data


class CredentialForm(forms.ModelForm):  # type: ignore[type-arg]
    secret = forms.CharField(
        label="key",
        required=False,
        max_length=8192,
        widget=forms.PasswordInput(render_value=False, attrs={"autocomplete": "new-password"}),
        help_text="Stored encrypted and never shown again. Leave it empty to keep the one that is there.",
    )

    class Meta:
        model = Credential
        fields = ("name", "secret", "reference", "enabled")
        help_texts = {"reference": "Instead of a key: env:NAME, an environment variable that each process reads."}
        widgets = {"reference": forms.TextInput(attrs={"class": "vTextField", "placeholder": "env:NAME"})}

    def clean(self) -> dict[str, Any]:
        data = super().clean() or self.cleaned_data
        secret, reference = data.get("secret", ""), data.get("reference", "")
        if secret and reference:
            self.add_error("secret", "Give a key or a reference, not both.")
        elif not secret and not reference and not self.instance.sealed and "reference" not in self.errors:
            self.add_error("secret", "Enter the key, or give a reference.")
        elif secret and not (secret.isascii() and secret.isprintable() and " " not in secret):
            self.add_error("secret", "This is no key: it holds spaces or characters that no header can carry.")
        elif secret and not settings.GATEWAY_ENCRYPTION_KEYS:
            self.add_error("secret", "No key can be stored here: GATEWAY_ENCRYPTION_KEYS is not set. Use a reference.")
        return data

    def save(self, commit: bool = True) -> Credential:
        if self.cleaned_data.get("secret"):
            self.instance.seal(self.cleaned_data["secret"])
        elif self.cleaned_data.get("reference"):
            self.instance.sealed = self.instance.hint = ""
        saved: Credential = super().save(commit)
        return saved


class CredentialFormSet(forms.BaseInlineFormSet):  # type: ignore[type-arg]
    """A stored key is sealed for one origin: with another address it must be entered again."""

    def clean(self) -> None:
        super().clean()
        before = Provider.objects.filter(pk=self.instance.pk).values_list("base_url", flat=True).first()
        if before is None or _origin(before) == _origin(self.instance.base_url):
            return
        for form in self.initial_forms:
            data = form.cleaned_data if form.is_valid() else {}
            kept = not (data.get("secret") or data.get("reference") or data.get("DELETE"))
            if data and kept and form.instance.sealed:
                form.add_error(
                    "secret", "The provider's address leads elsewhere now: enter the key again, so that it goes there."
                )


def _origin(base_url: str) -> str:
    try:
        return origin(base_url) if base_url else ""
    except AddressError:
        return base_url


LIMIT_LABELS = {
    "rpm": "Requests per minute",
    "burst": "Burst",
    "tpm": "Tokens per minute",
    "concurrency": "Concurrent requests",
}
LIMIT_HELP = {
    "rpm": "0: no limit.",
    "burst": "How many of them may come all at once. 0: a tenth of the requests per minute.",
    "tpm": "Input and output tokens together. 0: no limit.",
    "concurrency": "How many may run at the same time. 0: no limit.",
}


CACHE_LABELS = {
    "cache": "Response cache",
    "cache_ttl": "Time to live (seconds)",
    "cache_stale": "Stale if error (seconds)",
    "cache_scope": "Shared by",
    "cache_store": "Stored in",
    "cache_semantic": "Alias for embeddings",
    "cache_similarity": "Lowest similarity",
}
CACHE_HELP = {
    "cache": "Whether an answer is stored and given again to an equal request, at no cost.",
    "cache_ttl": "How long an answer is given again. At most 30 days.",
    "cache_stale": "How long after that an answer may still be given when the provider fails. 0: never.",
    "cache_scope": "Whoever shares them can be given what another one's question was answered with.",
    "cache_store": "Redis where REDIS_URL is set, else the database.",
    "cache_temperature": "Requests with a higher one are not kept; 1 is what providers take where none is given.",
    "cache_semantic": "Also give the answer to a question that means the same: the alias that makes embeddings, each "
    "one billed and limited as a call of the key. Empty: equal requests only.",
    "cache_similarity": "The least cosine similarity of two such questions, from 0.5 to 1.",
}


CAPTURE_LABELS = {"capture": "Captured requests (%)"}
CAPTURE_HELP = {
    "capture": "The share of requests whose prompt and answer are stored, redacted and encrypted, for a few days. Of "
    "the alias's share and the key's the higher one holds. 0: nothing is stored.",
}


class OptionalNumbers(forms.ModelForm):  # type: ignore[type-arg]
    """An empty number is no limit, and what is not said about the cache stays as it is at first."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        for name, field in self.fields.items():
            if isinstance(field, forms.IntegerField) or name in (*CACHE_HELP, *CAPTURE_HELP):
                field.required = False


class AliasForm(OptionalNumbers):
    adapters = AdapterLines(
        required=False,
        help_text="What clients may put behind the name and a colon, one a line: tickets/3, or support/* for all that "
        "begin so. fast:tickets/3 then asks for that adapter on this alias's model. For Predibase, LoRAX, vLLM and "
        "Fireworks, and only for the keys that may use such names.",
    )

    class Meta:
        model = ModelAlias
        fields = (
            "name",
            "strategy",
            "enabled",
            "retry_after_timeout",
            "early_200",
            "adapters",
            *LIMIT_HELP,
            *CACHE_HELP,
            *CAPTURE_HELP,
        )
        labels = {**LIMIT_LABELS, **CACHE_LABELS, **CAPTURE_LABELS}
        help_texts = {
            **LIMIT_HELP,
            **CACHE_HELP,
            **CAPTURE_HELP,
            "name": "What clients send as model: fast for one name, "
            "mistral/* for all that begin so, * for every other.",
            "strategy": "In order: the first route, the next one when it fails. "
            "By weight: at random, by their weights.",
            "retry_after_timeout": "Also go on to the next route, once, when one timed out after the request was "
            "sent. The timed out call may have been billed: it is charged by an estimate.",
            "early_200": "Answer streams with 200 before the provider answers, for load balancers that wait for no "
            "first byte. Errors then come inside the stream.",
            "enabled": "Switched off, clients are told that there is no such model.",
        }


class RouteForm(forms.ModelForm):  # type: ignore[type-arg]
    class Meta:
        model = Route
        fields = ("position", "provider", "model", "weight")
        help_texts = {
            "position": "Lower ones are tried first.",
            "model": "The model's name there. Empty: the base model, or under a pattern the rest of the name.",
            "weight": "For the strategy by weight only.",
        }


class RouteFormSet(forms.BaseInlineFormSet):  # type: ignore[type-arg]
    def get_form_kwargs(self, index: int | None) -> dict[str, Any]:
        """New routes come after those that are there; several new ones keep the order in which they stand."""
        kwargs: dict[str, Any] = super().get_form_kwargs(index)
        if index is None or index >= self.initial_form_count():
            kwargs["initial"] = {"position": max((row.position for row in self.get_queryset()), default=-1) + 1}
        return kwargs

    def clean(self) -> None:
        super().clean()
        # An empty new line has an id already, made for it as for every row.
        kept = [form for form in self.forms if form.has_changed() or not form.instance._state.adding]
        if not any(form.is_valid() and not form.cleaned_data.get("DELETE") for form in kept):
            raise ValidationError("An alias needs at least one route: choose a provider below.")
