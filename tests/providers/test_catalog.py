import logging
from typing import Any

import pytest
from django.db import DatabaseError, connection
from pytest_django import DjangoAssertNumQueries

from providers import catalog, keyring, keys, overlay, peppers
from providers.catalog import Reader, current
from providers.models import ClientKey, Credential, ModelAlias, Provider, Route
from providers.overlay import Overlay
from providers.targets import AliasCard, KeyCard, ProviderCard, RouteCard
from tests.providers.conftest import Clock

pytestmark = [pytest.mark.django_db, pytest.mark.usefixtures("fresh")]


@pytest.fixture
def reader(clock: Clock) -> Reader:
    reader = Reader(wall=clock.wall, monotonic=clock.monotonic)
    assert reader.load()
    return reader


@pytest.fixture
def lab() -> Provider:
    provider = Provider.objects.create(name="lab", base_url="https://lab.example.com/v1", timeouts={"gap": 5})
    credential = Credential(provider=provider)
    credential.seal("sk-lab-0123456789")
    credential.save()
    return provider


def alias(name: str, *routes: tuple[Provider, str], **fields: Any) -> ModelAlias:
    row = ModelAlias.objects.create(name=name, **fields)
    for position, (provider, model) in enumerate(routes):
        Route.objects.create(alias=row, provider=provider, model=model, position=position)
    return row


def resolved(name: str) -> list[tuple[str, str, str]]:
    found = current().match(name)
    assert found is not None
    return [(t.provider.name, t.model, t.secret) for t in current().targets(found[0], name)]


def test_a_provider_is_loaded_with_its_opened_credential(lab: Provider, reader: Reader) -> None:
    card = current().providers[lab.id]
    assert (card.name, card.base_url, card.timeouts.gap, card.timeouts.total) == ("lab", lab.base_url, 5.0, 600.0)
    assert card.credentials[0].secret.reveal() == "sk-lab-0123456789"
    assert "0123456789" not in repr(current())


def test_routes_come_in_their_order_and_name_the_model(lab: Provider, reader: Reader) -> None:
    echo = Provider.objects.create(name="echo", dialect="echo")
    alias("fast", (lab, "gpt-4o"), (echo, ""))
    reader.refresh()
    assert resolved("fast") == [("lab", "gpt-4o", "sk-lab-0123456789"), ("echo", "", "")]


def test_r49_each_change_is_seen_by_the_next_look(lab: Provider, reader: Reader) -> None:
    row = alias("fast", (lab, "a"))
    reader.refresh()
    assert [model for _, model, _ in resolved("fast")] == ["a"]
    Route.objects.filter(alias=row).update(model="b")
    reader.refresh()
    assert [model for _, model, _ in resolved("fast")] == ["b"]
    row.name = "slow"
    row.save()
    reader.refresh()
    assert (current().match("fast"), current().match("slow") is not None) == (None, True)
    row.delete()
    reader.refresh()
    assert current().match("slow") is None


def test_a_request_keeps_the_catalog_that_it_began_with(lab: Provider, reader: Reader) -> None:
    alias("fast", (lab, "a"))
    reader.refresh()
    held = current()
    ModelAlias.objects.all().delete()
    Provider.objects.filter(pk=lab.pk).update(enabled=False)
    reader.refresh()
    assert held.match("fast") is not None
    assert held.providers[lab.id].enabled
    assert current().match("fast") is None


def test_a_disabled_alias_is_not_there_and_a_disabled_provider_is_no_target(lab: Provider, reader: Reader) -> None:
    alias("fast", (lab, "a"), enabled=False)
    alias("slow", (lab, "a"))
    Provider.objects.update(enabled=False)
    reader.refresh()
    assert current().match("fast") is None
    assert resolved("slow") == []


def test_a_look_without_news_is_one_query_and_moves_the_time(
    reader: Reader, clock: Clock, django_assert_num_queries: DjangoAssertNumQueries
) -> None:
    clock.move(1)
    with django_assert_num_queries(1):
        assert reader.refresh()
    assert current().loaded_at == clock.wall_time


def test_a_look_reads_only_what_changed(
    lab: Provider, reader: Reader, django_assert_num_queries: DjangoAssertNumQueries
) -> None:
    alias("fast", (lab, "a"))
    with django_assert_num_queries(3):  # the changes, the alias, its routes
        reader.refresh()


