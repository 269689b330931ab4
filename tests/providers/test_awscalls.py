"""SSM parameters and S3 objects by a request signed by hand."""

import json
import threading
from collections.abc import Iterator
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, HTTPServer
from typing import Any

import pytest

from providers import awscalls, places, references

ROLE = {
    "AWS_ACCESS_KEY_ID": "AKIAIOSFODNN7EXAMPLE",
    "AWS_SECRET_ACCESS_KEY": "wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY",
}


class FakeAWS(HTTPServer):
    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.parameters: dict[str, str] = {}
        self.seen: list[Any] = []
        self.failing = False

    @property
    def environ(self) -> dict[str, str]:
        url = f"http://127.0.0.1:{self.server_port}"
        there = {"AWS_SESSION_TOKEN": "session", "AWS_REGION": "eu-west-1"}
        return {**ROLE, **there, "AWS_ENDPOINT_URL_SSM": url, "AWS_ENDPOINT_URL_S3": url}


class Handler(BaseHTTPRequestHandler):
    server: FakeAWS

    def do_POST(self) -> None:
        asked = json.loads(self.rfile.read(int(self.headers["content-length"])))
        self.server.seen.append((self.headers, asked))
        name = asked["Name"]
        if self.server.failing:
            self.reply(500, b"<html>")
        elif name in self.server.parameters:
            self.reply(200, json.dumps({"Parameter": {"Name": name, "Value": self.server.parameters[name]}}).encode())
        else:
            self.reply(400, b'{"__type":"com.amazonaws.ssm#ParameterNotFound"}')

    def do_GET(self) -> None:
        self.server.seen.append((self.headers, self.path))
        self.reply(200 if self.path == "/bucket/a%20b.yaml" else 404, b"aliases: {}")

    def reply(self, status: int, body: bytes) -> None:
        self.send_response(status)
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *args: Any) -> None:
        """Nothing on standard error."""


@pytest.fixture
def aws(monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeAWS]:
    awscalls.forget()
    with FakeAWS() as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        for name, value in server.environ.items():
            monkeypatch.setenv(name, value)
        yield server
        server.shutdown()
        thread.join()
    awscalls.forget()


def test_the_signature_is_that_of_amazons_own_example() -> None:
    """https://docs.aws.amazon.com/AmazonS3/latest/API/sig-v4-header-based-auth.html, "GET Object"."""
    caller = awscalls.Caller.of({**ROLE, "AWS_REGION": "us-east-1"})
    host = "examplebucket.s3.amazonaws.com"
    now = datetime(2013, 5, 24, tzinfo=UTC)
    fields = awscalls.signed(caller, "s3", "GET", host, "/test.txt", {"range": "bytes=0-9"}, b"", now)
    assert fields["authorization"] == (
        "AWS4-HMAC-SHA256 Credential=AKIAIOSFODNN7EXAMPLE/20130524/us-east-1/s3/aws4_request, "
        "SignedHeaders=host;range;x-amz-content-sha256;x-amz-date, "
        "Signature=f0e8bdb87c964420e857bd35b5d6ed310bd44f0170aba48dd91039c6036bdb41"
    )


def test_a_parameter_is_read_once_and_decrypted(aws: FakeAWS) -> None:
    aws.parameters["/gw/key"] = " sk-1\n"
    assert references.resolve("ssm:/gw/key").reveal() == "sk-1"
    assert references.resolve("env:LAB_KEY", {**aws.environ, "LAB_KEY": "ssm:/gw/key"}).reveal() == "sk-1"
    ((headers, asked),) = aws.seen
    assert asked == {"Name": "/gw/key", "WithDecryption": True}
    assert headers["x-amz-target"] == "AmazonSSM.GetParameter"
    assert headers["x-amz-security-token"] == "session"
    assert (
        "SignedHeaders=content-type;host;x-amz-content-sha256;x-amz-date;x-amz-security-token;x-amz-target"
        in (headers["authorization"])
    )


def test_after_five_minutes_it_is_read_again_and_a_failure_keeps_the_last_value(
    aws: FakeAWS, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = 1_000_000.0
    monkeypatch.setattr("providers.awscalls.time.time", lambda: now)
    aws.parameters["/gw/key"] = "one"
    assert awscalls.parameter("/gw/key") == "one"
    aws.parameters["/gw/key"] = "two"
    now += 299
    assert awscalls.parameter("/gw/key") == "one"
    now += 2
    assert awscalls.parameter("/gw/key") == "two"
    now += 301
    aws.failing = True
    assert awscalls.parameter("/gw/key") == "two"


@pytest.mark.parametrize(
    ("name", "changed", "message"),
    [
        ("/none", {}, "the SSM parameter /none cannot be read: ParameterNotFound"),
        ("/gw/empty", {}, "the SSM parameter /gw/empty is empty"),
        ("/gw/empty", {"AWS_ENDPOINT_URL_SSM": "http://127.0.0.1:9"}, "ssm does not answer: ConnectionRefusedError"),
        ("/a", {"AWS_REGION": ""}, "AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY and AWS_REGION are not all set"),
    ],
)
def test_what_cannot_be_read_is_named_without_any_value(
    aws: FakeAWS, name: str, changed: dict[str, str], message: str
) -> None:
    aws.parameters["/gw/empty"] = " "
    with pytest.raises(references.BadReference) as caught:
        references.resolve(f"ssm:{name}", {**aws.environ, **changed})
    assert str(caught.value) == message


def test_a_configuration_file_may_lie_in_a_parameter_or_a_bucket(aws: FakeAWS) -> None:
    aws.parameters["/gw/config"] = "keys: {}"
    assert places.read("ssm:/gw/config") == "keys: {}"
    assert places.read("s3://bucket/a b.yaml") == "aliases: {}"
    with pytest.raises(places.Unreadable, match=r"^s3://bucket/none cannot be read: 404$"):
        places.read("s3://bucket/none")
