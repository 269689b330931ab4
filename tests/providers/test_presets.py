"""Each preset makes a provider that the rest of the gateway takes."""

import pytest

from providers import quirks
from providers.addresses import AddressPolicy, origin
from providers.draft import ProviderValues, settled
from providers.presets import Preset, fill, presets

POLICY = AddressPolicy(["127.0.0.1:11434", "127.0.0.1:8000", "127.0.0.1:8080"], development=False)


def values_of(preset: Preset, **options: str) -> ProviderValues:
    merged = {**preset.options, **options}
    return ProviderValues(preset.dialect, preset.base_url, merged, preset.quirks, preset.timeouts)


@pytest.mark.parametrize("preset", presets().values(), ids=presets())
def test_each_preset_makes_a_valid_provider(preset: Preset) -> None:
    settled_values, faults = settled(values_of(preset, **dict.fromkeys(preset.placeholders, "x.mine")), POLICY)
    assert faults == []
    assert "{" not in settled_values.base_url
    assert settled_values.options == preset.options
    assert preset.docs.startswith("https://")
    assert preset.label


@pytest.mark.parametrize("preset", [preset for preset in presets().values() if preset.placeholders], ids=str)
def test_a_placeholder_that_is_left_is_named(preset: Preset) -> None:
    _, faults = settled(values_of(preset), POLICY)
    assert [(fault.field, fault.message.partition(":")[0]) for fault in faults] == [
        ("base_url", f"Fill in {{{preset.placeholders[0]}}}")
    ]


def test_the_providers_of_the_manual_are_there() -> None:
    assert list(presets()) == [
        *("openai", "mistral", "predibase", "lorax", "ollama", "huggingface", "huggingface-endpoint", "tgi"),
        *("replicate", "azure", "azure-dated", "anthropic", "gemini", "bedrock", "groq", "together", "fireworks"),
        *("openrouter", "deepseek", "vllm", "custom", "echo"),
    ]


def test_predibase_gets_its_tenant_and_deployment_into_the_path() -> None:
    values, faults = settled(values_of(presets()["predibase"], tenant_id="t1", deployment="mixtral"), POLICY)
    assert faults == []
    assert values.base_url == "https://serving.app.predibase.com/t1/deployments/v2/llms/mixtral/v1"
    assert values.options == {"include_usage": False}
    assert values.timeouts == {"first_byte": 600, "total": 1200}


@pytest.mark.parametrize("name", ["mistral", "predibase", "ollama", "deepseek"])
def test_upstreams_that_know_max_tokens_only_get_it_by_that_name(name: str) -> None:
    assert quirks.parse(presets()[name].quirks).rename["max_completion_tokens"] == "max_tokens"


def test_a_filled_placeholder_cannot_move_the_key_to_another_path_form() -> None:
    _, faults = settled(values_of(presets()["azure"], resource="u@evil.example.com/"), POLICY)
    assert [fault.field for fault in faults] == ["base_url"]


def test_fill_leaves_other_options_alone() -> None:
    assert fill("https://{host}:{port}/v1", {"host": "h.example.com", "port": 8443, "include_usage": False}) == (
        "https://h.example.com:8443/v1",
        {"include_usage": False},
    )
    assert origin(fill("https://{host}/v1", {"host": "h.example.com"})[0]) == "https://h.example.com:443"


def test_the_dated_azure_api_keeps_its_bare_host() -> None:
    values, faults = settled(values_of(presets()["azure-dated"], resource="me"), POLICY)
    assert (values.base_url, faults) == ("https://me.openai.azure.com", [])


@pytest.mark.parametrize(
    ("values", "field", "said"),
    [
        (ProviderValues("klingon", "https://x.example.com"), "dialect", "no dialect 'klingon'"),
        (ProviderValues("openai", ""), "base_url", "Give the base URL"),
        (ProviderValues("openai", "http://x.example.com"), "base_url", "GATEWAY_PRIVATE_UPSTREAMS"),
        (ProviderValues("echo", "https://x.example.com"), "base_url", "leave it empty"),
        (ProviderValues("echo", "", {"include_usage": True}), "options", "known are none"),
        (ProviderValues("openai", "https://x.example.com", {"api": 1}), "options", "api is no option"),
        (ProviderValues("openai", "https://x.example.com", {"include_usage": "no"}), "options", "true or false"),
        (ProviderValues("azure", "https://x.example.com", {"api_version": "1&a=b"}), "options", "letters, digits"),
        (ProviderValues("azure", "https://x.example.com", {"api_version": 2024}), "options", "in quotes"),
        (ProviderValues("openai", "https://x.example.com", {}, {"drop": ["model"]}), "quirks", "model"),
        (ProviderValues("openai", "https://x.example.com", {}, {}, {"gap": 0}), "timeouts", "gap"),
    ],
)
def test_what_is_wrong_with_a_provider_stands_at_its_field(values: ProviderValues, field: str, said: str) -> None:
    _, faults = settled(values, POLICY)
    assert [fault.field for fault in faults] == [field]
    assert said in faults[0].message


@pytest.mark.parametrize(
    "name", ["mistral", "predibase", "lorax", "huggingface-endpoint", "tgi", "replicate", "anthropic", "gemini"]
)
def test_a_provider_without_responses_is_known_for_it(name: str) -> None:
    assert quirks.parse(presets()[name].quirks).paths["/responses"] == ""
