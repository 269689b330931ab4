"""Where a configuration file may lie: a path, `ssm:NAME` or `s3://BUCKET/KEY` (pure)."""

from pathlib import Path

from providers import awscalls, references

S3 = "s3://"


class Unreadable(Exception):
    """There is no text at that place, or it may not be read."""


def read(place: str) -> str:
    """The text; what lies at AWS is kept for 5 minutes. Raises Unreadable."""
    try:
        if place.startswith(references.SSM):
            return awscalls.parameter(place.removeprefix(references.SSM))
        if place.startswith(S3):
            bucket, _, key = place.removeprefix(S3).partition("/")
            return awscalls.stored_text(bucket, key)
        return Path(place).read_text(encoding="utf-8")
    except awscalls.CallFailed as error:
        raise Unreadable(str(error)) from None
    except (OSError, ValueError) as error:
        raise Unreadable(f"{place} cannot be read ({type(error).__name__})") from None
