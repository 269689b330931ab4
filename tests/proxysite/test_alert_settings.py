"""Settings of alerts that nobody could be alerted by are refused before the first request."""

import pytest
from django.core.checks import run_checks
from pytest_django import Settings

from proxysite import start


@pytest.mark.parametrize("value", ["abc", "5.00", "5.00/10s", "0/10m", "5/0m", "-1/10m"])
def test_a_velocity_that_cannot_be_read_stops_the_start_and_the_check(value: str, settings: Settings) -> None:
    settings.GATEWAY_ALERT_VELOCITY = value
    settings.DEBUG = False
    assert "GATEWAY_ALERT_VELOCITY" in [problem.name for problem in start.problems()]
    [error] = [found for found in run_checks(tags=["security"]) if found.id == "proxysite.E003"]
    assert error.msg.startswith(f"GATEWAY_ALERT_VELOCITY is not usable: '{value}' is no spending in a time")


@pytest.mark.parametrize("value", ["", "5.00/10m", "20/1h"])
def test_one_that_can_be_read_does_not(value: str, settings: Settings) -> None:
    settings.GATEWAY_ALERT_VELOCITY = value
    settings.DEBUG = False
    assert "GATEWAY_ALERT_VELOCITY" not in [problem.name for problem in start.problems()]
    assert "proxysite.E003" not in [found.id for found in run_checks(tags=["security"])]
