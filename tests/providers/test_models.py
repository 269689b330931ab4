from io import StringIO

import pytest
from django.core.exceptions import ValidationError
from django.core.management import call_command
from django.db import IntegrityError, connection, transaction

from providers import addresses, keys, managers, references, vault
from providers.managers import KeyRefused
from providers.models import ClientKey, Credential, ModelAlias, Provider

pytestmark = pytest.mark.django_db


@pytest.fixture
def lab() -> Provider:
    return Provider.objects.create(name="lab", base_url="https://lab.example.com/v1")


def sealed(provider: Provider, secret: str = "sk-canary-0123456789") -> Credential:
    row = Credential(provider=provider)
    row.seal(secret)
    row.save()
    return Credential.objects.get(pk=row.pk)


def test_a_credential_is_stored_sealed_and_opens(lab: Provider) -> None:
    row = sealed(lab)
    assert row.unseal().reveal() == "sk-canary-0123456789"
    assert (row.hint, row.reference) == ("6789", "")
    with connection.cursor() as cursor:
        cursor.execute("SELECT * FROM providers_credential")
        assert "canary" not in str(cursor.fetchall())


def test_a_short_token_has_no_hint(lab: Provider) -> None:
    assert sealed(lab, "sk-0123456789ab").hint == ""


@pytest.mark.parametrize(
    "base_url",
    ["https://evil.example.com/v1", "http://lab.example.com/v1", "https://lab.example.com:8443/v1", ""],
)
def test_s06_another_origin_makes_the_credential_useless(lab: Provider, base_url: str) -> None:
    row = sealed(lab)
    Provider.objects.update(base_url=base_url)
    with pytest.raises(vault.DoesNotDecrypt):
        Credential.objects.get(pk=row.pk).unseal()


def test_another_path_of_the_same_origin_changes_nothing(lab: Provider) -> None:
    row = sealed(lab)
    Provider.objects.update(base_url="https://LAB.example.com:443/v2")
    assert Credential.objects.get(pk=row.pk).unseal().reveal() == "sk-canary-0123456789"


def test_a_ciphertext_in_another_row_is_useless(lab: Provider) -> None:
    row = sealed(lab)
    other = Credential.objects.create(provider=lab, name="other", sealed=row.sealed)
    with pytest.raises(vault.DoesNotDecrypt):
        other.unseal()


def test_a_credential_of_an_unreadable_address_cannot_be_sealed(lab: Provider) -> None:
    lab.base_url = "lab.example.com"
    with pytest.raises(addresses.AddressError):
        Credential(provider=lab).seal("sk-1")


def test_a_reference_is_read_and_never_stored(lab: Provider, monkeypatch: pytest.MonkeyPatch) -> None:
    row = Credential.objects.create(provider=lab, reference="env:LAB_KEY")
    with pytest.raises(references.BadReference):
        row.unseal()
    monkeypatch.setenv("LAB_KEY", "sk-1")
    assert row.unseal().reveal() == "sk-1"
    assert row.sealed == ""


def test_s14_plaintext_cannot_reach_the_column_in_any_way(lab: Provider) -> None:
    row = sealed(lab)
    row.sealed = "sk-canary"
    with pytest.raises(ValidationError, match="sealed holds sealed values only"):
        row.save()
    with pytest.raises(ValidationError, match="sealed holds sealed values only"):
        Credential.objects.update(sealed="sk-canary")
    with pytest.raises(ValidationError, match="sealed holds sealed values only"):
        Credential.objects.bulk_create([Credential(provider=lab, name="b", sealed="sk-canary")])
    with pytest.raises(ValidationError, match="sealed holds sealed values only"):
        row._meta.get_field("sealed").value_to_string(row)


def test_s14_a_dump_carries_ciphertext_only(lab: Provider) -> None:
    row = sealed(lab)
    _, token = ClientKey.objects.mint("web")
    dumped = StringIO()
    call_command("dumpdata", "providers", stdout=dumped)
    assert row.sealed in dumped.getvalue()
    assert "canary" not in dumped.getvalue()
    assert token[17:] not in dumped.getvalue()


@pytest.mark.parametrize(
    ("row", "field"),
    [
        (Provider(name="a", dialect="echo", quirks={"drops": []}), "quirks"),
        (Provider(name="a", dialect="echo", timeouts={"gap": -1}), "timeouts"),
        (Provider(name="a", dialect="echo", options=[]), "options"),
        (ModelAlias(name="a*b"), "name"),
        (ClientKey(name="web", aliases=["a*b"]), "aliases"),
        (ClientKey(name="web", aliases="*"), "aliases"),
    ],
)
def test_r48_a_bad_row_is_refused_at_its_field(row: Provider | ModelAlias | ClientKey, field: str) -> None:
    with pytest.raises(ValidationError) as caught:
        row.full_clean()
    assert list(caught.value.message_dict) == [field]


def test_a_bad_reference_is_refused_at_its_field(lab: Provider) -> None:
    with pytest.raises(ValidationError) as caught:
        Credential(provider=lab, reference="sk-live-1").full_clean()
    assert caught.value.message_dict == {"reference": ["a reference is of the form env:NAME or ssm:NAME"]}


def test_a_minted_key_is_found_by_its_id_and_is_not_kept() -> None:
    row, token = ClientKey.objects.mint("web")
    assert keys.parse(token) == keys.Parsed("sk", row.id)
    assert ClientKey.objects.by_id(row.id) == row == ClientKey.objects.with_token(token)
    assert (row.last_four, row.aliases, row.foreign) == (token[-4:], ["*"], False)
    assert token[17:60] not in str(ClientKey.objects.values())
    assert ClientKey.objects.by_id("0000000000") is None


def test_a_key_from_elsewhere_is_adopted_once() -> None:
    row = ClientKey.objects.adopt("My API Key", name="app", aliases=["fast"])
    assert (row.foreign, row.last_four, row.aliases) == (True, "", ["fast"])
    with pytest.raises(KeyRefused, match=rf"that key is known already, as 'app' \({row.id}\)"):
        ClientKey.objects.adopt("My API Key", name="again")


def test_two_rows_never_share_a_digest() -> None:
    row, _ = ClientKey.objects.mint("web")
    row.id = "another"
    with pytest.raises(IntegrityError), transaction.atomic():
        row.save(force_insert=True)


@pytest.mark.parametrize(
    "token", ["", " a", "sk-gw-abc", pytest.param(keys.mint().token, id="our own"), "clé", "x" * 2049]
)
def test_what_is_no_key_from_elsewhere_is_not_adopted(token: str) -> None:
    with pytest.raises(KeyRefused, match="a key from elsewhere has 1 to 2048 printable ASCII characters"):
        ClientKey.objects.adopt(token, name="app")


def test_keys_from_elsewhere_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(managers, "MAX_FOREIGN", 1)
    ClientKey.objects.adopt("My API Key", name="app")
    with pytest.raises(KeyRefused, match="there are 1 keys from elsewhere already"):
        ClientKey.objects.adopt("My other key", name="app")


def test_a_key_without_aliases_may_use_nothing_and_a_new_one_everything() -> None:
    assert ClientKey(name="web").aliases == ["*"]
    row, _ = ClientKey.objects.mint("web", aliases=[])
    assert row.aliases == []
