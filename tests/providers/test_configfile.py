"""The configuration file: what it may say, and how its faults are named."""

import json
from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from providers.addresses import AddressPolicy
from providers.configfile import AliasEntry, ConfigError, Configuration, KeyEntry, RouteEntry, parse
from providers.presets import presets

POLICY = AddressPolicy(["127.0.0.1:9000"], development=False)
EXAMPLE = """
providers:
  mistral: {preset: mistral, credentials: {main: env:MISTRAL_API_KEY}}
  lab:     {dialect: openai, base_url: "http://127.0.0.1:9000/v1/", credentials: {main: env:LAB_KEY}, options: {},
            quirks: {}, timeouts: {first_byte: 60, gap: 60, total: 600}}
aliases:
  fast:    {strategy: ordered, routes: [{provider: lab, model: gpt-4o}, {provider: mistral, model: large, weight: 2}]}
  "lab/*": {routes: [{provider: lab}]}
keys:
  web-app: {kind: secret, aliases: [fast], expires_at: 2030-01-31T00:00:00Z}
  old one: {existing: env:OLD_KEY, enabled: false}
"""


def problems_of(text: str) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        parse(text, POLICY)
    return list(caught.value.problems)


def test_the_manuals_example_is_read() -> None:
    found = parse(EXAMPLE, POLICY)
    lab, mistral = found.providers
    assert (lab.name, lab.values.base_url, lab.credentials) == (
        "lab",
        "http://127.0.0.1:9000/v1",
        {"main": "env:LAB_KEY"},
    )
    assert lab.values.timeouts == {"first_byte": 60, "gap": 60, "total": 600}
    assert mistral.values.base_url == "https://api.mistral.ai/v1"
    assert mistral.values.quirks["rename"]["max_completion_tokens"] == "max_tokens"
    assert found.aliases == (
        AliasEntry("fast", (RouteEntry("lab", "gpt-4o"), RouteEntry("mistral", "large", 2))),
        AliasEntry("lab/*", (RouteEntry("lab"),)),
    )
    assert found.keys == (
        KeyEntry("old one", existing="env:OLD_KEY", enabled=False),
        KeyEntry("web-app", aliases=("fast",), expires_at=datetime(2030, 1, 31, tzinfo=UTC)),
    )


@pytest.mark.parametrize("text", ["", "# nothing", "providers:\naliases: {}\n", "{}"])
def test_an_empty_file_configures_nothing(text: str) -> None:
    assert parse(text, POLICY) == Configuration()


def test_a_preset_is_filled_from_options_and_changed_name_by_name() -> None:
    text = """
    providers:
      p: {preset: predibase, options: {tenant_id: t1, deployment: d1, include_usage: true}, timeouts: {gap: 90},
          quirks: {drop: [user]}}
    """
    (entry,) = parse(text, POLICY).providers
    assert entry.values.base_url == "https://serving.app.predibase.com/t1/deployments/v2/llms/d1/v1"
    assert entry.values.options == {"include_usage": True}
    assert entry.values.timeouts == {"first_byte": 600, "total": 1200, "gap": 90}
    assert entry.values.quirks == {**presets()["predibase"].quirks, "drop": ["user"]}