def test_what_passed_by_the_orm_is_found_after_a_minute(lab: Provider, reader: Reader, clock: Clock) -> None:
    with connection.cursor() as cursor:
        cursor.execute("UPDATE providers_provider SET name = 'other'")
    clock.move(59)
    reader.refresh()
    assert current().providers[lab.id].name == "lab"
    clock.move(1)
    reader.refresh()
    assert current().providers[lab.id].name == "other"


def test_a_frozen_process_loads_everything_by_wall_time(lab: Provider, reader: Reader, clock: Clock) -> None:
    with connection.cursor() as cursor:
        cursor.execute("DELETE FROM providers_credential")
    clock.wall_time += 3600
    reader.refresh()
    assert current().providers[lab.id].credentials == ()


def test_more_changes_than_can_be_named_are_read_too(reader: Reader) -> None:
    ModelAlias.objects.bulk_create(ModelAlias(name=f"alias-{number}") for number in range(501))
    reader.refresh()
    assert len(current().exact) == 501


def test_r48_a_credential_that_does_not_open_takes_only_its_provider_down(
    lab: Provider, reader: Reader, caplog: pytest.LogCaptureFixture
) -> None:
    for number in range(49):
        provider = Provider.objects.create(name=f"p{number}", base_url="https://api.example.com/v1")
        credential = Credential(provider=provider)
        credential.seal(f"sk-{number}-0123456789")
        credential.save()
    alias("fast", (lab, "a"), (provider, "b"))
    # A new address makes the stored token useless: it is never sent there.
    Provider.objects.filter(pk=lab.pk).update(base_url="https://evil.example.com/v1")
    with caplog.at_level(logging.ERROR):
        reader.refresh()
    assert sum(card.enabled for card in current().providers.values()) == 49
    assert resolved("fast") == [("p48", "b", "sk-48-0123456789")]
    assert "left out: credential lab/main: does not decrypt" in caplog.text
    assert "sk-" not in caplog.text


def test_a_reference_that_leads_nowhere_leaves_only_that_credential_out(
    reader: Reader, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("LAB_KEY", "sk-from-env")
    provider = Provider.objects.create(name="lab", base_url="https://lab.example.com/v1")
    Credential.objects.create(provider=provider, name="gone", reference="env:NOT_THERE")
    Credential.objects.create(provider=provider, name="here", reference="env:LAB_KEY")
    alias("fast", (provider, "a"))
    with caplog.at_level(logging.ERROR):
        reader.refresh()
    assert resolved("fast") == [("lab", "a", "sk-from-env")]
    assert "left out: credential lab/gone: the environment variable NOT_THERE is not set" in caplog.text


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"quirks": {"drops": []}}, "left out: provider lab: quirks.drops is unknown"),
        ({"timeouts": ["x"]}, "left out: provider lab: timeouts must be an object"),
        ({"options": "x"}, "left out: provider lab: options must be an object"),
        ({"dialect": "klingon"}, "left out: provider lab: there is no dialect 'klingon'"),
    ],
)
def test_r48_a_bad_provider_is_left_out_and_named(
    lab: Provider, reader: Reader, caplog: pytest.LogCaptureFixture, fields: dict[str, Any], message: str
) -> None:
    Provider.objects.create(name="good")
    Provider.objects.filter(name="lab").update(**fields)
    with caplog.at_level(logging.ERROR):
        reader.refresh()
    assert [card.name for card in current().providers.values()] == ["good"]
    assert message in caplog.text


def test_r48_a_bad_alias_and_a_bad_key_are_left_out_and_named(reader: Reader, caplog: pytest.LogCaptureFixture) -> None:
    alias("good")
    alias("bad", strategy="magic")
    row = ClientKey.objects.adopt("My API Key", name="app")
    ClientKey.objects.update(aliases={"not": "a list"})
    with caplog.at_level(logging.ERROR):
        reader.refresh()
    assert [card.name for card in current().aliases()] == ["good"]
    assert "left out: alias bad: there is no strategy 'magic'" in caplog.text
    assert f"left out: client key {row.id}: aliases must be a list of names" in caplog.text
    assert keyring.find("My API Key") is keyring.UNKNOWN


