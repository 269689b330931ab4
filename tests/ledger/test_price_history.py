"""Who changed a price: what every call of a month has cost hangs on it."""

from decimal import Decimal

import pytest
from django.contrib.auth.models import User
from django.test import Client
from django.urls import reverse

from ledger.models import PriceRow

pytestmark = pytest.mark.django_db


def test_a_change_of_a_price_names_who_made_it(client: Client) -> None:
    client.force_login(User.objects.create_superuser("root"))
    form = {"model": "gpt-4o", "provider": "", "alias": "", "starts_at_0": "2026-01-01", "starts_at_1": "00:00"}
    assert client.post(reverse("admin:ledger_pricerow_add"), form | {"input": "2.5"}).status_code == 302
    row = PriceRow.objects.get()
    change = reverse("admin:ledger_pricerow_change", args=[row.pk])
    assert client.post(change, form | {"input": "3"}).status_code == 302
    records = PriceRow.history.order_by("history_id")
    assert [(record.history_type, record.actor, record.input) for record in records] == [
        ("+", "root", Decimal("2.5")),
        ("~", "root", Decimal(3)),
    ]
    shown = client.get(reverse("admin:ledger_pricerow_history", args=[row.pk])).content.decode()
    assert "Input, per million:</strong>" in shown
    record = client.get(reverse("admin:ledger_historicalpricerow_change", args=[records[1].pk])).content.decode()
    assert "<div>input: 2.50000000 → 3.00000000</div>" in record
    old = reverse("admin:ledger_pricerow_simple_history", args=[row.pk, records[0].pk])
    assert client.post(old, form | {"input": "0"}).status_code == 405
    assert PriceRow.objects.get().input == Decimal(3)
