"""The way of a request, as a table of contents."""

from dataclasses import dataclass

from django.http import HttpRequest, HttpResponse, StreamingHttpResponse

from gateway import asks
from gateway.admission import admit
from gateway.asks import Ask
from gateway.delivery import deliver, deliver_early
from gateway.forwarding import forward
from gateway.receipts import Call, open_receipt


@dataclass(frozen=True, slots=True)
class Endpoint:
    """One operation that is forwarded: its name in the ledger, its path below a provider's base URL."""

    name: str
    path: str
    streams: bool

    def parse(self, request: HttpRequest) -> Ask:
        return asks.parse(request.body, endpoint=self.name, path=self.path, streams=self.streams)


def call_of(request: HttpRequest) -> Call:
    """The request's call, put there by the handler before any view runs."""
    call: Call = request.call  # type: ignore[attr-defined]
    return call


async def handle(request: HttpRequest, endpoint: Endpoint) -> HttpResponse | StreamingHttpResponse:
    """Parse, admit, forward, deliver; the receipt is settled whatever happens."""
    ask = endpoint.parse(request)
    async with open_receipt(call_of(request), ask) as receipt:
        grant = await admit(ask, receipt)
        if receipt.process.commit_open is not None:
            await receipt.commit()
        if ask.stream and grant.alias.early_200:
            return receipt.hand_over(deliver_early(forward(grant), receipt))
        return receipt.hand_over(deliver(await forward(grant), receipt))