BAD = [
    (
        "{providers: {lab: {preset: openai}}, aliases: {fast: {routes: [{provider: labb}]}}}",
        'aliases.fast.routes[0].provider: no provider named "labb"',
    ),
    ('{aliases: {"lab/*": {routes: [{}]}}}', 'aliases."lab/*".routes[0].provider: no provider named ""'),
    ("{aliases: {fast: {}}}", "aliases.fast.routes: must be a list of at least one route"),
    ("{aliases: {fast: {routes: []}}}", "aliases.fast.routes: must be a list of at least one route"),
    ("{aliases: {a*b: {routes: [{}]}}}", "aliases.\"a*b\": 'a*b' has a * before its end"),
    ("{aliases: {1: {routes: [{}]}}}", "aliases: the name 1 is no text: put it in quotes"),
    ("{aliases: {f: {strategy: random, routes: [{}]}}}", "aliases.f.strategy: there is no strategy 'random'"),
    ("{aliases: {f: {early_200: maybe, routes: [{}]}}}", "aliases.f.early_200: must be true or false"),
    ("{aliases: {f: {routes: [{weight: 0}]}}}", "aliases.f.routes[0].weight: must be a whole number from 1"),
    ("{aliases: {f: {routes: [{weight: true}]}}}", "aliases.f.routes[0].weight: must be a whole number from 1"),
    ("{aliases: {f: {routes: [{model: 4}]}}}", "aliases.f.routes[0].model: must be a text on one line"),
    ("{aliases: {f: {routes: [x]}}}", "aliases.f.routes[0]: must be a mapping"),
    ("{alias: {}}", "alias: is not known; there are aliases, keys, providers"),
    ("[]", "The file must hold a mapping."),
    ("hello", "The file must hold a mapping."),
    ("{providers: []}", "providers: must be a mapping of names to values"),
    ("{providers: {lab: {}}}", "providers.lab: give a preset, or a dialect and a base_url"),
    ("{providers: {a b: {preset: openai}}}", 'providers."a b": a provider\'s name has 1 to 60 letters'),
    ("{providers: {lab: {preset: openia}}}", "providers.lab.preset: no preset named 'openia'; there are openai,"),
    ("{providers: {lab: {dialect: klingon}}}", "providers.lab.dialect: there is no dialect 'klingon'"),
    ("{providers: {lab: {base_url: api.x.com}}}", "providers.lab.base_url: Write the scheme too: https://api.x.com"),
    ("{providers: {lab: {base_url: 'https://10.0.0.1'}}}", "providers.lab.base_url: A private or special address"),
    ("{providers: {lab: {preset: predibase}}}", "providers.lab.base_url: Fill in {tenant_id}"),
    ("{providers: {lab: {preset: openai, options: {x: 1}}}}", "providers.lab.options: x is no option"),
    ("{providers: {lab: {preset: openai, quirks: {x: 1}}}}", "providers.lab.quirks: quirks.x is unknown"),
    ("{providers: {lab: {preset: openai, timeouts: {gap: x}}}}", "providers.lab.timeouts: timeouts.gap must be"),
    ("{providers: {lab: {preset: openai, rpm: 5}}}", "providers.lab.rpm: is not known; there are base_url,"),
    ("{providers: {lab: {preset: openai, enabled: 1}}}", "providers.lab.enabled: must be true or false"),
    (
        "{providers: {lab: {preset: openai, credentials: {main: 'ssm:a b'}}}}",
        "providers.lab.credentials.main: a reference is of the form env:NAME or ssm:NAME;",
    ),
    ("{providers: {lab: {preset: openai, credentials: [x]}}}", "providers.lab.credentials: must be a mapping"),
    ("{keys: {web: {rate: 5}}}", "keys.web.rate: is not known; there are address_concurrency, address_rpm, "),
    ("{keys: {web: {kind: ephemeral}}}", "keys.web.kind: there is no kind 'ephemeral'; there are secret, publishable"),
    ("{keys: {web: {kind: publishable}}}", "keys.web.max_tokens: must be given for a publishable key"),
    ("{keys: {web: {aliases: fast}}}", "keys.web.aliases: must be a list such as [fast, mistral/*]"),
    ("{keys: {web: {aliases: [a*b]}}}", "keys.web.aliases[0]: 'a*b' has a * before its end"),
    ("{keys: {web: {aliases: [3]}}}", "keys.web.aliases[0]: an alias is a text"),
    ("{keys: {web: {expires_at: soon}}}", "keys.web.expires_at: must be a time with its zone"),
    ("{keys: {web: {expires_at: 2030-01-31}}}", "keys.web.expires_at: must be a time with its zone"),
    ("{keys: {web: {expires_at: '2030-01-31T00:00:00'}}}", "keys.web.expires_at: must be a time with its zone"),
    ("{keys: {' ': {}}}", 'keys." ": a key\'s name has 1 to 100 characters'),
    ("a: [", "line 1, column 5: "),
    ("providers:\n  lab: {preset: openai}\n  lab: {preset: groq}", "line 3, column 3: 'lab' stands here twice"),
    ("!!python/object/apply:os.system ['true']", "line 1, column 1: could not determine a constructor"),
    ("{? [a] : 1}", "line 1, column 4: found unhashable key"),
]


@pytest.mark.parametrize(("text", "said"), BAD)
def test_a_fault_is_named_by_its_path(text: str, said: str) -> None:
    assert any(problem.startswith(said) for problem in problems_of(text)), problems_of(text)


def test_all_faults_are_found_in_one_pass() -> None:
    text = "{providers: {lab: {preset: x, enabled: 3}}, aliases: {f: {}}, keys: {k: {kind: x}}}"
    assert [problem.partition(":")[0] for problem in problems_of(text)] == [
        *("providers.lab.preset", "providers.lab.base_url", "providers.lab.enabled", "aliases.f.routes", "keys.k.kind")
    ]


@pytest.mark.parametrize(
    "place", ["{providers: {lab: {preset: openai, credentials: {main: %s}}}}", "{keys: {k: {existing: %s}}}"]
)
def test_a_secret_in_the_file_is_refused_and_not_repeated(place: str) -> None:
    (problem,) = problems_of(place % "sk-live-canary")
    assert "the secret itself never stands in this file" in problem
    assert "canary" not in problem


def test_a_file_of_any_size_is_not_read() -> None:
    assert problems_of("#" * 5_000_000) == ["The file is longer than 4194304 characters."]


@given(st.text(alphabet="{}[]:,- \n'\"!?&*<|>#%@a1=~."))
def test_any_text_is_read_or_refused(text: str) -> None:
    try:
        parse(text, POLICY)
    except ConfigError as error:
        assert all(error.problems)  # noqa: PT017


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.text(max_size=5),
        lambda inner: (
            st.lists(inner, max_size=3)
            | st.dictionaries(
                st.sampled_from(["providers", "aliases", "keys", "routes", "provider", "preset", "openai", "x"]),
                inner,
                max_size=3,
            )
        ),
        max_leaves=12,
    )
)
def test_whatever_the_file_holds_is_read_or_refused_with_a_path(data: object) -> None:
    try:
        parse(json.dumps(data), POLICY)
    except ConfigError as error:
        assert all(error.problems)  # noqa: PT017
