"""Tokens of an application's own issuer at the front door, the issuer on a socket."""

import base64
import json
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import jwt
import pytest
import time_machine
from asgiref.sync import sync_to_async
from django.core.exceptions import ValidationError
from django.core.management import call_command
from django.db.backends.utils import CursorWrapper

from providers.models import ClientKey, Issuer
from tests.gateway import golden, house
from tests.gateway.house import Door
from tests.gateway.issuing import TestIssuer, ec_key, issuing, rsa_key
from tests.gateway.test_pages import APP, OTHER, looked, post
from tests.scripted import FIN, HANG, Chunk, ScriptedUpstream, head, json_answer

MINUTE = 61


@pytest.fixture
async def issuer() -> AsyncIterator[TestIssuer]:
    async with issuing() as opened:
        yield opened


@pytest.fixture
async def door(
    transactional_db: None, tmp_path: Path, scripted: ScriptedUpstream, issuer: TestIssuer
) -> AsyncIterator[Door]:
    """Its tokens are worth the key `app`, which may use `fast`; another key `pro` may use everything."""
    scripted.default = json_answer(golden.COMPLETION)

    def configure() -> str:
        lab = house.provider("lab", scripted.url + "/v1")
        house.alias("fast", (lab, "gpt-4o"))
        house.alias("lab/*", (lab, ""))
        key, token = house.client_key("app", aliases=["fast"], end_user_rpm=1000, tags={"team": "web"})
        issuer.row(key=key, tag_claims={"plan": "plan"})
        return token

    async with house.open_house(configure, tmp_path) as opened:
        yield opened


async def status(door: Door, token: str, **options: Any) -> int:
    return (await post(door, token, None, **options)).status_code


async def code(door: Door, token: str) -> tuple[int, str]:
    answer = await post(door, token, None)
    return answer.status_code, answer.json()["error"]["code"]


def later(seconds: float) -> time_machine.travel:
    return time_machine.travel(time.time() + seconds, tick=True)


async def test_a_token_is_worth_the_key_and_is_charged_to_its_user(
    door: Door, scripted: ScriptedUpstream, issuer: TestIssuer
) -> None:
    token = issuer.token(sub="anna", plan="pro")
    assert await status(door, token, json={"model": "fast", "messages": [], "user": "bob"}) == 200
    assert await status(door, token, json={"model": "lab/x", "messages": []}) == 404
    [record] = await door.rows(1)
    assert (record.key_name, record.end_user) == ("app", "anna")
    assert issuer.calls == 1
    assert token not in str([received.headers for received in scripted.requests])
    identity = await door.engine.desk.authenticate(token)
    assert identity.key.tags == {"team": "web", "plan": "pro"}


