"""The way of a request, as a table of contents."""

from dataclasses import dataclass
from typing import Protocol

from django.http import HttpRequest, HttpResponse, StreamingHttpResponse

from gateway import asks
from gateway.admission import admit
from gateway.asks import Ask
from gateway.delivery import deliver, deliver_early
from gateway.forwarding import forward
from gateway.places import Place
from gateway.receipts import Call, open_receipt


class Endpoint(Protocol):
    """What is forwarded: one operation, or a whole family of them."""

    def parse(self, request: HttpRequest, place: Place) -> Ask: ...


@dataclass(frozen=True, slots=True)
class Completion:
    """One operation of the kind of chat: its name in the ledger, its path below a provider's base URL."""

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


async def handle(request: HttpRequest, endpoint: Endpoint) -> HttpResponse | StreamingHttpResponse:
    """Parse, admit, forward, deliver; the receipt is settled whatever happens."""
    call = call_of(request)
    ask = endpoint.parse(request, call.place)
    async with open_receipt(call, ask) as receipt:
        grant = await admit(ask, receipt)
        if grant.answer is not None:
            return receipt.hand_over(deliver(grant.answer, receipt))
        if receipt.process.commit_open is not None:
            await receipt.commit()
        if ask.stream and grant.alias.early_200:
            return receipt.hand_over(deliver_early(forward(grant), receipt))
        return receipt.hand_over(deliver(await forward(grant), receipt))
