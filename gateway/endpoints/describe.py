"""What the interactive docs show of a body that the gateway does not take apart."""

from typing import Any


def body(example: dict[str, Any], *, required: list[str]) -> dict[str, Any]:
    """An OpenAPI requestBody: any JSON object with the required fields; unknown ones are forwarded as they are."""
    schema = {"type": "object", "required": required, "additionalProperties": True, "example": example}
    return {"requestBody": {"required": True, "content": {"application/json": {"schema": schema}}}}
