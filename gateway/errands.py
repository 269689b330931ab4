"""A call that the gateway makes for a client's request: with that client's key, limited and billed as any other."""

import asyncio
import time

import msgspec
import structlog
from msgspec.structs import replace

from gateway.admission import admit
from gateway.errors import GatewayError
from gateway.forwarding.attempts import forward
from gateway.parsing import asks
from gateway.receipts import Call, Receipt, open_receipt
from providers.ids import uuid7
from providers.targets import KeyCard, Limits

log = structlog.get_logger("gateway")


SECONDS = 5.0  # that a request waits for it


class Item(msgspec.Struct):
    embedding: list[float]


class Embeddings(msgspec.Struct):
    data: list[Item]


_decode = msgspec.json.Decoder(Embeddings).decode


async def embed(receipt: Receipt, alias: str, text: str) -> tuple[str, list[float]] | None:
    """The model that the alias leads to, and its embedding; None where limits or the provider do not let it.

    That the alias is asked is the operator's choice, and not the client's: the key need not be allowed to.
    """
    outer = receipt.call
    assert outer.key is not None
    number = "req_" + uuid7()
    call = Call(number, number, outer.process, outer.process.clock(), time.time(), asyncio.current_task())
    call.key, call.caller, call.end_user = _errand_key(outer.key, alias), outer.caller, outer.end_user
    body = msgspec.json.encode({"model": alias, "input": text, "encoding_format": "float"})
    ask = asks.parse(body, endpoint="embeddings", path="/embeddings", streams=False)
    ask = replace(ask, end_user=receipt.ask.end_user)
    try:
        async with asyncio.timeout(SECONDS), open_receipt(call, ask) as own:
            grant = await admit(ask, own)
            if grant.answer is None and own.process.commit_open is not None:
                await own.commit()
            reply = grant.answer or await forward(grant)
            return reply.target.model, _decode(reply.body).data[0].embedding
    except (GatewayError, TimeoutError, msgspec.MsgspecError, IndexError) as error:
        log.warning("not_embedded", request_id=outer.id, alias=alias, error=type(error).__name__)
        return None
    finally:
        call.release()


def _errand_key(key: KeyCard, alias: str) -> KeyCard:
    """The key, for this alias; the place that its request holds is that of its errand too."""
    team = key.team
    return replace(
        key,
        aliases=(alias,),
        endpoints=(),
        limits=_placeless(key.limits),
        end_user_limits=_placeless(key.end_user_limits),
        address_limits=_placeless(key.address_limits),
        team=None if team is None else replace(team, limits=_placeless(team.limits)),
    )


def _placeless(limits: Limits) -> Limits:
    return replace(limits, concurrency=0)
