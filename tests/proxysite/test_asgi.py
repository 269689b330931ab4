"""The one application: who answers which path, the lifespan, WebSockets, ids; the pages with Django's own handler."""

import asyncio
import json
from typing import Any

import pytest

from proxysite.env import Problem
from proxysite.refusals import ASGIApp, Receive, Scope, Send
from proxysite.switchboard import PAGE_BYTES, Switchboard


class FakeEngine:
    def __init__(self, fails: Exception | None = None) -> None:
        self.ready = False
        self.fails = fails
        self.calls: list[str] = []

    async def start(self) -> None:
        self.calls.append("start")
        if self.fails is not None:
            raise self.fails
        self.ready = True

    async def stop(self) -> None:
        self.calls.append("stop")

    def begin_drain(self) -> None:
        self.calls.append("begin_drain")
        self.ready = False

    async def end_streams(self) -> None:
        self.calls.append("end_streams")


def naming(name: str) -> ASGIApp:
    """An application that answers with its name and the size of the body it was given."""

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        message = await receive()
        body = f"{name} {len(message['body'])}".encode()
        await send({"type": "http.response.start", "status": 200, "headers": [(b"x-app", name.encode())]})
        await send({"type": "http.response.body", "body": body})

    return app


def board(engine: FakeEngine | None = None, problems: tuple[Problem, ...] = ()) -> Switchboard:
    return Switchboard(
        django=naming("django"), gateway=naming("gateway"), engine=engine or FakeEngine(), problems=lambda: problems
    )


async def ask(app: Any, path: str, *, method: str = "GET", parts: tuple[bytes, ...] = (b"",)) -> list[dict[str, Any]]:
    """The messages that the application sends for one request whose body comes in these parts."""
    sent: list[dict[str, Any]] = []
    messages = [
        {"type": "http.request", "body": part, "more_body": at < len(parts)} for at, part in enumerate(parts, 1)
    ]

    async def receive() -> dict[str, Any]:
        if messages:
            return messages.pop(0)
        await asyncio.Event().wait()
        raise AssertionError

    async def send(message: dict[str, Any]) -> None:
        sent.append(message)

    scope = {
        "type": "http",
        "asgi": {"version": "3.0"},
        "http_version": "1.1",
        "method": method,
        "scheme": "http",
        "path": path,
        "raw_path": path.encode(),
        "query_string": b"",
        "root_path": "",
        "headers": [(b"host", b"localhost")],
        "client": ("127.0.0.1", 1),
        "server": ("127.0.0.1", 2),
    }
    await app(scope, receive, send)
    return sent


def headers_of(sent: list[dict[str, Any]]) -> dict[bytes, bytes]:
    return {name.lower(): value for name, value in sent[0]["headers"]}


def body_of(sent: list[dict[str, Any]]) -> bytes:
    return b"".join(message.get("body", b"") for message in sent[1:])


@pytest.mark.parametrize(
    "path", ["/", "/admin", "/admin/", "/admin/auth/user/", "/static/x.css", "/docs", "/docs/x.json"]
)
async def test_djangos_own_prefixes_go_to_django(path: str) -> None:
    sent = await ask(board(), path)
    assert body_of(sent) == b"django 0"
    assert headers_of(sent)[b"x-request-id"].startswith(b"req_")


@pytest.mark.parametrize(
    "path",
    [
        "/v1/models",
        "/adminx",
        "/administrator/",
        "//admin",
        "/v1/../admin",
        "/Admin/",
        "/docsx",
        "/healthz/x",
        "/readyzz",
        "",
    ],
)
async def test_s19_every_other_path_goes_to_the_gateway(path: str) -> None:
    assert body_of(await ask(board(), path)) == b"gateway 0"


async def test_a_page_gets_its_body_whole() -> None:
    assert body_of(await ask(board(), "/admin/", method="POST", parts=(b"abc", b"", b"de"))) == b"django 5"


