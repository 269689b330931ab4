"""What a call costs: exact, in parts, and unknown where it is unknown."""

from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

import genai_prices
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ledger import builtin, money
from ledger.pricebook import MISSING, OwnPrice, PriceBook
from ledger.prices import Price, cost, worst
from ledger.usage import Usage
from providers.snapshot import build
from providers.targets import AliasCard, ProviderCard, RouteCard

D = Decimal
NOW = datetime(2026, 11, 23, 12, tzinfo=UTC)
WHOLE = Price(
    input=D(10),
    output=D(100),
    cached=D(1),
    reasoning=D(200),
    audio_in=D(40),
    audio_out=D(80),
    request=D("0.5"),
    image=D("0.04"),
    second=D("0.006"),
)


@pytest.mark.parametrize(
    ("usage", "dollars"),
    [
        (Usage(), "0.5"),
        (Usage(1000, 0), "0.51"),
        (Usage(1000, 0, 1000), "0.501"),
        (Usage(1000, 0, 400, 0, 100), "0.5094"),  # 500 text, 400 cached, 100 audio
        (Usage(0, 1000, 0, 300, 0, 200), "0.626"),  # 500 text, 300 reasoning, 200 audio
        (Usage(images=3, media_ms=1500), "0.629"),
        (Usage(1, 0, 5), "0.500001"),  # no more is cached than there is
    ],
)
def test_each_part_is_charged_by_its_own_rate(usage: Usage, dollars: str) -> None:
    assert cost(usage, WHOLE) == D(dollars)


def test_parts_without_a_rate_cost_as_the_whole() -> None:
    assert cost(Usage(10, 10, 5, 5, 5, 5), Price(input=D(1), output=D(2))) == D("0.00003")


def test_tokens_without_any_rate_have_no_price() -> None:
    assert cost(Usage(10, 10), Price(input=D(1))) is None
    assert cost(Usage(10, 0), Price(input=D(1))) == D("0.00001")
    assert worst(Price(input=D(1)), 10, 10) is None
    assert cost(Usage(10, 10), Price(request=D("0.01"))) == D("0.01")
    assert cost(Usage(10, 10), Price(input=D(0), output=D(0))) == 0


def test_beyond_a_tier_all_of_the_call_is_dearer() -> None:
    tiered = Price(input=D(1), output=D(2), tiers=((100, Price(input=D(3), output=D(4))),))
    assert cost(Usage(100, 1), tiered) == D("0.000102")
    assert cost(Usage(101, 1), tiered) == D("0.000307")
    assert worst(tiered, 100, 1) == D("0.000102")
    assert worst(tiered, 101, 1) == D("0.000307")


@given(st.integers(0, 10**6), st.integers(0, 10**6), st.data())
def test_the_worst_case_is_never_below_what_the_call_costs(tokens_in: int, tokens_out: int, data: Any) -> None:
    cached = data.draw(st.integers(0, tokens_in))
    reasoning = data.draw(st.integers(0, tokens_out))
    audio = data.draw(st.integers(0, tokens_out - reasoning))
    amount = cost(Usage(tokens_in, tokens_out, cached, reasoning, 0, audio), WHOLE)
    most = worst(WHOLE, tokens_in, tokens_out)
    assert amount is not None
    assert most is not None
    assert money.units(amount) <= money.units_up(most)


@given(st.decimals(-(10**8), 10**8, places=10, allow_nan=False))
def test_money_comes_back_from_sql_as_it_went(amount: Decimal) -> None:
    assert money.dollars(money.units(amount)) == amount


@pytest.mark.parametrize(
    ("url", "model"),
    [
        ("https://api.openai.com/v1", "gpt-4o"),
        ("https://api.anthropic.com/v1", "claude-sonnet-4-5"),
        ("https://api.mistral.ai/v1", "mistral-large-latest"),
        ("https://generativelanguage.googleapis.com/v1beta/openai", "gemini-2.5-pro"),
        ("https://api.groq.com/openai/v1", "llama-3.3-70b-versatile"),
    ],
)
@pytest.mark.parametrize("tokens", [(1000, 100, 50), (300_000, 2000, 0)])
def test_a_built_in_price_gives_what_its_library_gives(url: str, model: str, tokens: tuple[int, int, int]) -> None:
    price = builtin.price(url, model, NOW)
    assert price is not None
    assert price.source == "genai-prices"
    theirs = genai_prices.calc_price(
        genai_prices.Usage(input_tokens=tokens[0], output_tokens=tokens[1], cache_read_tokens=tokens[2]),
        model,
        provider_api_url=url,
        genai_request_timestamp=NOW,
    )
    assert cost(Usage(*tokens), price) == theirs.total_price


