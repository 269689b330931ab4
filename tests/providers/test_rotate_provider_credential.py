"""A provider's new token: tried out before it is used, and no step leaves the provider without one."""

import io
import json
from collections.abc import Iterator
from typing import Any

import pytest
from django.core.management import CommandError, call_command

from providers import probing
from providers.catalog import read_providers
from providers.models import Credential, Provider
from providers.probing import ProbeResult
from providers.targets import CredentialCard, ProviderCard

pytestmark = pytest.mark.django_db
OLD, NEW = "sk-old-0123456789-abcd", "sk-new-0123456789-wxyz"


@pytest.fixture
def lab(monkeypatch: pytest.MonkeyPatch) -> Provider:
    provider = Provider.objects.create(name="lab", base_url="https://lab.example.com/v1")
    credential = Credential(provider=provider, name="main")
    credential.seal(OLD)
    credential.save()
    monkeypatch.setenv("LAB_NEW_KEY", NEW)
    return provider


@pytest.fixture(autouse=True)
def asked() -> Iterator[list[str]]:
    """The tokens that the provider was asked with; it takes those that begin with sk-."""
    tokens: list[str] = []

    def prober(card: ProviderCard, credential: CredentialCard | None) -> ProbeResult:
        assert credential is not None
        tokens.append(credential.secret.reveal())
        ok = tokens[-1].startswith("sk-")
        return ProbeResult(ok, 200 if ok else 401, "said the provider", 3)

    kept = list(probing._registered)
    probing.register(prober)
    yield tokens
    probing._registered[:] = kept


def run(*args: str) -> Any:
    out = io.StringIO()
    call_command("rotate_provider_credential", "lab", *args, "--json", stdout=out)
    return json.loads(out.getvalue())


def used(provider: Provider) -> list[str]:
    """The tokens that requests are sent with, in their order."""
    return [card.secret.reveal() for card in read_providers()[provider.id].credentials]


def test_the_new_token_is_tried_then_used_and_the_old_one_is_kept_switched_off(lab: Provider, asked: list[str]) -> None:
    said = run("2027", "--secret-env", "LAB_NEW_KEY")
    assert said == {"provider": "lab", "new": "2027", "old": ["main"], "dry_run": False, "status": 200}
    assert asked == [NEW]
    assert used(lab) == [NEW]
    assert [(row.name, row.enabled, row.hint) for row in lab.credentials.all()] == [
        ("main", False, OLD[-4:]), ("2027", True, NEW[-4:]),
    ]  # fmt: skip
    assert {record.actor for record in Credential.history.filter(name="2027")} == {"command:rotate_provider_credential"}


def test_a_token_that_the_provider_does_not_take_changes_nothing_in_use(
    lab: Provider, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LAB_NEW_KEY", "wrong-0123456789-wxyz")
    with pytest.raises(CommandError, match=r"lab does not take the credential 2027: status 401\. said the provider"):
        run("2027", "--secret-env", "LAB_NEW_KEY")
    assert used(lab) == [OLD]
    monkeypatch.setenv("LAB_NEW_KEY", NEW)
    run("2027", "--secret-env", "LAB_NEW_KEY")
    assert used(lab) == [NEW]


def test_trust_is_for_providers_that_cannot_be_asked(lab: Provider, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LAB_NEW_KEY", "other-0123456789")
    assert run("2027", "--secret-env", "LAB_NEW_KEY", "--trust")["status"] == 401
    assert used(lab) == ["other-0123456789"]


def test_r50_killed_before_the_change_over_a_second_run_goes_on_without_the_token(
    lab: Provider, monkeypatch: pytest.MonkeyPatch
) -> None:
    def killed(card: ProviderCard) -> ProbeResult:
        raise KeyboardInterrupt

    monkeypatch.setattr(probing, "probe", killed)
    with pytest.raises(KeyboardInterrupt):
        run("2027", "--secret-env", "LAB_NEW_KEY")
    monkeypatch.undo()
    assert used(lab) == [OLD]
    assert run("2027")["old"] == ["main"]
    assert used(lab) == [NEW]
    assert run("2027")["old"] == []
    assert used(lab) == [NEW]


def test_a_reference_is_stored_as_a_reference(lab: Provider) -> None:
    run("2027", "--reference", "env:LAB_NEW_KEY")
    row = lab.credentials.get(name="2027")
    assert (row.reference, row.sealed) == ("env:LAB_NEW_KEY", "")
    assert used(lab) == [NEW]


def test_a_dry_run_stores_nothing(lab: Provider, asked: list[str]) -> None:
    said = run("2027", "--secret-env", "LAB_NEW_KEY", "--dry-run")
    assert said == {"provider": "lab", "new": "2027", "old": ["main"], "dry_run": True}
    assert lab.credentials.count() == 1
    assert asked == []


@pytest.mark.parametrize(
    ("args", "said"),
    [
        (["2027"], "lab has no credential 2027: give the new token"),
        (["main", "--secret-env", "LAB_NEW_KEY"], "lab uses a credential main already: give the new one another name"),
        (["2027", "--secret-env", "NOT_SET"], "The environment variable NOT_SET holds no token"),
        (["2027", "--reference", "sk-typed-by-mistake"], "Nothing in use was changed: the credential 2027"),
        (["a b", "--secret-env", "LAB_NEW_KEY"], "Nothing was changed: Enter a valid"),
    ],
)
def test_what_cannot_be_done_is_said_and_changes_nothing(lab: Provider, args: list[str], said: str) -> None:
    with pytest.raises(CommandError) as caught:
        run(*args)
    assert said in str(caught.value)
    assert "sk-typed" not in str(caught.value)
    assert lab.credentials.count() == 1
    assert used(lab) == [OLD]
