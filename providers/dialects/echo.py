"""Answers without any network, so that the first five minutes need no token. It takes the same way as any provider."""

from typing import ClassVar

from providers.dialects.openai import OpenAI
from providers.targets import Target


class Echo(OpenAI):
    """The transport for `echo:` addresses stands in gateway/upstream/transport.py."""

    name: ClassVar[str] = "echo"
    label: ClassVar[str] = "echo (built in, answers without a provider)"
    needs_base_url: ClassVar[bool] = False
    options: ClassVar[dict[str, str]] = {}

    def url(self, target: Target, path: str) -> str:
        return "http://echo.invalid/v1" + path
