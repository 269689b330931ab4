"""What an answer says has been made at a provider: remembered as its client's own, and left out of others' lists."""

import msgspec

from gateway.parsing import mentions
from gateway.parsing.asks import Ask, Form
from gateway.receipts import Receipt
from gateway.replies.mending import decode_list
from gateway.routing.stickies import Sticky
from providers.targets import Target

Fields = dict[str, msgspec.Raw]

# Families whose answers have ids under which nothing is kept.
PASSING = frozenset(
    {"completions", "embeddings", "moderations", "images", "audio.speech", "audio.transcriptions", "audio.translations"}
)
# Families in which work goes on after it was asked for, and tells later what it has made.
LATER = frozenset({"batches", "fine_tuning"})


def is_kept(ask: Ask) -> bool:
    """Whether the provider keeps what it makes of this request: of chats only those that are to be stored."""
    if ask.method != "POST" or ask.endpoint in PASSING:
        return False
    if ask.form is Form.COMPLETION:
        return bytes(ask.fields.get("store", b"")) == b"true"
    if ask.form is Form.RESPONSES:
        return bytes(ask.fields.get("store", b"")) != b"false"
    return ask.form is Form.PLAIN or ask.path.startswith("/messages/batches")


def note_stream(receipt: Receipt, target: Target, created: str) -> None:
    """The same for a stream, which does not wait: it will take much longer than this."""
    if created and is_kept(receipt.ask):
        receipt.process.stickies.remember_soon([created], _sticky(receipt, target))


async def note(receipt: Receipt, target: Target, fields: Fields, body: bytes) -> bytes:
    """Remember what a whole answer has made before its client knows of it; the answer as it is to be given."""
    ask, stickies = receipt.ask, receipt.process.stickies
    if is_kept(ask):
        await stickies.remember(mentions.made(fields), _sticky(receipt, target))
    elif ask.method != "GET":
        return body
    elif ask.endpoint in LATER and ask.ids:
        # Only what is known to be this key's: a stranger's batch, from before the gateway, makes nothing ours.
        if await stickies.find(ask.ids):
            await stickies.remember(mentions.made(fields), _sticky(receipt, target))
    elif bytes(fields.get("data", b""))[:1] == b"[" and not ask.ids:
        return await _without_others(receipt, fields, body)
    return body


async def _without_others(receipt: Receipt, fields: Fields, body: bytes) -> bytes:
    """A list of all that the provider's account has, without what is known to be another key's."""
    try:
        items = decode_list(fields["data"])
        names = [msgspec.json.decode(item["id"]) if "id" in item else None for item in items]
    except (ValueError, RecursionError):
        return body
    found = await receipt.process.stickies.find([name for name in names if isinstance(name, str)])
    owner = _owner(receipt)
    kept = [
        item
        for item, name in zip(items, names, strict=True)
        if not isinstance(name, str) or name not in found or found[name].owner == owner
    ]
    if len(kept) == len(items):
        return body
    return msgspec.json.encode({**fields, "data": kept})


def _sticky(receipt: Receipt, target: Target) -> Sticky:
    return Sticky(target.provider.id, target.credential.id if target.credential else "", _owner(receipt))


def _owner(receipt: Receipt) -> str:
    return receipt.call.key.principal if receipt.call.key else ""
