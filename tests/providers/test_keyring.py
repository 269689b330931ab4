import logging
from datetime import UTC, datetime, timedelta
from timeit import timeit

import pytest
from django.utils import timezone
from pytest_django import DjangoAssertNumQueries, Settings

from providers import catalog, keyring, keys
from providers.keyring import MISSING, UNKNOWN, Keyring
from providers.models import ClientKey
from providers.targets import KeyCard
from tests.providers.conftest import Clock

pytestmark = [pytest.mark.django_db, pytest.mark.usefixtures("fresh")]


@pytest.fixture
def ring(clock: Clock) -> Keyring:
    return Keyring(wall=clock.wall, monotonic=clock.monotonic)


@pytest.fixture
def reader(clock: Clock) -> catalog.Reader:
    """Stands for the engine: its looks tell this process's keyring what to forget."""
    reader = catalog.Reader(wall=clock.wall, monotonic=clock.monotonic)
    reader.load()
    return reader


def test_a_key_is_looked_up_once_and_then_known(
    ring: Keyring, django_assert_num_queries: DjangoAssertNumQueries
) -> None:
    expires = datetime(2099, 1, 1, tzinfo=UTC)
    row, token = ClientKey.objects.mint("web", aliases=["fast", "mistral/*"], expires_at=expires)
    assert ring.find(token) is MISSING
    with django_assert_num_queries(1):
        card = ring.load(token)
    assert card == KeyCard(
        row.id, "web", row.pepper_id, bytes(row.digest), ("fast", "mistral/*"), expires_at=expires.timestamp()
    )
    with django_assert_num_queries(0):
        assert ring.find(token) is card


def test_p3_an_entry_is_found_by_the_whole_token_only(ring: Keyring) -> None:
    row, token = ClientKey.objects.mint("web")
    ring.load(token)
    body = f"sk-gw-{row.id}-" + "0" * 43
    forged = body + keys.checksum(body)
    assert ring.find(forged) is MISSING
    assert ring.load(forged) is None
    assert ring.find(forged) is UNKNOWN
    assert isinstance(ring.find(token), KeyCard)


def test_s11_malformed_keys_never_reach_the_database(
    ring: Keyring, django_assert_num_queries: DjangoAssertNumQueries
) -> None:
    with django_assert_num_queries(0):
        for number in range(1000):
            token = f"sk-gw-{number:010}-" + "0" * 49
            assert ring.find(token) is UNKNOWN
            assert ring.load(token) is None
        for token in ("' OR 1=1 --", "", "x" * 5000, "\ud800"):
            assert ring.find(token) is UNKNOWN
            assert ring.load(token) is None


def test_s11_an_unknown_key_costs_one_query_in_five_seconds(
    ring: Keyring, clock: Clock, django_assert_num_queries: DjangoAssertNumQueries
) -> None:
    token = keys.mint().token
    with django_assert_num_queries(1):
        assert ring.load(token) is None
    clock.move(4.9)
    assert ring.find(token) is UNKNOWN
    clock.move(0.1)
    assert ring.find(token) is MISSING