def test_the_last_good_catalog_stays_while_the_database_does_not_answer(
    lab: Provider, reader: Reader, clock: Clock, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    good = current()

    def down(*args: object) -> None:
        raise DatabaseError("the server is gone")

    alias("fast", (lab, "a"))
    with monkeypatch.context() as patch, caplog.at_level(logging.WARNING):
        patch.setattr(catalog, "read_aliases", down)
        assert [reader.refresh() for _ in range(3)] == [False, False, False]
    assert current() is good
    assert caplog.text.count("the configuration cannot be read, the last one stays") == 1
    # The change that was seen while reading failed is not lost.
    assert reader.refresh()
    assert current().match("fast") is not None
    assert "the configuration can be read again" in caplog.text


def overlay_of(provider: ProviderCard, *aliases: AliasCard, client_keys: tuple[KeyCard, ...] = ()) -> Overlay:
    return Overlay((provider,), aliases, client_keys)


def test_what_the_environment_declares_lies_beside_the_rows(
    lab: Provider, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    pepper_id, pepper = peppers.primary()
    declared = overlay_of(
        ProviderCard("o1", "env", "echo"),
        AliasCard("o2", "fast", (RouteCard("o1", "from-env"),)),
        AliasCard("o3", "*", (RouteCard("o1"),)),
        client_keys=(KeyCard("o4", "proxy", pepper_id, keys.digest(pepper, "My API Key")),),
    )
    monkeypatch.setattr(overlay, "load", lambda: declared)
    Reader(wall=clock.wall, monotonic=clock.monotonic).load()
    assert resolved("fast") == [("env", "from-env", "")]
    assert resolved("anything/else") == [("env", "anything/else", "")]
    assert keyring.find("My API Key") == declared.keys[0]
    alias("fast", (lab, "from-row"))
    Reader(wall=clock.wall, monotonic=clock.monotonic).load()
    assert [model for _, model, _ in resolved("fast")] == ["from-row"]


def test_without_a_database_what_the_environment_declares_serves(
    clock: Clock, monkeypatch: pytest.MonkeyPatch, django_assert_num_queries: DjangoAssertNumQueries
) -> None:
    declared = overlay_of(ProviderCard("o1", "env", "echo"), AliasCard("o3", "*", (RouteCard("o1"),)))
    monkeypatch.setattr(overlay, "load", lambda: declared)
    reader = Reader(database=False, wall=clock.wall, monotonic=clock.monotonic)
    with django_assert_num_queries(0):
        assert reader.load()
        assert reader.refresh()
    assert resolved("") == [("env", "", "")]


def test_a_database_that_is_down_at_the_start_leaves_what_the_environment_declares(
    clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    def down(*args: object) -> None:
        raise DatabaseError("no such server")

    declared = overlay_of(ProviderCard("o1", "env", "echo"), AliasCard("o3", "*", (RouteCard("o1"),)))
    monkeypatch.setattr(overlay, "load", lambda: declared)
    monkeypatch.setattr(catalog, "read_providers", down)
    assert not Reader(wall=clock.wall, monotonic=clock.monotonic).load()
    assert resolved("m") == [("env", "m", "")]
    assert current().loaded_at == 0.0


def test_a_configuration_that_turned_bad_leaves_the_last_good_one(
    reader: Reader, clock: Clock, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    declared = overlay_of(ProviderCard("o1", "env", "echo"), AliasCard("o3", "*", (RouteCard("o1"),)))
    monkeypatch.setattr(overlay, "load", lambda: declared)
    reader.load()

    def bad() -> Overlay:
        raise ValueError("providers.lab: is not an object")

    monkeypatch.setattr(overlay, "load", bad)
    with caplog.at_level(logging.ERROR):
        assert reader.load()
    assert resolved("m") == [("env", "m", "")]
    assert "providers.lab: is not an object" in caplog.text


def test_the_parts_of_the_environment_that_cannot_be_used_are_named(
    clock: Clock, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    problems = (
        overlay.Problem("keys.app", "is shorter than 20 characters", weak=True),
        overlay.Problem("a.b", "is lost"),
    )
    monkeypatch.setattr(overlay, "load", lambda: Overlay(problems=problems))
    with caplog.at_level(logging.WARNING):
        Reader(wall=clock.wall, monotonic=clock.monotonic).load()
    assert [(record.levelname, record.getMessage()) for record in caplog.records] == [
        ("WARNING", "keys.app is shorter than 20 characters"),
        ("ERROR", "a.b is lost"),
    ]