async def test_r22_a_body_without_end_is_refused_before_django_sees_it() -> None:
    sent = await ask(board(), "/admin/login/", method="POST", parts=(b"x" * (PAGE_BYTES // 2),) * 3)
    assert sent[0]["status"] == 413
    assert json.loads(body_of(sent))["error"]["code"] == "request_too_large"


async def test_the_bodies_of_all_pages_together_have_a_cap() -> None:
    came, leave = asyncio.Event(), asyncio.Event()

    async def waiting(scope: Scope, receive: Receive, send: Send) -> None:
        came.set()
        await leave.wait()
        await naming("django")(scope, receive, send)

    app = board()
    app.pages.cap, app.django = 100, waiting
    first = asyncio.create_task(ask(app, "/admin/login/", method="POST", parts=(b"x" * 30,) * 2))
    await came.wait()
    async with asyncio.timeout(2):
        refused = await ask(app, "/admin/login/", method="POST", parts=(b"x" * 30,) * 2)
    assert (refused[0]["status"], json.loads(body_of(refused))["error"]["code"]) == (503, "buffers_full")
    leave.set()
    assert body_of(await first) == b"django 60"
    assert app.pages.held == 0


class Lifespan:
    """A server's side of the lifespan protocol."""

    def __init__(self, app: Switchboard) -> None:
        self.scope: Scope = {"type": "lifespan", "asgi": {"version": "3.0"}, "state": {}}
        self.inbox: asyncio.Queue[dict[str, Any]] = asyncio.Queue()
        self.outbox: asyncio.Queue[dict[str, Any]] = asyncio.Queue()
        self.task = asyncio.create_task(app(self.scope, self.inbox.get, self.outbox.put))

    async def say(self, kind: str) -> dict[str, Any]:
        await self.inbox.put({"type": kind})
        async with asyncio.timeout(2):
            return await self.outbox.get()


async def test_the_lifespan_starts_and_stops_the_engine() -> None:
    engine = FakeEngine()
    lifespan = Lifespan(board(engine))
    assert await lifespan.say("lifespan.startup") == {"type": "lifespan.startup.complete"}
    assert (engine.calls, lifespan.scope["state"]["engine"]) == (["start"], engine)
    assert await lifespan.say("lifespan.shutdown") == {"type": "lifespan.shutdown.complete"}
    await lifespan.task
    assert engine.calls == ["start", "begin_drain", "stop"]


async def test_s45_missing_secrets_fail_the_startup_with_their_names() -> None:
    engine = FakeEngine()
    lifespan = Lifespan(board(engine, (Problem("DJANGO_SECRET_KEY", "is not set", "Set it."),)))
    answer = await lifespan.say("lifespan.startup")
    assert answer == {
        "type": "lifespan.startup.failed",
        "message": "Refusing to start:\n- DJANGO_SECRET_KEY is not set. Set it.",
    }
    await lifespan.task
    assert engine.calls == []


async def test_an_engine_that_does_not_start_fails_the_startup_with_the_reason() -> None:
    lifespan = Lifespan(board(FakeEngine(RuntimeError("no such table: providers_provider"))))
    answer = await lifespan.say("lifespan.startup")
    assert answer["type"] == "lifespan.startup.failed"
    assert answer["message"] == "The gateway did not start. RuntimeError: no such table: providers_provider"
    await lifespan.task


async def websocket(extensions: dict[str, Any]) -> list[dict[str, Any]]:
    sent: list[dict[str, Any]] = []

    async def receive() -> dict[str, Any]:
        return {"type": "websocket.connect"}

    async def send(message: dict[str, Any]) -> None:
        sent.append(message)

    scope = {"type": "websocket", "path": "/v1/realtime", "headers": [], "extensions": extensions}
    await board()(scope, receive, send)
    return sent


async def test_a_websocket_is_refused_with_a_plain_answer_where_the_server_can() -> None:
    start, body = await websocket({"websocket.http.response": {}})
    assert (start["type"], start["status"]) == ("websocket.http.response.start", 426)
    assert json.loads(body["body"])["error"]["message"] == (
        "WebSocket is not served here (/v1/realtime). Use POST /v1/realtime/calls, which opens a WebRTC session."
    )


async def test_a_websocket_is_closed_before_the_handshake_elsewhere() -> None:
    (close,) = await websocket({})
    assert (close["type"], close["code"]) == ("websocket.close", 1003)


async def test_a_scope_of_another_kind_is_an_error() -> None:
    with pytest.raises(ValueError, match="mqtt"):
        await board()({"type": "mqtt"}, asyncio.Queue[Any]().get, asyncio.Queue[Any]().put)


# --- the pages, with Django's own handler ----------------------------------------------------------------------------


@pytest.fixture
def real() -> Any:
    from proxysite.asgi import application

    return application


@pytest.mark.django_db(transaction=True)
class TestPages:
    async def test_the_root_names_the_gateway_and_its_addresses(self, real: Any) -> None:
        sent = await ask(real, "/")
        assert json.loads(body_of(sent)) == {
            "name": "LLM gateway",
            "base_url": "http://localhost/v1",
            "docs": "http://localhost/docs",
            "admin": "http://localhost/admin/",
        }
        assert b"x-request-id" in headers_of(sent)

    async def test_the_admin_asks_who_is_there(self, real: Any) -> None:
        assert headers_of(await ask(real, "/admin"))[b"location"] == b"/admin/"
        assert headers_of(await ask(real, "/admin/"))[b"location"] == b"/admin/login/?next=/admin/"
        sent = await ask(real, "/admin/login/")
        assert sent[0]["status"] == 200
        assert headers_of(sent)[b"x-frame-options"] == b"DENY"
        assert b"default-src 'self'" in headers_of(sent)[b"content-security-policy"]

    async def test_s23_a_form_without_a_csrf_token_gets_403(self, real: Any) -> None:
        assert (await ask(real, "/admin/login/", method="POST", parts=(b"username=a&password=b",)))[0]["status"] == 403

    # proxysite.asgi ignores it too, but pytest puts its own filters before those of the program.
    @pytest.mark.filterwarnings("ignore:StreamingHttpResponse must consume synchronous iterators")
    async def test_the_docs_are_served_from_here_under_the_policy(self, real: Any) -> None:
        sent = await ask(real, "/docs")
        policy = headers_of(sent)[b"content-security-policy"]
        assert sent[0]["status"] == 200
        assert b"unsafe" not in policy
        assert b"http" not in policy
        assert b"://" not in body_of(sent)
        for path in ("/static/ninja/swagger-ui-bundle.js", "/static/ninja/swagger-ui.css"):
            assert (await ask(real, path))[0]["status"] == 200
        schema = json.loads(body_of(await ask(real, "/docs/openapi.json")))
        assert "/v1/chat/completions" in schema["paths"]

    @pytest.mark.parametrize("debug", [True, False])
    async def test_an_unknown_page_is_json_whatever_debug_says(self, real: Any, debug: bool, settings: Any) -> None:
        settings.DEBUG = debug
        sent = await ask(real, "/docs/nowhere")
        assert sent[0]["status"] == 404
        assert json.loads(body_of(sent))["error"]["message"] == "Invalid URL (GET /docs/nowhere)"

    @pytest.mark.parametrize("method", ["POST", "PUT", "TRACE", "OPTIONS", "DELETE"])
    async def test_s41_the_root_is_read_only(self, real: Any, method: str) -> None:
        assert (await ask(real, "/", method=method))[0]["status"] in (403, 405)
