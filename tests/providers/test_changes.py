from io import StringIO
from pathlib import Path

import pytest
from django.core.management import call_command
from django.db import transaction

from providers.changes import NAMED_LIMIT, Change
from providers.models import ClientKey, Credential, ModelAlias, Provider, Route


class Written:
    """Gives the changes since the last call, in order and each once."""

    def __init__(self) -> None:
        self.last = 0

    def __call__(self) -> list[tuple[str, str]]:
        rows = list(Change.objects.filter(id__gt=self.last).order_by("id").values_list("id", "kind", "object_id"))
        self.last = max((number for number, _, _ in rows), default=self.last)
        return list(dict.fromkeys((kind, object_id) for _, kind, object_id in rows))


@pytest.fixture
def written(db: None) -> Written:
    return Written()


@pytest.fixture
def lab(written: Written) -> Provider:
    provider = Provider.objects.create(name="lab", base_url="http://127.0.0.1:9000/v1")
    assert written() == [("provider", provider.id)]
    return provider


@pytest.fixture
def fast(lab: Provider, written: Written) -> ModelAlias:
    alias = ModelAlias.objects.create(name="fast")
    Route.objects.create(alias=alias, provider=lab, model="gpt-4o")
    assert written() == [("modelalias", alias.id)]
    return alias


def test_a_saved_row_names_itself(lab: Provider, written: Written) -> None:
    lab.enabled = False
    lab.save(update_fields=["enabled"])
    assert written() == [("provider", lab.id)]


def test_a_deleted_row_names_itself(lab: Provider, written: Written) -> None:
    provider_id = lab.id
    lab.delete()
    assert written() == [("provider", provider_id)]


def test_a_credential_names_its_provider(lab: Provider, written: Written) -> None:
    row = Credential.objects.create(provider=lab, reference="env:LAB_KEY")
    assert written() == [("provider", lab.id)]
    row.delete()
    assert written() == [("provider", lab.id)]


def test_a_route_that_moves_names_both_aliases(fast: ModelAlias, written: Written) -> None:
    slow = ModelAlias.objects.create(name="slow")
    written()
    route = fast.routes.get()
    route.alias = slow
    route.save()
    assert set(written()) == {("modelalias", fast.id), ("modelalias", slow.id)}
    Route.objects.filter(pk=route.pk).update(alias=fast)
    assert set(written()) == {("modelalias", fast.id), ("modelalias", slow.id)}


def test_an_update_names_the_rows_it_touched_and_no_others(lab: Provider, written: Written) -> None:
    other = Provider.objects.create(name="other")
    written()
    assert Provider.objects.filter(name="lab").update(enabled=False) == 1
    assert written() == [("provider", lab.id)]
    assert set(Provider.objects.values_list("name", "enabled")) == {("lab", False), (other.name, True)}


def test_an_update_of_nothing_names_nothing(lab: Provider, written: Written) -> None:
    assert Provider.objects.filter(name="nobody").update(enabled=False) == 0
    assert written() == []


def test_the_update_of_a_related_manager_is_seen(fast: ModelAlias, written: Written) -> None:
    fast.routes.update(weight=7)
    assert written() == [("modelalias", fast.id)]
    route = fast.routes.get()
    assert route.weight == 7
    slow = ModelAlias.objects.create(name="slow")
    written()
    slow.routes.add(route)
    assert set(written()) == {("modelalias", fast.id), ("modelalias", slow.id)}


def test_a_bulk_delete_names_its_rows(fast: ModelAlias, written: Written) -> None:
    ModelAlias.objects.filter(name="fast").delete()
    assert written() == [("modelalias", fast.id)]
    assert not Route.objects.exists()


def test_a_bulk_create_and_a_bulk_update_name_their_rows(written: Written) -> None:
    rows = ModelAlias.objects.bulk_create([ModelAlias(name="a"), ModelAlias(name="b")])
    assert set(written()) == {("modelalias", row.id) for row in rows}
    rows[0].enabled = False
    assert ModelAlias.objects.bulk_update(rows[:1], ["enabled"]) == 1
    assert written() == [("modelalias", rows[0].id)]


def test_more_rows_than_can_be_named_are_one_change_of_the_kind(written: Written) -> None:
    many = NAMED_LIMIT + 1
    ModelAlias.objects.bulk_create(ModelAlias(name=f"alias-{number}") for number in range(many))
    assert written() == [("modelalias", "")]
    assert ModelAlias.objects.update(enabled=False) == many
    assert written() == [("modelalias", "")]
    assert ModelAlias.objects.filter(enabled=False).delete()[0] == many
    assert written() == [("modelalias", "")]


def test_get_or_create_and_update_or_create_are_seen(written: Written) -> None:
    alias, _ = ModelAlias.objects.get_or_create(name="fast")
    assert written() == [("modelalias", alias.id)]
    ModelAlias.objects.update_or_create(name="fast", defaults={"enabled": False})
    assert written() == [("modelalias", alias.id)]


def test_a_fixture_that_is_loaded_is_seen(lab: Provider, written: Written, tmp_path: Path) -> None:
    dumped = StringIO()
    call_command("dumpdata", "providers.provider", stdout=dumped)
    (tmp_path / "rows.json").write_text(dumped.getvalue())
    call_command("loaddata", str(tmp_path / "rows.json"), verbosity=0)
    assert written() == [("provider", lab.id)]


def test_a_key_that_is_minted_and_one_that_is_revoked_are_seen(written: Written) -> None:
    row, _ = ClientKey.objects.mint("web")
    assert written() == [("clientkey", row.id)]
    ClientKey.objects.filter(pk=row.pk).update(enabled=False)
    assert written() == [("clientkey", row.id)]


def test_what_is_rolled_back_leaves_no_change(lab: Provider, written: Written) -> None:
    with transaction.atomic():
        lab.save()
        ModelAlias.objects.create(name="fast")
        Provider.objects.update(enabled=False)
        transaction.set_rollback(True)
    assert written() == []
    assert Provider.objects.get().enabled


def test_an_update_that_fails_leaves_no_change(lab: Provider, written: Written) -> None:
    other = Provider.objects.create(name="other")
    written()
    with pytest.raises(Exception, match=r"(?i)unique"), transaction.atomic():
        Provider.objects.filter(pk=other.pk).update(name="lab")
    assert written() == []


@pytest.mark.postgres
def test_on_postgresql_every_kind_of_write_is_seen(postgres: None) -> None:
    written = Written()
    lab = Provider.objects.create(name="lab")
    assert written() == [("provider", lab.id)]
    Provider.objects.filter(name="lab").update(base_url="https://api.example.com/v1")
    assert written() == [("provider", lab.id)]
    fast, slow = ModelAlias.objects.bulk_create([ModelAlias(name="fast"), ModelAlias(name="slow")])
    assert set(written()) == {("modelalias", fast.id), ("modelalias", slow.id)}
    route = Route.objects.create(alias=fast, provider=lab)
    written()
    # The query joins another table, and only the rows of its own are locked.
    Route.objects.filter(alias__name="fast").select_related("alias").update(alias=slow)
    assert set(written()) == {("modelalias", fast.id), ("modelalias", slow.id)}
    with transaction.atomic():
        route.delete()
        transaction.set_rollback(True)
    assert written() == []
    ModelAlias.objects.filter(name="slow").delete()
    assert written() == [("modelalias", slow.id)]
    provider_id = lab.id
    lab.delete()
    assert written() == [("provider", provider_id)]