@pytest.mark.parametrize(
    ("url", "model"),
    [
        ("https://llm.example.org/v1", "gpt-4o"),
        ("http://127.0.0.1:9000/v1", "gpt-4o"),
        ("http://localhost:11434/v1", "llama3"),
        ("", "echo"),
        ("https://api.openai.com/v1", ""),
        ("https://api.openai.com/v1", "nothing-of-this-name"),
    ],
)
def test_what_the_table_does_not_have_is_unknown(url: str, model: str) -> None:
    assert builtin.price(url, model, NOW) is None


def lab(url: str = "https://api.openai.com/v1") -> ProviderCard:
    return ProviderCard("p1", "lab", "openai", url)


def own(amount: int, **place: Any) -> OwnPrice:
    return OwnPrice(Price(request=D(amount)), **place)


def test_the_most_particular_price_of_the_operator_wins_over_every_other() -> None:
    rows = [
        own(1),
        own(2, model="gpt-*"),
        own(3, model="gpt-4o"),
        own(4, provider="lab", model="gpt-*"),
        own(5, alias="fast"),
        own(6, provider="other", model="gpt-4o"),
    ]
    catalog = build([lab()], [AliasCard("a1", "fast", (RouteCard("p1", "gpt-4o"),))], [], 0.0)

    def found(*given: OwnPrice, model: str = "gpt-4o", alias: str = "fast") -> Price | None:
        book = PriceBook(lambda: given)
        book.refresh(catalog)
        return book.resolve([(lab(), model, alias)])["p1", model, alias].at(0.0)

    assert [price.request for price in (found(*rows[:count]) for count in (1, 2, 3, 4, 5, 6)) if price] == [
        *map(D, (1, 2, 3, 4, 5, 5))
    ]
    assert found(*rows, alias="slow") == Price(request=D(4))
    assert found(*rows[:3], model="o3") == Price(request=D(1))
    builtin_price = found(rows[5])
    assert builtin_price is not None
    assert builtin_price.source == "genai-prices"


def test_a_price_holds_from_its_day_until_its_end() -> None:
    rows = [own(1, starts=100.0), own(2, starts=200.0, ends=300.0)]
    catalog = build([lab("http://127.0.0.1/v1")], [AliasCard("a1", "fast", (RouteCard("p1", "m"),))], [], 0.0)
    book = PriceBook(lambda: rows)
    book.refresh(catalog)
    found = [book.find(lab(), "m", "fast", when) for when in (99.0, 100.0, 200.0, 299.9, 300.0)]
    assert found == [None, rows[0].price, rows[1].price, rows[1].price, rows[0].price]


def test_names_that_come_from_clients_are_looked_for_once_and_forgotten_in_time() -> None:
    book = PriceBook(capacity=3)
    for number in range(5):
        assert book.find(lab(), f"m{number}", "lab/*", 0.0) is MISSING
        book.resolve([(lab(), f"m{number}", "lab/*")])
        assert book.find(lab(), f"m{number}", "lab/*", 0.0) is None
    assert [book.find(lab(), f"m{number}", "lab/*", 0.0) for number in range(5)] == [MISSING, MISSING, None, None, None]


def test_new_prices_and_new_addresses_are_seen_at_the_next_look() -> None:
    given: list[Any] = [[own(1)], None, [own(2)]]
    book = PriceBook(lambda: given.pop(0))
    catalog = build([lab()], [AliasCard("a1", "fast", (RouteCard("p1", "gpt-4o"),))], [], 0.0)
    for amount in (1, 1, 2):
        book.refresh(catalog)
        assert book.find(lab(), "gpt-4o", "fast", 0.0) == Price(request=D(amount))
