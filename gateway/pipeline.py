"""The way of a request, as a table of contents."""

from typing import ClassVar, Protocol

import msgspec
from django.http import HttpRequest, HttpResponse, StreamingHttpResponse

from gateway.admission import admit
from gateway.bodies import Incoming
from gateway.delivery import deliver, deliver_early
from gateway.errors import UnsupportedMedia
from gateway.forwarding.attempts import forward
from gateway.forwarding.sleepers import Waking, may_sleep
from gateway.parsing import asks
from gateway.parsing.asks import Ask, Form
from gateway.parsing.places import Place
from gateway.receipts import Call, open_receipt
from gateway.uploads import with_upload


class Endpoint(Protocol):
    """What is forwarded: one operation, or a whole family of them."""

    takes_uploads: ClassVar[bool]

    def parse(self, request: HttpRequest, place: Place) -> Ask: ...


class Completion(msgspec.Struct, frozen=True):
    """One operation of the kind of chat: its name in the ledger, its path below a provider's base URL."""

    takes_uploads: ClassVar[bool] = False

    name: str
    path: str
    streams: bool

    def parse(self, request: HttpRequest, place: Place) -> Ask:
        return asks.parse(
            request.body, endpoint=self.name, path=self.path, streams=self.streams, deployment=place.deployment
        )


def call_of(request: HttpRequest) -> Call:
    """The request's call, put there by the handler before any view runs."""
    call: Call = request.call  # type: ignore[attr-defined]
    return call


def incoming_of(request: HttpRequest) -> Incoming | None:
    """A body that has not been read yet; None where it has."""
    incoming: Incoming | None = request.incoming  # type: ignore[attr-defined]
    return incoming


async def handle(request: HttpRequest, endpoint: Endpoint) -> HttpResponse | StreamingHttpResponse:
    """Parse, admit, forward, deliver; the receipt is settled whatever happens."""
    call = call_of(request)
    incoming = incoming_of(request)
    if incoming is not None and not endpoint.takes_uploads:
        raise UnsupportedMedia("This endpoint takes JSON: send it with `content-type: application/json`.")
    ask = endpoint.parse(request, call.place)
    if incoming is not None and not call.explains:
        ask = await with_upload(ask, call, incoming, request.headers.get("content-type", ""))
    async with open_receipt(call, ask) as receipt:
        if call.explains:
            # Asked by an operator now and then; other requests are answered without it.
            from gateway.explaining import explained

            return HttpResponse(msgspec.json.encode(await explained(ask, receipt)), content_type="application/json")
        grant = await admit(ask, receipt)
        if receipt.process.captures is not None:
            receipt.process.captures.begin(receipt, grant.alias, request.body if incoming is None else b"")
        if grant.answer is not None:
            return receipt.hand_over(deliver(grant.answer, receipt))
        if receipt.process.commit_open is not None:
            await receipt.commit()
        if ask.stream and grant.alias.early_200 and ask.form is not Form.PLAIN:
            return receipt.hand_over(deliver_early(forward(grant), receipt))
        if ask.stream and ask.upload is None and may_sleep(grant.targets):
            waking = Waking(forward(grant))
            reply = await waking.soon()
            return receipt.hand_over(deliver_early(waking, receipt) if reply is None else deliver(reply, receipt))
        return receipt.hand_over(deliver(await forward(grant), receipt))
