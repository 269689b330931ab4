"""Calls to AWS, signed by hand: an SSM parameter, an S3 object, KMS (pure). boto3 would cost half a cold start.

https://docs.aws.amazon.com/IAM/latest/UserGuide/reference_sigv-create-signed-request.html
"""

import base64
import hashlib
import hmac
import json
import logging
import os
import time
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from typing import Any
from urllib.parse import quote, urlsplit

import msgspec

KEPT = 300.0  # seconds, wall time, for which a value is not read again
TIMEOUT = 5.0
MAX_BYTES = 4 * 1024 * 1024
SCHEME = "AWS4-HMAC-SHA256"

log = logging.getLogger("providers.awscalls")


class CallFailed(Exception):
    """What was asked for cannot be read. The message names the place and AWS's error code, no value."""


class Caller(msgspec.Struct, frozen=True):
    """Who asks: the function's own role, whose keys are in its environment."""

    key_id: str
    secret: str
    token: str
    region: str

    @classmethod
    def of(cls, environ: Mapping[str, str]) -> "Caller":
        names = ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN")
        key_id, secret, token = (environ.get(name, "") for name in names)
        region = environ.get("AWS_REGION") or environ.get("AWS_DEFAULT_REGION", "")
        if not (key_id and secret and region):
            raise CallFailed("AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY and AWS_REGION are not all set")
        return cls(key_id, secret, token, region)


_kept: dict[tuple[str, str], tuple[float, str]] = {}


def parameter(name: str, environ: Mapping[str, str] = os.environ) -> str:
    """The value of an SSM parameter, decrypted; kept for 5 minutes. Raises CallFailed."""
    return _cached("ssm", name, lambda: _parameter(name, environ))


def stored_text(bucket: str, key: str, environ: Mapping[str, str] = os.environ) -> str:
    """The text of an S3 object; kept for 5 minutes. Raises CallFailed."""
    return _cached("s3", f"{bucket}/{key}", lambda: _stored_text(bucket, key, environ))


def forget() -> None:
    """Read everything anew."""
    _kept.clear()


def _cached(kind: str, name: str, read: Callable[[], str]) -> str:
    found = _kept.get((kind, name))
    if found is not None and abs(time.time() - found[0]) < KEPT:
        return found[1]
    try:
        value = read()
    except CallFailed as error:
        if found is None:
            raise
        # A value that was good five minutes ago is better than none.
        log.warning("the last value stays: %s", error)
        value = found[1]
    _kept[kind, name] = time.time(), value
    return value


def wrapped_data_key(kms_key: str, context: Mapping[str, str], environ: Mapping[str, str] = os.environ) -> str:
    """A new AES-256 key as KMS keeps it, in base64: encrypted under `kms_key`. Raises CallFailed."""
    wanted = {"KeyId": kms_key, "KeySpec": "AES_256", "EncryptionContext": context}
    answer = _json_call("kms", "TrentService.GenerateDataKeyWithoutPlaintext", wanted, environ, "KMS makes no data key")
    return str(answer.get("CiphertextBlob", ""))


def decrypted(wrapped: str, context: Mapping[str, str], environ: Mapping[str, str] = os.environ) -> bytes:
    """What KMS has encrypted (base64) for that context. Raises CallFailed."""
    wanted = {"CiphertextBlob": wrapped, "EncryptionContext": context}
    answer = _json_call("kms", "TrentService.Decrypt", wanted, environ, "KMS does not decrypt it")
    try:
        return base64.b64decode(answer.get("Plaintext", ""), validate=True)
    except (TypeError, ValueError):
        raise CallFailed("KMS does not decrypt it: no Plaintext") from None


def _parameter(name: str, environ: Mapping[str, str]) -> str:
    wanted = {"Name": name, "WithDecryption": True}
    failure = f"the SSM parameter {name} cannot be read"
    try:
        value: str = _json_call("ssm", "AmazonSSM.GetParameter", wanted, environ, failure)["Parameter"]["Value"]
    except (KeyError, TypeError):
        raise CallFailed(f"{failure}: 200") from None
    return value


def _json_call(service: str, target: str, wanted: object, environ: Mapping[str, str], failure: str) -> dict[str, Any]:
    """The answer of a service that speaks JSON; raises CallFailed with `failure` and AWS's code."""
    headers = {"content-type": "application/x-amz-json-1.1", "x-amz-target": target}
    status, answer = _call(service, "POST", "/", headers, json.dumps(wanted).encode(), environ)
    try:
        found: dict[str, Any] = json.loads(answer)
        code = str(found.get("__type", "")).rpartition("#")[2]
    except (ValueError, AttributeError, RecursionError):
        found, code = {}, ""
    if status != 200 or not found:
        raise CallFailed(f"{failure}: {code or status}")
    return found


def _stored_text(bucket: str, key: str, environ: Mapping[str, str]) -> str:
    status, answer = _call("s3", "GET", f"/{bucket}/{quote(key)}", {}, b"", environ)
    if status != 200:
        raise CallFailed(f"s3://{bucket}/{key} cannot be read: {status}")
    try:
        return answer.decode("utf-8")
    except UnicodeDecodeError:
        raise CallFailed(f"s3://{bucket}/{key} is no UTF-8 text") from None


def _call(
    service: str, method: str, path: str, headers: Mapping[str, str], body: bytes, environ: Mapping[str, str]
) -> tuple[int, bytes]:
    from http.client import HTTPConnection, HTTPException, HTTPSConnection

    caller = Caller.of(environ)
    # The variable by which every SDK of AWS is pointed elsewhere.
    endpoint = environ.get(f"AWS_ENDPOINT_URL_{service.upper()}") or f"https://{service}.{caller.region}.amazonaws.com"
    url = urlsplit(endpoint)
    fields = signed(caller, service, method, url.netloc, path, headers, body, datetime.now(UTC))
    connect = HTTPSConnection if url.scheme == "https" else HTTPConnection
    connection = connect(url.netloc, timeout=TIMEOUT)
    try:
        connection.request(method, path, body, fields)
        answer = connection.getresponse()
        return answer.status, answer.read(MAX_BYTES)
    except (OSError, HTTPException) as error:
        raise CallFailed(f"{service} does not answer: {type(error).__name__}") from None
    finally:
        connection.close()


def signed(
    caller: Caller,
    service: str,
    method: str,
    host: str,
    path: str,
    headers: Mapping[str, str],
    body: bytes,
    now: datetime,
) -> dict[str, str]:
    """The request's header fields with their signature, version 4; the path is quoted already."""
    moment = now.strftime("%Y%m%dT%H%M%SZ")
    digest = hashlib.sha256(body).hexdigest()
    fields = {**headers, "host": host, "x-amz-date": moment, "x-amz-content-sha256": digest}
    if caller.token:
        fields["x-amz-security-token"] = caller.token
    names = ";".join(sorted(fields))
    lines = "".join(f"{name}:{fields[name]}\n" for name in sorted(fields))
    canonical = "\n".join([method, path, "", lines, names, digest])
    scope = f"{moment[:8]}/{caller.region}/{service}/aws4_request"
    to_sign = "\n".join([SCHEME, moment, scope, hashlib.sha256(canonical.encode()).hexdigest()])
    key = f"AWS4{caller.secret}".encode()
    for part in (*scope.split("/"), to_sign):
        key = hmac.digest(key, part.encode(), "sha256")
    credential = f"Credential={caller.key_id}/{scope}"
    fields["authorization"] = f"{SCHEME} {credential}, SignedHeaders={names}, Signature={key.hex()}"
    return fields