def test_s11_the_memory_of_known_and_unknown_keys_is_bounded(ring: Keyring, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(keyring, "MAX_ENTRIES", 10)
    tokens = [ClientKey.objects.mint("web")[1] for _ in range(12)]
    for token in tokens:
        ring.load(token)
        ring.load(keys.mint().token)
    assert (len(ring._known), len(ring._unknown), len(ring._digest_of)) == (10, 10, 10)
    assert [ring.find(token) is MISSING for token in tokens] == [True] * 2 + [False] * 10


@pytest.mark.parametrize("clock_name", ["wall_time", "monotonic_time"])
def test_an_entry_dies_by_either_clock(ring: Keyring, clock: Clock, clock_name: str) -> None:
    token = ClientKey.objects.mint("web")[1]
    ring.load(token)
    setattr(clock, clock_name, getattr(clock, clock_name) + 59.9)
    assert isinstance(ring.find(token), KeyCard)
    setattr(clock, clock_name, getattr(clock, clock_name) + 0.2)
    assert ring.find(token) is MISSING


def test_r44_a_wall_clock_that_is_set_back_keeps_nothing_alive(ring: Keyring, clock: Clock) -> None:
    token = ClientKey.objects.mint("web")[1]
    ring.load(token)
    clock.wall_time -= 3600
    clock.monotonic_time += 60
    assert ring.find(token) is MISSING


def test_s16_a_revoked_key_is_refused_after_the_next_look(reader: catalog.Reader) -> None:
    row, token = ClientKey.objects.mint("web")
    reader.refresh()
    assert keyring.load(token) is not None
    ClientKey.objects.filter(pk=row.pk).update(enabled=False)
    reader.refresh()
    assert keyring.find(token) is MISSING
    card = keyring.load(token)
    assert card is not None
    assert not card.is_live(timezone.now().timestamp())
    row.delete()
    reader.refresh()
    assert keyring.find(token) is MISSING
    assert keyring.load(token) is None


def test_s16_revoking_all_keys_at_once_is_seen_too(reader: catalog.Reader) -> None:
    tokens = [ClientKey.objects.mint("web")[1] for _ in range(501)]
    reader.refresh()
    assert keyring.load(tokens[0]) is not None
    ClientKey.objects.update(enabled=False)
    reader.refresh()
    assert keyring.find(tokens[0]) is MISSING


def test_a_key_that_was_nobodys_works_after_the_next_look(reader: catalog.Reader) -> None:
    row, token = ClientKey.objects.mint("web")
    kept = ClientKey.objects.get(pk=row.pk)
    row.delete()
    reader.refresh()
    assert keyring.load(token) is None
    kept.save(force_insert=True)
    reader.refresh()
    assert keyring.find(token) is MISSING
    assert keyring.load(token) is not None


def test_an_expired_key_is_a_card_that_is_not_live(ring: Keyring) -> None:
    _, token = ClientKey.objects.mint("web", expires_at=timezone.now() - timedelta(seconds=1))
    card = ring.load(token)
    assert card is not None
    assert not card.is_live(timezone.now().timestamp())


def test_a_key_from_elsewhere_is_in_the_catalog_and_never_costs_a_query(
    reader: catalog.Reader, django_assert_num_queries: DjangoAssertNumQueries
) -> None:
    row = ClientKey.objects.adopt("My API Key", name="app")
    assert keyring.find("My API Key") is UNKNOWN
    reader.refresh()
    with django_assert_num_queries(0):
        found = keyring.find("My API Key")
        assert isinstance(found, KeyCard)
        assert found.id == row.id
        assert keyring.load("My API Key") == found
        assert keyring.find("My API key") is UNKNOWN
        assert keyring.load("My API key") is None
    ClientKey.objects.filter(pk=row.pk).delete()
    reader.refresh()
    assert keyring.find("My API Key") is UNKNOWN


def test_a_row_under_an_older_pepper_is_still_found(ring: Keyring, settings: Settings) -> None:
    row, token = ClientKey.objects.mint("web")
    foreign = ClientKey.objects.adopt("My API Key", name="app")
    settings.GATEWAY_KEY_PEPPERS = {"new": bytes(range(32)), **settings.GATEWAY_KEY_PEPPERS}
    catalog.Reader().load()
    card, other = ring.load(token), ring.find("My API Key")
    assert card is not None
    assert card.id == row.id
    assert ring.find(token) is card
    assert isinstance(other, KeyCard)
    assert other.id == foreign.id


def test_a_row_whose_pepper_is_gone_is_nobodys(ring: Keyring, settings: Settings) -> None:
    _, token = ClientKey.objects.mint("web")
    settings.GATEWAY_KEY_PEPPERS = {"new": bytes(range(32))}
    assert ring.load(token) is None


def test_another_pepper_under_the_same_id_finds_nothing(ring: Keyring, settings: Settings) -> None:
    row, token = ClientKey.objects.mint("web")
    settings.GATEWAY_KEY_PEPPERS = {row.pepper_id: bytes(range(32))}
    assert ring.load(token) is None


def test_a_bad_row_is_nobodys_and_named(ring: Keyring, caplog: pytest.LogCaptureFixture) -> None:
    row, token = ClientKey.objects.mint("web")
    ClientKey.objects.update(aliases="*")
    with caplog.at_level(logging.ERROR):
        assert ring.load(token) is None
    assert f"left out: client key {row.id}: aliases must be a list of names" in caplog.text
    assert token not in caplog.text


def test_without_a_configured_pepper_a_process_has_its_own(ring: Keyring, settings: Settings) -> None:
    settings.GATEWAY_KEY_PEPPERS = {}
    assert ring.find("My API Key") is UNKNOWN
    assert ring.find(keys.mint().token) is MISSING


def test_finding_a_known_key_takes_microseconds(ring: Keyring) -> None:
    token = ClientKey.objects.mint("web")[1]
    ring.load(token)
    # Some 9 us here; a hop to another thread alone is 64.
    assert timeit(lambda: ring.find(token), number=1000) / 1000 < 60e-6
