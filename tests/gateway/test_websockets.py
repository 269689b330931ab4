"""WebSockets are not served: whoever asks for one is told what to use instead, by our own server and by others."""

import json
from typing import Any

import pytest
import websockets
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol
from websockets.exceptions import InvalidStatus

from proxysite.switchboard import Switchboard
from tests.gateway.house import Door
from tests.proxysite.wire import serving

CASES = [
    ("/v1/responses", "Use POST /v1/responses with `stream: true`."),
    ("/v1/realtime?model=gpt-realtime", "Use POST /v1/realtime/calls, which opens a WebRTC session."),
    ("/v1/live", "Use its operations over HTTP."),
]


async def refused(url: str, **headers: str) -> tuple[int, dict[str, Any]]:
    with pytest.raises(InvalidStatus) as caught:
        await websockets.connect(url, additional_headers=headers, proxy=None)
    response = caught.value.response
    assert response.headers["content-type"] == "application/json"
    return response.status_code, json.loads(response.body or b"")["error"]


@pytest.mark.parametrize(("path", "instead"), CASES)
async def test_our_own_server_answers_426(door: Door, path: str, instead: str) -> None:
    url = door.url.removesuffix("/v1").replace("http", "ws") + path
    status, error = await refused(url, authorization=f"Bearer {door.key}")
    assert (status, error["code"], error["type"]) == (426, "websocket_not_supported", "invalid_request_error")
    assert error["message"] == f"WebSocket is not served here ({path.partition('?')[0]}). {instead}"
    status, error = await refused(url)
    assert (status, error["code"]) == (401, "invalid_api_key")


@pytest.mark.parametrize(("path", "instead"), CASES)
async def test_a_server_that_has_websockets_answers_426_too(path: str, instead: str) -> None:
    async def nothing(*_: Any) -> None:
        raise AssertionError

    class Idle:
        ready = True

    # uvicorn itself, where `manage.py serve` is not used.
    board = Switchboard(django=nothing, gateway=nothing, engine=Idle())  # type: ignore[arg-type]
    async with serving(board, protocol=HttpToolsProtocol, ws="websockets-sansio") as (port, _):
        status, error = await refused(f"ws://127.0.0.1:{port}{path}")
    assert (status, error["code"]) == (426, "websocket_not_supported")
    assert error["message"].endswith(instead)
