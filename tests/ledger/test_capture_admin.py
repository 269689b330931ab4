"""Captured payloads in the admin: who may open them, and that it is on record."""

from datetime import timedelta
from typing import Any

import pytest
from django.contrib.auth.models import Permission, User
from django.test import Client, override_settings
from django.urls import reverse
from django.utils import timezone

from ledger import capture
from ledger.models import CapturedPayload, PayloadView

SECRET = "<b>what was asked</b>"

pytestmark = pytest.mark.django_db


@pytest.fixture
def row() -> CapturedPayload:
    now = timezone.now()
    row = CapturedPayload(id="req_1", at=now, expires_at=now + timedelta(days=7), key_name="app")
    row.request, row.response = capture._seal(row, SECRET), capture._seal(row, "what was answered")
    row.save()
    return row


def signed_in(*permissions: str, superuser: bool = False) -> Client:
    user = User.objects.create_user("anna", password="x", is_staff=True, is_superuser=superuser)
    user.user_permissions.set(Permission.objects.filter(codename__in=permissions))
    client = Client()
    client.force_login(user)
    return client


LIST = "/admin/ledger/capturedpayload/"


def page(row: CapturedPayload) -> str:
    return reverse("admin:ledger_capturedpayload_change", args=[row.id])


def test_opening_a_payload_is_on_record_before_it_is_shown(row: CapturedPayload) -> None:
    client = signed_in("view_capturedpayload", "open_capturedpayload")
    assert SECRET not in client.get(LIST).content.decode()
    assert not PayloadView.objects.exists()
    shown = client.get(page(row), REMOTE_ADDR="192.0.2.7").content.decode()
    assert "&lt;b&gt;what was asked&lt;/b&gt;" in shown
    assert SECRET not in shown
    assert "what was answered" in shown
    assert 'href="/static/providers/admin.css"' in shown  # where long lines are broken
    view = PayloadView.objects.get()
    assert (view.payload_id, view.viewer, view.address) == ("req_1", "anna", "192.0.2.7")


def test_nothing_is_shown_where_the_look_cannot_be_recorded(
    row: CapturedPayload, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refused(*args: Any, **options: Any) -> None:
        raise OSError

    monkeypatch.setattr(PayloadView.objects, "create", refused)
    client = signed_in("view_capturedpayload", "open_capturedpayload")
    with pytest.raises(OSError):
        client.get(page(row))


def test_who_may_see_the_list_may_not_open_what_is_in_it(row: CapturedPayload) -> None:
    client = signed_in("view_capturedpayload")
    assert client.get(LIST).status_code == 200
    shown = client.get(page(row)).content.decode()
    assert "what was" not in shown
    assert "you may not open it" in shown
    assert not PayloadView.objects.exists()


def test_nobody_can_change_or_add_one_nor_take_a_look_off_the_record(row: CapturedPayload) -> None:
    client = signed_in(superuser=True)
    assert client.get(f"{LIST}add/").status_code == 403
    assert client.post(page(row), {"key_name": "other"}).status_code == 403
    view = PayloadView.objects.first()
    assert view is not None or client.get(page(row)).status_code == 200
    view = PayloadView.objects.get()
    place = f"/admin/ledger/payloadview/{view.id}"
    assert client.get("/admin/ledger/payloadview/").status_code == 200
    assert client.post(f"{place}/delete/", {"post": "yes"}).status_code == 403
    assert client.post(f"{place}/change/", {"viewer": "nobody"}).status_code == 403


def test_the_page_that_asks_before_deleting_shows_nothing(row: CapturedPayload) -> None:
    client = signed_in(superuser=True)
    assert "what was" not in client.get(f"{LIST}{row.id}/delete/").content.decode()
    client.post(f"{LIST}{row.id}/delete/", {"post": "yes"})
    assert not CapturedPayload.objects.exists()


@override_settings(GATEWAY_CAPTURE=False)
def test_turned_off_nothing_can_be_opened(row: CapturedPayload) -> None:
    client = signed_in("view_capturedpayload", "open_capturedpayload")
    assert client.get(LIST).status_code == 403
    assert client.get(page(row)).status_code == 403
