"""Where a prediction is made, by the model's name: https://replicate.com/docs/reference/http."""

import msgspec
import pytest

from providers import dialects
from providers.dialects.openai import BadModelName
from providers.targets import ProviderCard, Target

VERSION = "f" * 64
CARD = ProviderCard("p", "p", "replicate", "https://api.replicate.com/v1")


@pytest.mark.parametrize(
    ("model", "path", "version"),
    [
        ("meta/llama-2", "/models/meta/llama-2/predictions", None),
        (f"meta/llama-2:{VERSION}", "/predictions", VERSION),
        (VERSION, "/predictions", VERSION),
        ("deployments/me/mine", "/deployments/me/mine/predictions", None),
    ],
)
def test_the_models_name_says_where_a_prediction_is_made(model: str, path: str, version: str | None) -> None:
    dialect = dialects.get("replicate")
    assert dialect.url(Target(CARD, model), "/completions") == f"{CARD.base_url}{path}"
    fields = {"model": msgspec.Raw(msgspec.json.encode(model)), "prompt": msgspec.Raw(b'"Say"')}
    dialect.request(CARD, "/completions", fields)
    sent = {name: msgspec.json.decode(raw) for name, raw in fields.items()}
    assert sent == {"input": {"prompt": "Say"}, **({"version": version} if version else {})}


@pytest.mark.parametrize(
    "model", ["llama", "a/b/c", "a/..", "a/b:latest", "../x/y", "deployments/a", "", "a/b?c", "a/b\n"]
)
def test_a_name_that_is_no_model_has_no_address(model: str) -> None:
    with pytest.raises(BadModelName):
        dialects.get("replicate").url(Target(CARD, model), "/chat/completions")
