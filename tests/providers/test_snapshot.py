from timeit import timeit

import pytest

from providers.secret import Secret
from providers.snapshot import Catalog, build
from providers.targets import AliasCard, CredentialCard, ProviderCard, RouteCard


def of(*names: str) -> Catalog:
    return build([], [AliasCard(name, name) for name in names], [], 0.0)


@pytest.mark.parametrize(
    ("names", "model", "alias", "rest"),
    [
        (["fast", "*"], "fast", "fast", ""),
        (["fast", "*"], "faster", "*", "faster"),
        (["*"], "", "*", ""),
        (["mistral/*", "*"], "mistral/large", "mistral/*", "large"),
        (["mistral/*", "mistral/large"], "mistral/large", "mistral/large", ""),
        (["m*", "mistral/*", "mistral/l*", "*"], "mistral/large", "mistral/l*", "arge"),
        (["m*", "mistral/*", "mistral/l*", "*"], "mistral/small", "mistral/*", "small"),
        (["m*", "mistral/*", "mistral/l*", "*"], "m", "m*", ""),
        (["lab/*"], "lab/", "lab/*", ""),
        (["lab/*"], "lab/a/b", "lab/*", "a/b"),
    ],
)
def test_the_exact_name_wins_then_the_longest_pattern(names: list[str], model: str, alias: str, rest: str) -> None:
    found = of(*names).match(model)
    assert found is not None
    assert (found[0].name, found[1]) == (alias, rest)


@pytest.mark.parametrize("model", ["", "lab", "Fast", "fast ", "xlab/a"])
def test_a_name_that_nothing_covers_has_no_alias(model: str) -> None:
    assert of("fast", "lab/*").match(model) is None


def test_the_patterns_of_10_000_aliases_cost_no_more_than_their_lengths() -> None:
    catalog = of(*(f"provider-{number:05}/*" for number in range(10_000)))
    assert catalog.lengths == (15,)
    # A scan of the patterns would take some 500 us.
    assert timeit(lambda: catalog.match("provider-09999/m"), number=1000) / 1000 < 50e-6


TOKEN = CredentialCard("c", "main", Secret("sk-1"))
OPEN = ProviderCard("open", "open", "openai")
SIGNED = ProviderCard("signed", "signed", "openai", credentials=(TOKEN, CredentialCard("d", "next", Secret("sk-2"))))
AZURE = ProviderCard("azure", "azure", "azure")
OFF = ProviderCard("off", "off", "openai", enabled=False)
ODD = ProviderCard("odd", "odd", "klingon")


@pytest.mark.parametrize(
    ("alias", "requested", "expected"),
    [
        (AliasCard("a", "fast", (RouteCard("open"),)), "fast", [("open", "", "")]),
        (AliasCard("a", "fast", (RouteCard("signed", "m"),)), "fast", [("signed", "m", "sk-1")]),
        (
            AliasCard("a", "lab/*", (RouteCard("open"), RouteCard("signed", "m"))),
            "lab/x",
            [("open", "x", ""), ("signed", "m", "sk-1")],
        ),
        (AliasCard("a", "*", (RouteCard("open"),)), "", [("open", "", "")]),
        (AliasCard("a", "*", (RouteCard("open"),)), "a/b", [("open", "a/b", "")]),
        (AliasCard("a", "fast", tuple(map(RouteCard, ("azure", "off", "odd", "gone")))), "fast", []),
        (AliasCard("a", "fast"), "fast", []),
    ],
)
def test_routes_become_targets_and_what_cannot_be_used_is_left_out(
    alias: AliasCard, requested: str, expected: list[tuple[str, str, str]]
) -> None:
    catalog = build([OPEN, SIGNED, AZURE, OFF, ODD], [alias], [], 0.0)
    found = catalog.targets(alias, requested)
    assert [(target.provider.id, target.model, target.secret) for target in found] == expected


def test_targets_follow_the_order_that_they_are_asked_in() -> None:
    alias = AliasCard("a", "fast", (RouteCard("open", "a"), RouteCard("signed", "b")))
    catalog = build([OPEN, SIGNED], [alias], [], 0.0)
    assert [target.model for target in catalog.targets(alias, "fast", alias.routes[::-1])] == ["b", "a"]


def test_aliases_are_listed_by_name() -> None:
    assert [alias.name for alias in of("b", "a/*", "c", "*").aliases()] == ["*", "a/*", "b", "c"]
