"""What a request's path says: the operation, and perhaps the provider or the deployment that is to do it (pure)."""

import msgspec

AZURE = "openai"  # https://learn.microsoft.com/azure/ai-services/openai/reference


class Place(msgspec.Struct, frozen=True):
    """`path` is `/v1/...` for every spelling of the base URL that is met."""

    path: str
    provider: str = ""  # named before `/v1`
    deployment: str = ""  # Azure's word for a model
    rooted: bool = True  # `/v1`, or Azure's `/openai`, stood before the operation

    @property
    def is_azure(self) -> bool:
        return self.provider == AZURE


NOWHERE = Place("")


def read(path: str) -> Place:
    """The place of a path, decoded or not: with and without `/v1`, with doubled or trailing slashes, under a provider's
    name (`/mistral/v1/...`), and as Azure's clients write it (`/openai/deployments/gpt-4o/...`, `/openai/v1/...`).
    """
    if path.startswith("/v1/") and not path.startswith("/v1/v1/") and not path.endswith("/") and "//" not in path:
        return Place(path)
    parts = [part for part in path.split("/") if part]
    if parts[:2] == [AZURE, "deployments"] and len(parts) > 3:
        return Place(_joined(parts[3:]), AZURE, parts[2])
    if parts[:1] == [AZURE]:
        return Place(_joined(parts[2:] if parts[1:2] == ["v1"] else parts[1:]), AZURE)
    provider = ""
    if len(parts) > 1 and parts[0] != "v1" and parts[1] == "v1":
        provider = parts.pop(0)
    rooted = parts[:1] == ["v1"]
    if rooted:
        parts.pop(0)
    if parts[:1] == ["v1"]:  # a base URL that ends in /v1, and a client that adds it
        parts.pop(0)
    return Place(_joined(parts), provider, "", rooted)


def _joined(parts: list[str]) -> str:
    return "/v1/" + "/".join(parts) if parts else "/v1"
