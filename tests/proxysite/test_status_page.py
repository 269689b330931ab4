"""/status and *Providers now*: which targets are out of order or slow, for whom it is meant and for nobody else."""

import asyncio
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import httpx
import pytest
from django.contrib.auth.models import Permission, User
from django.test import Client
from django.urls import reverse

from gateway.engine import engine
from gateway.errors import UpstreamRefused, UpstreamUnreachable
from gateway.limits.limiter import Limiter
from gateway.process import Process
from gateway.routing.breakers import Breakers
from ledger.loglines import LogLines
from providers.secret import Secret
from providers.targets import CredentialCard, ProviderCard, Target
from proxysite.statuspage import StatusPage
from tests.proxysite.wire import serving

CANARY = "provider-token-canary-51ee"


def target(name: str, model: str = "m") -> Target:
    card = CredentialCard(f"c-{name}", "main", Secret(CANARY))
    return Target(ProviderCard(f"p-{name}", name, "openai", credentials=(card,)), model, card)


async def nothing(job: Any, *arguments: Any) -> Any:
    raise AssertionError("the database was asked")


@pytest.fixture
def process() -> Process:
    """One that has seen a dead provider, a slow one, two usual ones and one that refuses its token."""
    now = [1000.0]
    made = Process(None, LogLines(), lambda: now[0], Limiter(lambda: now[0], nothing))  # type: ignore[arg-type]
    breakers: Breakers = made.breakers
    for name, seconds in (("usual", 0.1), ("other", 0.12), ("slow", 0.9)):
        for _ in range(40):
            breakers.answered(target(name), seconds)
    for _ in range(5):
        breakers.failed(target("dead"), UpstreamUnreachable("no", sent=False), 0.1)
    breakers.failed(target("refusing"), UpstreamRefused("no", status=502, upstream_status=401), 0.1)
    now[0] += 2
    return made


@pytest.fixture
def running(process: Process) -> Iterator[Process]:
    engine.process = process
    yield process
    engine.process = None


async def found(process: Process) -> dict[str, Any]:
    page = StatusPage(SimpleNamespace(process=process), "status-token", [])
    async with serving(page) as (port, _), httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}") as http:
        answer = await http.get("/status", headers={"authorization": "Bearer status-token"})
        assert (answer.status_code, answer.headers["cache-control"]) == (200, "no-store")
        assert CANARY not in answer.text
        assert (await http.get("/status", headers={"authorization": "Bearer other"})).status_code == 404
        assert (await http.get("/status")).json()["error"]["code"] == "unknown_url"
        told: dict[str, Any] = answer.json()
        return told


async def test_it_tells_what_is_out_of_order_and_what_is_slow(process: Process) -> None:
    told = await found(process)
    assert (told["object"], told["limits_counted_in"], told["open_requests"]) == ("gateway.status", "memory", 0)
    assert told["questions_compared_by"] == "gateway"
    by_name = {one["provider"]: one for one in told["targets"]}
    assert {one["provider"] for one in told["targets"][:2]} == {"dead", "refusing"}
    dead = by_name["dead"]["breaker"]
    assert (dead["state"], dead["because"], dead["for_seconds"]) == ("open", "upstream_unreachable", 2.0)
    assert dead["trial_in_seconds"] == 5.5
    assert (by_name["refusing"]["model"], by_name["refusing"]["breaker"]["status"]) == ("every model", 401)
    assert by_name["usual"]["first_byte_ms"] == {"p50": 100, "p95": 100, "of": 40}
    assert (by_name["usual"]["answers_30_s"], by_name["usual"]["failures_30_s"]) == (40, 0)
    assert (by_name["dead"]["answers_30_s"], by_name["dead"]["failures_30_s"]) == (5, 5)
    assert {name for name, one in by_name.items() if one["slow"]} == {"slow"}


async def test_what_was_more_than_thirty_seconds_ago_is_not_counted(process: Process) -> None:
    watch = next(watch for watch in process.breakers.watches() if watch.target.provider.name == "usual")
    assert [watch.recent(1000.0 + later) for later in (0, 20, 29, 31, 300)] == [(40, 0)] * 3 + [(0, 0)] * 2


async def test_no_more_than_two_hundred_targets_are_told(process: Process) -> None:
    for number in range(300):
        process.breakers.answered(target("many", f"m{number}"), 0.1)
    assert len((await found(process))["targets"]) == 200


def test_a_process_that_has_not_begun_says_so() -> None:
    body = asyncio.run(StatusPage(SimpleNamespace(process=None), "t", []).body())
    assert body == b'{"object":"gateway.status","process":null,"targets":[]}'


def test_the_site_has_no_such_page_by_default() -> None:
    from proxysite.asgi import application

    assert application.status is None


@pytest.mark.django_db
def test_operators_see_it_as_a_page(running: Process) -> None:
    client = Client()
    client.force_login(User.objects.create_superuser("root"))
    page = client.get(reverse("status"))
    text = page.content.decode()
    assert page.status_code == 200
    assert "no-store" in page.headers["cache-control"]
    assert "<strong>out of order</strong> for 2.0 s: upstream_unreachable; tried in 5.5 s" in text
    assert "<strong>slow</strong>" in text
    assert "questions of semantic caches compared by gateway" in text
    assert CANARY not in text
    link = f'<a href="{reverse("status")}">Providers now</a>'
    assert client.get(reverse("admin:index")).content.decode().count(link) == 1
    assert client.post(reverse("status")).status_code == 405


@pytest.mark.django_db
def test_s18_the_page_is_closed_to_strangers_and_to_staff_who_may_not_see_providers(running: Process) -> None:
    client = Client()
    assert client.get(reverse("status")).headers["location"].startswith("/admin/login/")
    staff = User.objects.create_user("staff", is_staff=True)
    client.force_login(staff)
    assert client.get(reverse("status")).status_code == 403
    assert "Providers now" not in client.get(reverse("admin:index")).content.decode()
    staff.user_permissions.add(Permission.objects.get(codename="view_provider"))
    assert client.get(reverse("status")).status_code == 200
