"""Encryption keys that only KMS can unwrap, KMS being faked at the wire."""

import base64
import json
import secrets
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from io import StringIO
from typing import Any

import pytest
from django.core.management import CommandError, call_command
from pytest_django import Settings

from providers import vault
from providers.keychain import Keychain, wrapped_entry
from providers.models import Credential, Provider
from proxysite import env
from tests.providers.test_awscalls import ROLE

KEY = "alias/llm-gateway"
PLACE = {"row_id": "r1", "origin": "https://api.example.com:443"}


class FakeKMS(HTTPServer):
    """What it has wrapped it unwraps for the same context only."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.keys: dict[str, tuple[bytes, dict[str, str]]] = {}
        self.asked: list[str] = []
        self.failing = False
        self.silent: threading.Event | None = None  # while it is not set, nobody is answered


class Handler(BaseHTTPRequestHandler):
    server: FakeKMS

    def do_POST(self) -> None:
        wanted = json.loads(self.rfile.read(int(self.headers["content-length"])))
        action = self.headers["x-amz-target"].removeprefix("TrentService.")
        self.server.asked.append(action)
        assert "/eu-west-1/kms/aws4_request" in self.headers["authorization"]
        if self.server.silent is not None:
            self.server.silent.wait()
            return
        status, answer = 200, {}
        if self.server.failing:
            status, answer = 503, {"__type": "com.amazonaws.kms#KMSInternalException"}
        elif action == "GenerateDataKeyWithoutPlaintext":
            assert (wanted["KeyId"], wanted["KeySpec"]) == (KEY, "AES_256")
            blob = base64.b64encode(secrets.token_bytes(184)).decode()
            self.server.keys[blob] = secrets.token_bytes(32), wanted["EncryptionContext"]
            answer = {"CiphertextBlob": blob, "KeyId": "arn:aws:kms:eu-west-1:1:key/x"}
        else:
            key, bound = self.server.keys[wanted["CiphertextBlob"]]
            if bound == wanted["EncryptionContext"]:
                answer = {"Plaintext": base64.b64encode(key).decode()}
            else:
                status, answer = 400, {"__type": "com.amazonaws.kms#InvalidCiphertextException"}
        body = json.dumps(answer).encode()
        self.send_response(status)
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *args: Any) -> None:
        """Nothing on standard error."""


@pytest.fixture
def kms(monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeKMS]:
    with FakeKMS() as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        url = f"http://127.0.0.1:{server.server_port}"
        for name, value in {**ROLE, "AWS_REGION": "eu-west-1", "AWS_ENDPOINT_URL_KMS": url}.items():
            monkeypatch.setenv(name, value)
        yield server
        server.shutdown()
        thread.join()


class Wall:
    now = 1_790_000_000.0

    def __call__(self) -> float:
        return self.now


def chain(*entries: str, wall: Wall | None = None) -> Keychain:
    """As the setting holds them."""
    wrapped = {name: rest.removeprefix("kms:") for name, _, rest in (entry.partition(":") for entry in entries)}
    return Keychain(dict.fromkeys(wrapped, b""), wrapped, wall=wall or Wall())


def test_what_is_sealed_under_a_wrapped_key_opens_under_it_and_kms_is_asked_once(kms: FakeKMS) -> None:
    ring = chain(wrapped_entry("k1", KEY))
    sealed = [vault.seal(ring, f"token-{number}", **PLACE) for number in range(3)]
    assert [vault.unseal(ring, one, **PLACE).reveal() for one in sealed] == ["token-0", "token-1", "token-2"]
    assert kms.asked == ["GenerateDataKeyWithoutPlaintext", "Decrypt"]
    assert "k1" in repr(ring)
    assert base64.b64encode(ring["k1"]).decode() not in f"{ring!r}{ring}{vars(ring)['_wrapped']}"


def test_a_wrapped_key_is_bound_to_its_id(kms: FakeKMS) -> None:
    moved = wrapped_entry("k1", KEY).replace("k1:", "k2:")
    with pytest.raises(vault.VaultError, match=r"'k2' cannot be unwrapped: .*InvalidCiphertextException"):
        vault.seal(chain(moved), "token", **PLACE)


def test_without_kms_a_key_is_good_for_five_minutes_and_kms_is_asked_every_ten_seconds(kms: FakeKMS) -> None:
    wall = Wall()
    ring = chain(wrapped_entry("k1", KEY), wall=wall)
    sealed = vault.seal(ring, "token", **PLACE)
    kms.failing = True
    wall.now += 239
    assert vault.unseal(ring, sealed, **PLACE).reveal() == "token"
    assert kms.asked.count("Decrypt") == 1
    for _ in range(60):
        wall.now += 1
        assert vault.unseal(ring, sealed, **PLACE).reveal() == "token"
    assert kms.asked.count("Decrypt") == 7
    wall.now += 1
    with pytest.raises(vault.VaultError, match="KMS does not decrypt it: KMSInternalException"):
        vault.unseal(ring, sealed, **PLACE)
    kms.failing = False
    wall.now += 10
    assert vault.unseal(ring, sealed, **PLACE).reveal() == "token"


def test_the_setting_takes_wrapped_keys_beside_bare_ones(kms: FakeKMS, monkeypatch: pytest.MonkeyPatch) -> None:
    bare = base64.b64encode(secrets.token_bytes(32)).decode()
    monkeypatch.setenv("DJANGO_SECRET_KEY", secrets.token_urlsafe(50))
    monkeypatch.setenv("GATEWAY_KEY_PEPPERS", f"p1:{base64.b64encode(secrets.token_bytes(32)).decode()}")
    monkeypatch.setenv("GATEWAY_ENCRYPTION_KEYS", f"{wrapped_entry('k2', KEY)},k1:{bare}")
    found = env.load_secrets(development=False)
    assert (found.problems, list(found.encryption_keys)) == ((), ["k2", "k1"])
    assert kms.asked == ["GenerateDataKeyWithoutPlaintext"]
    assert base64.b64encode(found.encryption_keys["k1"]).decode() == bare
    assert len(found.encryption_keys["k2"]) == 32
    for wrong in ("k2:kms:", "k2:kms:AAAA", "k2:kms:not base64"):
        monkeypatch.setenv("GATEWAY_ENCRYPTION_KEYS", wrong)
        assert [problem.name for problem in env.load_secrets(development=False).problems] == ["GATEWAY_ENCRYPTION_KEYS"]


@pytest.mark.django_db
def test_rotation_moves_what_is_stored_under_a_key_of_kms(kms: FakeKMS, settings: Settings) -> None:
    provider = Provider.objects.create(name="lab", base_url="https://api.example.com/v1", dialect="openai")
    credential = Credential(provider=provider, name="main")
    credential.seal("provider-token")
    credential.save()
    old = dict(settings.GATEWAY_ENCRYPTION_KEYS)
    out = StringIO()
    call_command("rotate_encryption_key", "--generate", "k9", "--kms", KEY, stdout=out)
    entry = out.getvalue().strip()
    settings.GATEWAY_ENCRYPTION_KEYS = Keychain({"k9": b"", **old}, {"k9": entry.removeprefix("k9:kms:")})
    call_command("rotate_encryption_key", "--rewrap", stdout=out)
    call_command("rotate_encryption_key", "--verify", stdout=out)
    credential.refresh_from_db()
    assert vault.key_id_of(credential.sealed) == "k9"
    assert credential.unseal().reveal() == "provider-token"
    kms.failing = True
    with pytest.raises(CommandError, match="KMS makes no data key: KMSInternalException"):
        call_command("rotate_encryption_key", "--generate", "k10", "--kms", KEY, stdout=out)
