"""A provider whose answers are predictions, read as one that speaks OpenAI's dialect: the calls, and what they become.

A prediction is created; a stream of its own events is relayed as chunks, or it is asked for until it has ended. Whoever
leaves before that has it cancelled. The words of the provider stand in providers/predictions.py.
"""

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from typing import Any

import msgspec

from gateway.errors import GatewayError, StreamInterrupted, UpstreamInvalid
from gateway.outgoing import Outgoing
from gateway.replies.sse import DONE, MAX_EVENT
from gateway.upstream.client import Fields, Sending, Upstream, UpstreamReply
from providers.predictions import ENDED, ID, is_within, text_of, usage_of
from providers.targets import Target

MAX_BYTES = 4 * 1024 * 1024  # of one prediction
FIRST_POLL, LONGEST_POLL = 0.25, 3.0  # seconds between two looks
CANCEL_SECONDS = 5.0
JSON, EVENTS = "application/json", "text/event-stream"


class Predictions:
    """The calls about one prediction."""

    def __init__(self, upstream: Upstream, target: Target, call: Outgoing) -> None:
        self.upstream, self.target = upstream, target
        self.base = target.provider.base_url
        self.headers = [(name, value) for name, value in call.headers if name != "content-type"]
        self.id = ""
        self.ended = False

    async def get(self, url: str, *, method: str = "GET", accept: str = JSON) -> UpstreamReply:
        headers = [*self.headers, ("accept", accept)]
        return await self.upstream.send(url, headers, b"", self.target.provider.timeouts, method=method, once=True)

    async def look(self) -> dict[str, Any]:
        """The prediction as it is now. Raises UpstreamInvalid where it cannot be read."""
        reply = await self.get(f"{self.base}/predictions/{self.id}")
        body = await reply.read(MAX_BYTES)
        if reply.status != 200:
            raise UpstreamInvalid(f"The provider answered {reply.status} to the question for a prediction.", sent=True)
        return self.take(body)

    def take(self, body: bytes) -> dict[str, Any]:
        try:
            found = msgspec.json.decode(body)
            if not ID.match(found["id"]):
                raise ValueError
        except (ValueError, TypeError, KeyError, RecursionError):
            raise UpstreamInvalid("The provider answered with something that is no prediction.", sent=True) from None
        self.id, self.ended = found["id"], found.get("status") in ENDED
        prediction: dict[str, Any] = found
        return prediction

    async def until_ended(self, prediction: dict[str, Any]) -> dict[str, Any]:
        pause = FIRST_POLL
        while not self.ended:
            await asyncio.sleep(pause)
            prediction, pause = await self.look(), min(2 * pause, LONGEST_POLL)
        return prediction

    def cancel(self) -> None:
        """Nobody waits any more: say so, without waiting for it."""
        if self.id and not self.ended:
            self.ended = True
            _cancelling.add(task := asyncio.ensure_future(self._cancel()))
            task.add_done_callback(_cancelling.discard)

    async def _cancel(self) -> None:
        try:
            async with asyncio.timeout(CANCEL_SECONDS):
                reply = await self.get(f"{self.base}/predictions/{self.id}/cancel", method="POST")
                await reply.read(MAX_BYTES)
        except (GatewayError, TimeoutError):
            return  # it runs to its end, and is charged


_cancelling: set["asyncio.Future[None]"] = set()  # the loop itself keeps tasks only weakly


async def predict(
    upstream: Upstream, target: Target, call: Outgoing, *, chat: bool, stream: bool, sending: Sending
) -> UpstreamReply:
    """The reply that an upstream of OpenAI's dialect would give. Raises as Upstream.send does."""
    assert isinstance(call.body, bytes)
    # https://replicate.com/docs/topics/predictions/create-a-prediction: held for up to 60 s where nothing is streamed
    headers = call.headers if stream else [*call.headers, ("prefer", "wait")]
    reply = await upstream.send(call.url, headers, call.body, target.provider.timeouts, sending=sending)
    if not 200 <= reply.status <= 299:
        return reply
    sending.sent = True
    predictions = Predictions(upstream, target, call)
    try:
        prediction = predictions.take(await reply.read(MAX_BYTES))
        source = await _source(predictions, prediction) if stream else None
        if source is not None:
            return Predicted(predictions, EVENTS, _streamed(predictions, source, chat), source.aclose)
        whole = _whole(predictions, await predictions.until_ended(prediction), chat)
        return Predicted(predictions, JSON, _once(whole))
    except BaseException:
        predictions.cancel()
        raise


async def _source(predictions: Predictions, prediction: dict[str, Any]) -> UpstreamReply | None:
    """The prediction's own stream; None for a model that has none, or where it is over already."""
    urls = prediction.get("urls")
    url = urls.get("stream") if isinstance(urls, dict) else None
    if url is None or predictions.ended:
        return None
    if not is_within(url, predictions.base):
        raise UpstreamInvalid("The provider's stream has an address outside its own domain.", sent=True)
    source = await predictions.get(url, accept=EVENTS)
    if source.status != 200:
        await source.aclose()
        return None
    return source


