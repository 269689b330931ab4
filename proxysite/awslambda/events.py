"""From an event to an ASGI scope (pure): payload 1.0 (REST API), 2.0 (Function URL, HTTP API) and load balancers.

https://docs.aws.amazon.com/lambda/latest/dg/urls-invocation.html
https://docs.aws.amazon.com/elasticloadbalancing/latest/application/lambda-functions.html
"""

import base64
from collections.abc import Iterator, Mapping
from enum import Enum
from typing import Any
from urllib.parse import quote, unquote_to_bytes, urlencode

# Made anew from the body that has come.
REPLACED = frozenset({"content-length", "transfer-encoding", "cookie"})
# A load balancer passes the query on as it came, percent signs included; what is encoded already stays so.
RESERVED = "!#$&'()*+,/:;=?@[]%"


class Payload(Enum):
    REST = "1.0"
    URL = "2.0"
    ALB = "alb"


def payload(event: object) -> Payload | None:
    """The form of a request's event; None for an event that is no request. Nobody can send such a one over HTTP."""
    if not isinstance(event, dict) or not isinstance(event.get("requestContext"), dict):
        return None
    if "elb" in event["requestContext"]:
        return Payload.ALB
    if event.get("version") == "2.0" and "rawPath" in event:
        return Payload.URL
    return Payload.REST if "httpMethod" in event else None


def request(event: Mapping[str, Any]) -> tuple[dict[str, Any], bytes]:
    """The scope and the body. Raises KeyError or ValueError for what AWS does not send."""
    form = payload(event)
    assert form is not None
    body = _body(event)
    fields = list(_headers(event))
    context = event["requestContext"]
    if form is Payload.URL:
        method, path, query = context["http"]["method"], event["rawPath"], event.get("rawQueryString") or ""
        source = context["http"]["sourceIp"]
    else:
        method, path, query = event["httpMethod"], event["path"], _query(event, encoded=form is Payload.ALB)
        source = _last_hop(fields) if form is Payload.ALB else (context.get("identity") or {}).get("sourceIp") or ""
    cookies = [value for name, value in fields if name == "cookie"] + list(event.get("cookies") or [])
    headers = [(name, value) for name, value in fields if name not in REPLACED]
    if cookies:
        headers.append(("cookie", "; ".join(cookies)))
    if body or method not in ("GET", "HEAD", "DELETE", "OPTIONS"):
        headers.append(("content-length", str(len(body))))
    raw_path = unquote_to_bytes(path)
    host = next((value for name, value in headers if name == "host"), context.get("domainName") or "localhost")
    scope = {
        "type": "http",
        "asgi": {"version": "3.0", "spec_version": "2.5"},
        "http_version": "1.1",
        "method": method.upper(),
        "scheme": _scheme(form, fields),
        "path": raw_path.decode("utf-8", "replace"),
        "raw_path": quote(raw_path, safe="/:@!$&'()*+,;=~-._").encode(),
        "query_string": query.encode("utf-8"),
        "root_path": "",
        "headers": [(name.encode("latin-1"), value.encode("utf-8")) for name, value in headers],
        "server": (host.partition(":")[0], 443),
        "client": (source, 0) if source else None,
        "extensions": {},
    }
    return scope, body


def _body(event: Mapping[str, Any]) -> bytes:
    body: str = event.get("body") or ""
    return base64.b64decode(body, validate=True) if event.get("isBase64Encoded") else body.encode("utf-8")


def _headers(event: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """Names in lower case; without those with an underscore, which Django could not tell from one with a hyphen."""
    several = event.get("multiValueHeaders")
    single = event.get("headers") or {}
    for name, values in (several or {name: [value] for name, value in single.items()}).items():
        if "_" not in name:
            yield from ((name.lower(), value) for value in values)


def _query(event: Mapping[str, Any], *, encoded: bool) -> str:
    values = event.get("multiValueQueryStringParameters") or event.get("queryStringParameters") or {}
    return urlencode(values, doseq=True, safe=RESERVED if encoded else "")


def _last_hop(fields: list[tuple[str, str]]) -> str:
    """The address that the load balancer itself has seen: it stands last, whatever the client wrote before it."""
    hops = ",".join(value for name, value in fields if name == "x-forwarded-for")
    return hops.rpartition(",")[2].strip()


def _scheme(form: Payload, fields: list[tuple[str, str]]) -> str:
    """Function URLs and API Gateway speak HTTPS only; a load balancer says what its listener spoke."""
    if form is not Payload.ALB:
        return "https"
    said = [value for name, value in fields if name == "x-forwarded-proto"]
    return "https" if said[-1:] == ["https"] else "http"
