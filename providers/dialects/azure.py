"""https://learn.microsoft.com/azure/ai-services/openai/reference: a deployment in the path, a date in the query."""

import re
from typing import ClassVar

from providers.dialects.openai import BadModelName, OpenAI
from providers.targets import Target

DEPLOYMENT = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
# What stands below a deployment in the dated form; all else stands beside them, whatever model its body names.
# https://github.com/openai/openai-python/blob/main/src/openai/lib/azure.py has the same list.
OF_DEPLOYMENTS = frozenset(
    {
        *("/chat/completions", "/completions", "/embeddings", "/images/generations", "/images/edits"),
        *("/audio/transcriptions", "/audio/translations", "/audio/speech"),
    }
)


class Azure(OpenAI):
    """With the option `api_version` the dated form; without it the v1 form, whose base URL ends in /openai/v1."""

    name: ClassVar[str] = "azure"
    label: ClassVar[str] = "Azure OpenAI"
    needs_credential: ClassVar[bool] = True
    bare_path: ClassVar[str] = ""
    options: ClassVar[dict[str, str]] = {
        **OpenAI.options,
        "api_version": "the dated API, such as 2024-10-21; leave it out for the v1 API",
    }

    def url(self, target: Target, path: str) -> str:
        version = target.provider.options.get("api_version")
        if not version:
            return super().url(target, path)
        if path not in OF_DEPLOYMENTS:
            return f"{target.provider.base_url}/openai{path}?api-version={version}"
        # Under a pattern the client gives this name: it must not climb out of its place in the path.
        if not DEPLOYMENT.fullmatch(target.model):
            raise BadModelName(target.model)
        return f"{target.provider.base_url}/openai/deployments/{target.model}{path}?api-version={version}"

    def headers(self, target: Target) -> list[tuple[str, str]]:
        return [("api-key", target.secret)]
