"""What may not leave: secrets in any form in which a line may hold them."""

import json

import pytest

from providers import keys
from providers.scrubbing import Scrubber, forms

scrub = Scrubber()
PLAIN = "q8Zk2LmW7vXc4RtB"  # no form of its own: only its place says that it is a secret


@pytest.mark.parametrize("kind", keys.KINDS)
def test_of_a_client_key_only_its_id_is_left(kind: keys.Kind) -> None:
    minted = keys.mint(kind)
    assert scrub(f'{{"path":"/v1/{minted.token}"}}'.encode()).decode() == f'{{"path":"/v1/{kind}-gw-{minted.id}***"}}'


@pytest.mark.parametrize(
    "token",
    [
        "sk-proj-abcdefghijklmnopqrst",
        "sk-ant-api03-AAAA_BBBB-CCCC",
        "sk_live_abcdefghijklmnop",
        "gsk_abcdefghijklmnop1234",
        "hf_abcdefghijklmnopqrst",
        "r8_abcdefghijklmnopqrst",
        "xai-abcdefghijklmnopqrst",
        "AKIAABCDEFGHIJKLMNOP",
        "AIzaSyA-abcdefghijklmnopqrstuvwxyz12345",
        "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxMjM0In0.c2lnbmF0dXJl",
    ],
)
def test_the_tokens_of_the_known_providers_are_hidden(token: str) -> None:
    line = scrub(f'{{"event":"failed","why":"said {token}."}}'.encode())
    assert token[-8:] not in line.decode()
    assert json.loads(line)["event"] == "failed"


@pytest.mark.parametrize(
    "text",
    [
        f"Authorization: Bearer {PLAIN}",
        f"authorization: Basic {PLAIN}",
        f"(b'authorization', b'Bearer {PLAIN}')",
        f"{{'api-key': '{PLAIN}'}}",
        f"x-api-key={PLAIN}",
        f"X-Goog-Api-Key: {PLAIN}",
        f"x-amz-security-token: {PLAIN}",
        f"Cookie: sessionid={PLAIN}; other={PLAIN}",
        f"could not connect to postgresql://user:{PLAIN}@db:5432/name",
        f"GET https://example.org/v1/models?key={PLAIN}&alt=sse",
        f"https://example.org/x?api_key={PLAIN}",
        f"password={PLAIN}",
    ],
)
def test_what_stands_where_secrets_stand_is_hidden(text: str) -> None:
    for line in (text, json.dumps({"event": text}), json.dumps({"inner": json.dumps({"text": text})})):
        assert PLAIN not in scrub(line.encode()).decode()


def test_a_secret_in_memory_is_hidden_in_every_form_of_text() -> None:
    odd = 'tok"en\\ä-of-mine'
    known = forms([odd, PLAIN, "short"])
    hiding = Scrubber(lambda: known)
    for line in (odd, json.dumps(odd), json.dumps(odd, ensure_ascii=False), f"x{PLAIN}y"):
        assert "***" in hiding(line.encode()).decode()
        assert "of-mine" not in hiding(line.encode()).decode()
        assert PLAIN not in hiding(line.encode()).decode()
    assert hiding(b"short words stay") == b"short words stay"


def test_the_longer_secret_goes_first_where_one_holds_the_other() -> None:
    known = forms([PLAIN, PLAIN + "-and-more"])
    assert Scrubber(lambda: known)(f"<{PLAIN}-and-more>".encode()) == b"<***>"


@pytest.mark.parametrize(
    "line",
    [
        b'{"event":"request","request_id":"req_01a2190db266768886fa17d0a3174ad4","alias":"risk-bank/*","ms":1.5}',
        b'{"event":"keys are written as sk-gw-, and so on"}',
        b'{"event":"api","key":"AbCdEfGhIj","tokens_in":20}',
    ],
)
def test_a_line_without_a_secret_stays_as_it_is(line: bytes) -> None:
    assert scrub(line).replace(b"sk-gw-***", b"sk-gw-") == line
