import secrets

import pytest
from django.core import checks
from django.db import connection
from pytest_django import DjangoAssertNumQueries, Settings

from providers.checks import check_adapters
from providers.models import ClientKey, Credential, ModelAlias, Provider, Route


def found() -> list[tuple[str, str]]:
    """(id, message) of what this room has to say."""
    messages = checks.run_checks(tags=["security", "database"], databases=["default"])
    return [(str(message.id), message.msg) for message in messages if str(message.id).startswith("gateway.")]


def sealed(name: str) -> Credential:
    provider = Provider.objects.create(name=name, base_url=f"https://{name}.example.com/v1")
    row = Credential(provider=provider)
    row.seal("sk-canary-0123456789")
    row.save()
    return row


@pytest.mark.django_db
def test_a_good_configuration_has_nothing_to_say() -> None:
    sealed("lab")
    ClientKey.objects.mint("web")
    assert found() == []


@pytest.mark.django_db
def test_s48_an_encryption_key_that_is_gone_is_named_with_its_credentials(settings: Settings) -> None:
    key_id = next(iter(settings.GATEWAY_ENCRYPTION_KEYS))
    for number in range(7):
        sealed(f"p{number}")
    settings.GATEWAY_ENCRYPTION_KEYS = {"new": secrets.token_bytes(32)}
    message = (
        "Credentials p0/main, p1/main, p2/main, p3/main, p4/main and 2 more are sealed with the encryption key "
        f"{key_id!r}, which is not in GATEWAY_ENCRYPTION_KEYS."
    )
    assert found() == [("gateway.E002", message)]


@pytest.mark.django_db
def test_s48_a_wrong_encryption_key_under_the_right_id_is_an_error(settings: Settings) -> None:
    key_id = next(iter(settings.GATEWAY_ENCRYPTION_KEYS))
    sealed("lab")
    sealed("other")
    settings.GATEWAY_ENCRYPTION_KEYS = {key_id: secrets.token_bytes(32)}
    message = (
        f"Nothing opens with the encryption key {key_id!r} of GATEWAY_ENCRYPTION_KEYS: Credentials lab/main, "
        "other/main are sealed with another."
    )
    assert found() == [("gateway.E003", message)]


@pytest.mark.django_db
@pytest.mark.parametrize("others", [0, 1])
def test_s48_one_credential_that_does_not_open_is_a_warning(others: int) -> None:
    for number in range(others):
        sealed(f"good-{number}")
    sealed("moved")
    Provider.objects.filter(name="moved").update(base_url="https://elsewhere.example.com/v1")
    message = "Credential moved/main is damaged, or sealed with another key or for another address of the provider."
    assert found() == [("gateway.W001", message)]


@pytest.mark.django_db
def test_a_pepper_that_is_gone_is_an_error_while_keys_in_use_need_it(settings: Settings) -> None:
    row, _ = ClientKey.objects.mint("web")
    settings.GATEWAY_KEY_PEPPERS = {"new": secrets.token_bytes(32)}
    message = f"There are client keys under the pepper {row.pepper_id!r}, which is not in GATEWAY_KEY_PEPPERS."
    assert found() == [("gateway.E004", message)]
    ClientKey.objects.update(enabled=False)
    assert found() == []


@pytest.mark.django_db
def test_no_check_looks_at_the_database_unless_it_is_asked_to(
    django_assert_num_queries: DjangoAssertNumQueries,
) -> None:
    with django_assert_num_queries(0):
        checks.run_checks(databases=[])


@pytest.mark.postgres
@pytest.mark.parametrize("break_it", ["DROP TABLE {} CASCADE", "ALTER TABLE {} RENAME enabled TO active"])
def test_a_database_that_is_not_migrated_yet_does_not_stop_migrate(postgres: None, break_it: str) -> None:
    with connection.cursor() as cursor:
        for table in (Credential._meta.db_table, ClientKey._meta.db_table):
            cursor.execute(break_it.format(table))
    assert found() == []


@pytest.mark.django_db
def test_an_alias_with_adapters_that_no_provider_of_it_takes_is_named() -> None:
    provider = Provider.objects.create(name="p", base_url="https://x.example.com/v1")
    alias = ModelAlias.objects.create(name="fast", adapters=["tickets/*"])
    Route.objects.create(alias=alias, provider=provider)
    [message] = check_adapters(["default"])
    assert (message.id, "The alias fast " in message.msg) == ("gateway.W004", True)
    Provider.objects.update(quirks={"adapter": "{adapter}"})
    assert check_adapters(["default"]) == []
    assert check_adapters(None) == []
