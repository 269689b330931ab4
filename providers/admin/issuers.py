"""Issuers: whose tokens an application's own users may send instead of a key."""

from typing import ClassVar

from django import forms
from django.contrib import admin

from providers import issuers
from providers.admin.ownership import OwnedAdmin
from providers.forms import JSONText
from providers.models import Issuer


class IssuerForm(forms.ModelForm):  # type: ignore[type-arg]
    algorithms = forms.MultipleChoiceField(
        choices=[(name, name) for name in issuers.ALGORITHMS],
        widget=forms.CheckboxSelectMultiple,
        initial=issuers.usual,
        help_text="What its keys sign with; a token with another algorithm is refused, whatever it says.",
    )
    tag_claims = JSONText(
        label="Tags from claims", required=False, help_text='Tags and the claims that they have: {"plan": "plan"}.'
    )
    profiles = JSONText(
        label="Keys by its value", required=False, help_text='Values and ids of keys: {"pro": "k7Fq0Zt1"}.'
    )

    class Meta:
        model = Issuer
        fields = (
            *("name", "enabled", "issuer", "audience", "jwks_url", "algorithms", "leeway"),
            *("key", "profile_claim", "profiles", "end_user_claim", "tag_claims"),
        )
        error_messages: ClassVar[dict[str, dict[str, str]]] = {
            "key": {"invalid_choice": "There is no key with this id: the magnifier lists those that there are."}
        }
        help_texts = {
            "issuer": "As the tokens have it in iss, to the letter: https://accounts.example.com/",
            "audience": "As the tokens have it in aud: the name under which the issuer knows your application.",
            "jwks_url": "Its jwks_uri, such as https://accounts.example.com/.well-known/jwks.json.",
            "leeway": f"At most {issuers.MAX_LEEWAY} seconds.",
            "key": "Its scopes, limits and budget are the tokens'; its web origins are those of the pages that may "
            "send them, and without any the tokens work everywhere.",
            "profile_claim": "For several kinds of users: a claim whose value chooses the key.",
            "end_user_claim": "Limits, budgets and usage of each end user go by it.",
            "enabled": "Switched off, its tokens are refused within two seconds.",
        }


@admin.register(Issuer)
class IssuerAdmin(OwnedAdmin):
    form = IssuerForm
    list_display = ("name", "issuer", "audience", "key", "enabled", "source")
    list_filter = ("enabled", "source")
    list_select_related = ("key",)
    search_fields = ("name", "issuer", "audience")
    raw_id_fields = ("key",)
    fieldsets = (
        (None, {"fields": ("name", "enabled")}),
        ("Its tokens", {"fields": ("issuer", "audience", "jwks_url", "algorithms", "leeway")}),
        ("What they are worth", {"fields": ("key", "profile_claim", "profiles")}),
        ("Whom they stand for", {"fields": ("end_user_claim", "tag_claims")}),
    )
