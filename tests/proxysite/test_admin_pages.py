"""The first page of the admin, and the list at the side of every other."""

import pytest
from django.test import Client

pytestmark = pytest.mark.django_db


def test_what_an_operator_sets_up_first_stands_first(admin_client: Client) -> None:
    apps = admin_client.get("/admin/").context["app_list"]
    found = [(app["name"], [model["object_name"] for model in app["models"]]) for app in apps]
    assert found == [
        ("Providers, models and keys", ["Provider", "ModelAlias", "ClientKey", "Team", "EndUser", "Issuer"]),
        (
            "Usage and money",
            ["UsageRecord", "DailyRollup", "BudgetAccount", "PriceRow", "Alert", "CapturedPayload", "PayloadView"],
        ),
        ("Authentication and Authorization", ["Group", "User"]),
    ]


def test_one_app_alone_has_the_same_order(admin_client: Client) -> None:
    (app,) = admin_client.get("/admin/providers/").context["app_list"]
    assert [model["object_name"] for model in app["models"]][:3] == ["Provider", "ModelAlias", "ClientKey"]
