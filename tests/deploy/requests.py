"""Events as AWS's front doors send them, for one request each."""

import base64
from collections.abc import Mapping
from typing import Any
from urllib.parse import parse_qs, quote, urlsplit

SOURCE = "203.0.113.7"
FORGED = "6.6.6.6"  # what a client writes into x-forwarded-for to look like someone else


def encoded(body: bytes) -> dict[str, Any]:
    """As text where it is some, else in base64."""
    try:
        return {"body": body.decode("utf-8"), "isBase64Encoded": False}
    except UnicodeDecodeError:
        return {"body": base64.b64encode(body).decode(), "isBase64Encoded": True}


def url_event(
    target: str, method: str = "GET", headers: Mapping[str, str] | None = None, body: bytes = b"", **more: Any
) -> dict[str, Any]:
    """Payload 2.0, of a Function URL."""
    parts = urlsplit(target)
    return {
        "version": "2.0",
        "routeKey": "$default",
        "rawPath": quote(parts.path, safe="/%"),
        "rawQueryString": parts.query,
        "headers": {
            "host": "abc.lambda-url.eu-west-1.on.aws",
            "x-forwarded-for": SOURCE,
            "x-forwarded-port": "443",
            "x-forwarded-proto": "https",
            **(headers or {}),
        },
        "requestContext": {
            "accountId": "anonymous",
            "domainName": "abc.lambda-url.eu-west-1.on.aws",
            "http": {"method": method, "path": parts.path, "protocol": "HTTP/1.1", "sourceIp": SOURCE},
        },
        **encoded(body),
        **more,
    }


def rest_event(
    target: str, method: str = "GET", headers: Mapping[str, str] | None = None, body: bytes = b""
) -> dict[str, Any]:
    """Payload 1.0, of a REST API; its x-forwarded-for begins with what the client sent."""
    parts = urlsplit(target)
    fields = {
        "Host": "abc.execute-api.eu-west-1.amazonaws.com",
        "X-Forwarded-For": f"{FORGED}, {SOURCE}",
        "X-Forwarded-Proto": "https",
        **(headers or {}),
    }
    query = parse_qs(parts.query, keep_blank_values=True)
    return {
        "resource": "/{proxy+}",
        "path": parts.path,
        "httpMethod": method,
        "headers": fields,
        "multiValueHeaders": {name: [value] for name, value in fields.items()},
        "queryStringParameters": {name: values[-1] for name, values in query.items()} or None,
        "multiValueQueryStringParameters": query or None,
        "requestContext": {
            "httpMethod": method,
            "stage": "live",
            "domainName": "abc.execute-api.eu-west-1.amazonaws.com",
            "identity": {"sourceIp": SOURCE},
        },
        **encoded(body),
    }


def alb_event(
    target: str, method: str = "GET", headers: Mapping[str, str] | None = None, body: bytes = b""
) -> dict[str, Any]:
    """Of an Application Load Balancer without multi-value headers; the query comes as the client encoded it."""
    parts = urlsplit(target)
    query = dict(pair.partition("=")[::2] for pair in parts.query.split("&") if pair)
    return {
        "requestContext": {"elb": {"targetGroupArn": "arn:aws:elasticloadbalancing:eu-west-1:1:targetgroup/a/b"}},
        "httpMethod": method,
        "path": parts.path,
        "queryStringParameters": query,
        "headers": {
            "host": "gateway.example.org",
            "x-forwarded-for": f"{FORGED}, {SOURCE}",
            "x-forwarded-port": "443",
            "x-forwarded-proto": "https",
            **(headers or {}),
        },
        **encoded(body),
    }


EVENTS = {"1.0": rest_event, "2.0": url_event, "alb": alb_event}
