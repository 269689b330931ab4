"""Issuers of tokens that an application's own users hold: what their settings may say, and their card (pure).

https://openid.net/specs/openid-connect-core-1_0.html and RFC 8725 (https://www.rfc-editor.org/rfc/rfc8725), whose rules
for keys and algorithms hold here.
"""

import re
from collections.abc import Mapping
from typing import Any

import msgspec

from providers import addresses

# Signatures by public keys alone: with a secret one, whoever can check a token could make it.
ALGORITHMS = ("RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "ES512", "EdDSA")
USUAL = ("RS256", "ES256")
MAX_LEEWAY = 120  # seconds
MAX_CHARS = 500
MAX_ENTRIES = 50
END_USER_CHARS = 200  # of the name that a token signs; one that a client only says is shorter
CLAIM = re.compile(r"[^\s\x00-\x1f]{1,200}\Z")
TAG = re.compile(r"[a-z0-9_.-]{1,40}\Z")


class IssuerCard(msgspec.Struct, frozen=True):
    """An issuer as the hot path knows it. `key` is the id of the key whose scopes, limits and budget a token has."""

    id: str
    name: str
    issuer: str
    audience: str
    jwks_url: str
    key: str = ""  # "": only tokens whose claim is in `profiles`
    algorithms: tuple[str, ...] = USUAL
    leeway: float = 30.0  # seconds
    end_user_claim: str = "sub"
    tag_claims: Mapping[str, str] = msgspec.field(default_factory=dict)  # the tag, and the claim that it is taken from
    profile_claim: str = ""
    profiles: Mapping[str, str] = msgspec.field(default_factory=dict)  # that claim's value, and the id of a key

    def key_id(self, claims: Mapping[str, Any]) -> str:
        """The id of the key for a token with those claims, "" for none; of a list of values the first that is known."""
        value = claims.get(self.profile_claim) if self.profile_claim else None
        values = value if isinstance(value, list) else [value]
        return next((self.profiles[one] for one in values if isinstance(one, str) and one in self.profiles), self.key)


def usual() -> list[str]:
    return list(USUAL)


def faults(values: Mapping[str, Any]) -> dict[str, str]:
    """What is wrong with the settings, a sentence for each field."""
    wrong: dict[str, str] = {}
    for name in ("issuer", "audience"):
        text = str(values[name])
        if not text or len(text) > MAX_CHARS or not text.isprintable() or text != text.strip():
            wrong[name] = f"Give the text that stands in the tokens as `{'iss' if name == 'issuer' else 'aud'}`."
    try:
        addresses.origin(values["jwks_url"])
    except addresses.AddressError as error:
        wrong["jwks_url"] = str(error)
    algorithms = values["algorithms"]
    if not isinstance(algorithms, list) or not algorithms or any(name not in ALGORITHMS for name in algorithms):
        wrong["algorithms"] = f"Choose from {', '.join(ALGORITHMS)}."
    if not 0 <= values["leeway"] <= MAX_LEEWAY:
        wrong["leeway"] = f"At most {MAX_LEEWAY} seconds: a token that has ended for longer has ended."
    if not CLAIM.match(values["end_user_claim"]):
        wrong["end_user_claim"] = "Give the name of one claim, such as sub."
    if not _is_map(values["tag_claims"], TAG, CLAIM):
        wrong["tag_claims"] = 'Give an object of tags and claims, such as {"plan": "https://example.com/plan"}.'
    if values["profile_claim"] and not CLAIM.match(values["profile_claim"]):
        wrong["profile_claim"] = "Give the name of one claim, such as plan."
    if not _is_map(values["profiles"], CLAIM, CLAIM):
        wrong["profiles"] = 'Give an object of the claim\'s values and ids of keys, such as {"pro": "k7Fq0Zt1"}.'
    elif bool(values["profiles"]) != bool(values["profile_claim"]):
        wrong["profile_claim"] = "The claim and its profiles go together: give both, or neither."
    return wrong


def _is_map(value: object, names: re.Pattern[str], texts: re.Pattern[str]) -> bool:
    return (
        isinstance(value, dict)
        and len(value) <= MAX_ENTRIES
        and all(names.match(name) and isinstance(text, str) and texts.match(text) for name, text in value.items())
    )