async def test_a_known_token_costs_no_sql_and_no_call_to_its_issuer(
    door: Door, issuer: TestIssuer, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, second = issuer.token(), issuer.token(sub="bob")
    assert await status(door, first) == 200
    looked_up: list[str] = []
    execute = CursorWrapper.execute

    def noted(self: Any, sql: str, params: Any = None) -> Any:
        if "providers_clientkey" in str(sql) or "providers_issuer" in str(sql):
            looked_up.append(str(sql))
        return execute(self, sql, params)

    monkeypatch.setattr(CursorWrapper, "execute", noted)
    assert [await status(door, token) for token in (first, second, first)] == [200] * 3
    assert (looked_up, issuer.calls) == ([], 1)


async def test_a_token_works_until_its_second_and_the_leeway_and_not_one_longer(door: Door, issuer: TestIssuer) -> None:
    ends = int(time.time()) + 100
    token = issuer.token(exp=ends)
    assert await status(door, token) == 200
    with time_machine.travel(ends + 29.9, tick=False):
        assert await status(door, token) == 200
    with time_machine.travel(ends + 30, tick=False):
        assert await code(door, token) == (401, "token_expired")
        assert await code(door, token) == (401, "token_expired")
        assert await code(door, issuer.token(exp=ends)) == (401, "token_expired")


def unsigned(token: str, **changed: Any) -> str:
    parts = token.split(".")
    for place, values in ((0, changed.get("head")), (1, changed.get("body"))):
        if values:
            found = {**json.loads(base64.urlsafe_b64decode(parts[place] + "==")), **values}
            parts[place] = base64.urlsafe_b64encode(json.dumps(found).encode()).rstrip(b"=").decode()
    return ".".join(parts)


async def test_what_was_not_signed_so_by_the_issuer_is_refused(door: Door, issuer: TestIssuer) -> None:
    good = issuer.token()
    assert await status(door, good) == 200
    public = rsa_key(1).public_key()
    pem = public.public_bytes(_encoding(), _format())
    forged = {
        "another's key": issuer.token(key=rsa_key(2)),
        "a changed claim": unsigned(good, body={"sub": "root"}),
        "no algorithm": unsigned(good, head={"alg": "none"}).rpartition(".")[0] + ".",
        "the public key as a secret": _hmac(issuer, pem),
        "an algorithm that the row does not name": issuer.token(algorithm="RS512"),
        "another audience too": issuer.token(aud=["other"]),
        "another issuer": issuer.token(iss="https://evil.example"),
        "an extension": unsigned(good, head={"crit": ["b64"], "b64": False}),
        "no end": issuer.token(exp=None),
        "not yet": issuer.token(nbf=int(time.time()) + 1000),
        "cut": good[:-10],
        "too long": good + "A" * 9000,
        "junk": "eyJ.eyJ.eyJ",
    }
    assert {why: await status(door, token) for why, token in forged.items()} == dict.fromkeys(forged, 401)
    assert issuer.calls == 1
    assert await status(door, good) == 200
    assert await status(door, issuer.token(aud=["other", "our-app"])) == 200


def _encoding() -> Any:
    from cryptography.hazmat.primitives.serialization import Encoding

    return Encoding.PEM


def _format() -> Any:
    from cryptography.hazmat.primitives.serialization import PublicFormat

    return PublicFormat.SubjectPublicKeyInfo


def _hmac(issuer: TestIssuer, pem: bytes) -> str:
    """What a verifier takes that lets the token choose the algorithm: HMAC under the public key's text."""
    import hmac

    signed = unsigned(issuer.token(), head={"alg": "HS256"}).rpartition(".")[0]
    mac = hmac.digest(pem, signed.encode(), "sha256")
    return f"{signed}.{base64.urlsafe_b64encode(mac).rstrip(b'=').decode()}"


async def test_a_token_of_someone_without_a_name_is_refused_in_so_many_words(door: Door, issuer: TestIssuer) -> None:
    for wrong in ("", "x" * 201, "a\nb", None):
        assert await code(door, issuer.token(sub=wrong)) == (401, "invalid_token")


async def test_keys_that_change_in_the_middle_refuse_nobody(door: Door, issuer: TestIssuer) -> None:
    old = issuer.token()
    assert await status(door, old) == 200
    issuer.keys = {"k1": rsa_key(1), "k2": ec_key(1)}
    with later(MINUTE):
        assert await status(door, issuer.token(kid="k2")) == 200
        assert await status(door, old) == 200
    assert issuer.calls == 2


async def test_a_key_that_its_issuer_withdraws_is_worth_nothing_ten_minutes_later(
    door: Door, issuer: TestIssuer
) -> None:
    with later(0):
        token = issuer.token(exp=int(time.time()) + 10_000)
        assert await status(door, token) == 200
    issuer.keys = {"k2": ec_key(1)}
    with later(601):
        await status(door, token)
        while issuer.calls < 2 or door.engine.desk._issuer_keys._sets[_place()].fetching is not None:
            await status(door, issuer.token(kid="k2"))
        assert await status(door, token) == 401


def _place() -> tuple[str, str]:
    from providers import snapshot

    (card,) = snapshot.current().issuers.values()
    return card.id, card.jwks_url


async def test_an_issuer_that_is_down_costs_good_users_nothing_for_a_day(door: Door, issuer: TestIssuer) -> None:
    token = issuer.token(exp=int(time.time()) + 200_000)
    assert await status(door, token) == 200
    await issuer.server.stop()
    for hours in (0.5, 12, 23.9):
        with later(hours * 3600):
            assert await status(door, token) == 200
            assert await status(door, issuer.token()) == 200
    with later(24.1 * 3600):
        answer = await post(door, token, None)
        assert (answer.status_code, answer.json()["error"]["code"]) == (503, "issuer_unavailable")
        assert answer.headers["retry-after"] == "30"


async def test_an_issuer_that_never_answered_is_asked_once_a_minute(door: Door, issuer: TestIssuer) -> None:
    issuer.server.default = json_answer({"error": "no"}, 500)
    for _ in range(5):
        assert await code(door, issuer.token()) == (503, "issuer_unavailable")
    assert issuer.calls == 1
    issuer.server.default = issuer.answer
    with later(MINUTE):
        assert await status(door, issuer.token()) == 200
    assert issuer.calls == 2


@pytest.mark.parametrize("script", ["hangs", "10 MB", "endless", "no JSON", "no keys", "a redirect", "weak keys"])
async def test_what_an_issuer_answers_in_place_of_its_keys_costs_one_call_a_minute(
    door: Door, issuer: TestIssuer, script: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("gateway.credentials.issuerkeys.SECONDS", 0.5)
    weak = jwt.get_algorithm_by_name("RS256").to_jwk(rsa_key(9, 1024).public_key(), as_dict=True)
    scripts: dict[str, Any] = {
        "hangs": [HANG],
        "10 MB": json_answer({**issuer.jwks(), "more": "A" * 10_000_000}),
        "endless": [head(200, {"transfer-encoding": "chunked"}), *[Chunk(b" " * 60_000)] * 100, HANG],
        "no JSON": [head(200, {"content-length": "5"}), b"<html", FIN],
        "no keys": json_answer({"keys": []}),
        "a redirect": json_answer({}, 302, {"location": f"{issuer.url}/other"}),
        "weak keys": json_answer({"keys": [{**weak, "kid": "k1"}]}),
    }
    issuer.server.default = scripts[script]
    for _ in range(3):
        assert await code(door, issuer.token()) == (503, "issuer_unavailable")
    assert issuer.calls == 1
    assert await status(door, door.key) == 200


async def test_a_flood_of_unknown_key_ids_costs_one_call_a_minute_and_good_users_nothing(
    door: Door, issuer: TestIssuer
) -> None:
    good = issuer.token()
    assert await status(door, good) == 200
    for number in range(40):
        assert await status(door, issuer.token(kid=f"x{number}", key=rsa_key(2))) in (401, 429)
        assert await status(door, good) == 200
    assert issuer.calls == 1
    with later(MINUTE):
        for number in range(10):
            await status(door, issuer.token(kid=f"y{number}", key=rsa_key(2)))
        assert await status(door, issuer.token(sub="bob")) == 200
    assert issuer.calls == 2


async def test_a_claim_chooses_the_key_and_one_that_leads_nowhere_is_told_so(door: Door, issuer: TestIssuer) -> None:
    def configure() -> None:
        key, _ = house.client_key("pro")
        row = Issuer.objects.get()
        row.profile_claim, row.profiles, row.key = "groups", {"pro": key.id}, None
        row.full_clean()
        row.save()

    await sync_to_async(configure)()
    await looked(door)
    body = {"model": "lab/x", "messages": []}
    assert await status(door, issuer.token(groups=["staff", "pro"]), json=body) == 200
    assert await code(door, issuer.token(groups="free")) == (403, "no_key_for_token")
    assert [row.key_name for row in await door.rows(1)] == ["pro"]


async def test_a_token_dies_with_its_key_and_with_its_issuers_row(door: Door, issuer: TestIssuer) -> None:
    token = issuer.token()
    assert await status(door, token) == 200
    for model in (ClientKey, Issuer):
        manager: Any = model.objects
        await sync_to_async(lambda manager=manager: manager.all().update(enabled=False))()
        await looked(door)
        assert await status(door, token) == 401
        await sync_to_async(lambda manager=manager: manager.all().update(enabled=True))()
        await looked(door)
        assert await status(door, token) == 200


async def test_pages_may_send_tokens_where_the_key_names_their_origin(door: Door, issuer: TestIssuer) -> None:
    await sync_to_async(lambda: ClientKey.objects.filter(name="app").update(origins=[APP]))()
    await looked(door)
    token = issuer.token()
    assert (await post(door, token, OTHER)).status_code == 403
    answer = await post(door, token, APP)
    assert (answer.status_code, answer.headers["access-control-allow-origin"]) == (200, APP)
    assert (await post(door, token, None)).status_code == 403


async def test_a_token_makes_no_other_tokens_and_names_no_other_user(door: Door, issuer: TestIssuer) -> None:
    token = issuer.token()
    assert (await post(door, token, None, path="/client_tokens", json={"end_user": "bob"})).status_code == 403
    assert (await post(door, token, None, headers={"x-gateway-end-user": "bob"})).status_code == 400


@pytest.mark.parametrize(
    ("fields", "wrong"),
    [
        ({"jwks_url": "ftp://x.example/keys"}, "jwks_url"),
        ({"algorithms": ["HS256"]}, "algorithms"),
        ({"algorithms": ["none"]}, "algorithms"),
        ({"algorithms": []}, "algorithms"),
        ({"leeway": 121}, "leeway"),
        ({"audience": ""}, "audience"),
        ({"tag_claims": {"plan": 7}}, "tag_claims"),
        ({"profiles": {"pro": "nobody"}, "profile_claim": "plan"}, "profiles"),
        ({"profiles": {"pro": "x"}}, "profile_claim"),
        ({"key": None}, "key"),
    ],
)
@pytest.mark.django_db
def test_a_row_that_could_not_be_served_is_refused_at_its_field(fields: dict[str, Any], wrong: str) -> None:
    key, _ = house.client_key()
    values = {
        "name": "app",
        "issuer": "https://i.example",
        "audience": "a",
        "jwks_url": "https://i.example/k",
        "key": key,
    }
    with pytest.raises(ValidationError) as refused:
        Issuer(**{**values, **fields}).full_clean()
    assert wrong in refused.value.message_dict


async def test_a_user_with_the_longest_name_that_is_signed_can_be_blocked(door: Door, issuer: TestIssuer) -> None:
    token, name = issuer.token(sub="u" * 200), "u" * 200
    assert await status(door, token) == 200
    await sync_to_async(call_command)("block_end_user", name)
    await looked(door)
    assert await code(door, token) == (403, "end_user_blocked")
