"""The warm baseline, for AWS's own runtime client: the same JSON from memory, and nobody is called for it."""

from typing import Any

from bench.upstream import JSON_ANSWER

BODY = JSON_ANSWER.partition(b"\r\n\r\n")[2].decode()


def handler(event: dict[str, Any], context: object) -> dict[str, Any]:
    return {"statusCode": 200, "headers": {"content-type": "application/json"}, "body": BODY}