class Predicted(UpstreamReply):
    """A prediction in the shape of a provider's answer."""

    __slots__ = ("_body", "_close", "_predictions")

    def __init__(
        self,
        predictions: Predictions,
        content_type: str,
        body: AsyncIterator[bytes],
        close: Callable[[], Any] | None = None,
    ) -> None:
        self.status = 200
        self.headers = Fields([(b"content-type", content_type.encode()), (b"x-request-id", predictions.id.encode())])
        self._predictions, self._body, self._close = predictions, body, close

    def chunks(self) -> AsyncIterator[bytes]:
        return self._body

    def pipe(self, sink: Callable[[bytes], bool]) -> None:
        """Each event has to be made anew: there is no short way."""

    async def aclose(self) -> None:
        self._predictions.cancel()
        close, self._close = self._close, None
        if close is not None:
            await close()


async def _once(body: bytes) -> AsyncIterator[bytes]:
    yield body


def _whole(predictions: Predictions, prediction: dict[str, Any], chat: bool) -> bytes:
    if prediction["status"] != "succeeded":
        return msgspec.json.encode(_failure(prediction))
    text = text_of(prediction.get("output"))
    spoken = {"message": {"role": "assistant", "content": text}} if chat else {"text": text}
    choice = {"index": 0, **spoken, "logprobs": None, "finish_reason": "stop"}
    kind = "chat.completion" if chat else "text_completion"
    usage = usage_of(prediction)
    return msgspec.json.encode({**_head(predictions, kind), "choices": [choice], **({"usage": usage} if usage else {})})


async def _streamed(predictions: Predictions, source: UpstreamReply, chat: bool) -> AsyncIterator[bytes]:
    head = _head(predictions, "chat.completion.chunk" if chat else "text_completion")
    splitter = EventSource()
    try:
        async for data in source.chunks():
            for name, text in splitter.feed(data):
                if name == "output":
                    yield _chunk(head, text, None, chat)
                elif name == "error":
                    predictions.ended = True
                    yield _event(_failure({"error": text}))
                    return
                elif name == "done":
                    ended = await predictions.look()
                    if ended["status"] in ENDED - {"succeeded"}:
                        yield _event(_failure(ended))
                        return
                    predictions.ended = True
                    yield _chunk(head, "", "stop", chat)
                    usage = usage_of(ended)
                    yield (_event({**head, "choices": [], "usage": usage}) if usage else b"") + DONE
                    return
    finally:
        await source.aclose()


class EventSource:
    """Named events and their text, every space and line end of it: these are pieces of an answer."""

    def __init__(self) -> None:
        self._rest = b""

    def feed(self, data: bytes) -> list[tuple[str, str]]:
        """Raises StreamInterrupted where an event is larger than 16 MiB."""
        found: list[tuple[str, str]] = []
        lines = (self._rest + data).replace(b"\r\n", b"\n").split(b"\n\n")
        self._rest = lines.pop()
        if len(self._rest) > MAX_EVENT:
            raise StreamInterrupted(f"The provider sent an event of more than {MAX_EVENT} bytes.", sent=True)
        for block in lines:
            name, texts = "message", []
            for line in block.split(b"\n"):
                field, _, value = line.partition(b":")
                value = value.removeprefix(b" ")
                if field == b"event":
                    name = value.decode("utf-8", "replace")
                elif field == b"data":
                    texts.append(value.decode("utf-8", "replace"))
            found.append((name, "\n".join(texts)))
        return found


def _head(predictions: Predictions, kind: str) -> dict[str, Any]:
    prefix = "cmpl" if kind == "text_completion" else "chatcmpl"
    identity = {"id": f"{prefix}-{predictions.id}", "object": kind, "created": int(time.time())}
    return {**identity, "model": predictions.target.model}


def _chunk(head: dict[str, Any], text: str, finish: str | None, chat: bool) -> bytes:
    spoken: dict[str, Any] = {"delta": {"content": text} if finish is None else {}} if chat else {"text": text}
    return _event({**head, "choices": [{"index": 0, **spoken, "logprobs": None, "finish_reason": finish}]})


def _event(value: dict[str, Any]) -> bytes:
    return b"data: " + msgspec.json.encode(value) + b"\n\n"


def _failure(prediction: dict[str, Any]) -> dict[str, Any]:
    said = prediction.get("error") or f"The prediction was {prediction.get('status', 'not made')}."
    message = said if isinstance(said, str) else text_of(said)
    return {"error": {"message": message, "type": "upstream_error", "code": "prediction_failed"}}
