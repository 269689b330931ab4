"""The streams of Responses and of Messages: passed byte for byte, read where they tell of their end and of usage."""

import re
from collections.abc import Mapping
from typing import Any

import msgspec

from gateway.errors import StreamInterrupted
from gateway.parsing.asks import Ask, Form
from gateway.replies.chat import ChatRelay
from gateway.replies.refusals import Complaint, mask, read_complaint, refuse
from gateway.replies.relays import PassingRelay, Relay, decoded
from gateway.replies.sse import events
from ledger.usage import Usage, read_messages_usage, read_usage
from providers.targets import Quirks

MAX_ID = 200


def relay_for(ask: Ask, *, secrets: tuple[str, ...], quirks: Quirks) -> Relay:
    """The relay that reads streams of that form."""
    if ask.form is Form.COMPLETION:
        return ChatRelay(
            chat=ask.endpoint == "chat.completions",
            wants_usage=ask.wants_usage,
            choices=ask.choices,
            model=ask.model,
            secrets=secrets,
            quirks=quirks,
        )
    return PASSING.get(ask.form, PassingRelay)(secrets=secrets)


class EndingRelay(PassingRelay):
    """A stream whose last event has a name; without it the answer is not whole."""

    MARKS: re.Pattern[bytes]  # what stands in every event that is to be read

    def __init__(self, *, secrets: tuple[str, ...] = ()) -> None:
        super().__init__(secrets=secrets)
        self.finished = False

    def end(self) -> bytes:
        rest = super().end()
        if self.failed is None and not self.finished:
            raise StreamInterrupted("The provider's stream ended before its answer was complete.", sent=True)
        return rest

    def _read(self, block: bytes) -> bytes:
        if self.MARKS.search(block) is None:
            return block
        out = []
        for event in events(block):
            if self.MARKS.search(event) and (fields := decoded(event)) is not None:
                self._note(str(fields.get("type")), fields)
                if self.failed is not None:
                    event = mask(event.decode("utf-8", "replace"), self.secrets).encode()
            out.append(event)
            if self.failed is not None:
                break
        return b"".join(out)

    def _note(self, kind: str, fields: Mapping[str, Any]) -> None:
        """Take down what an event says."""
        raise NotImplementedError

    def _fail(self, said: object) -> None:
        complaint = read_complaint(said) or Complaint("The provider gave no reason.")
        self.failed = refuse(complaint, complaint.status or 502, secrets=self.secrets)


class ResponsesRelay(EndingRelay):
    """https://platform.openai.com/docs/api-reference/responses-streaming"""

    MARKS = re.compile(rb'"type": ?"(?:response\.(?:created|completed|incomplete|failed)|error)"')

    def _note(self, kind: str, fields: Mapping[str, Any]) -> None:
        response = fields.get("response")
        if isinstance(response, dict):
            self.created = str(response.get("id") or "")[:MAX_ID]
            self.usage = read_usage(response.get("usage")) or self.usage
        if kind in ("response.completed", "response.incomplete", "response.failed"):
            self.finished = True
        if kind == "response.failed":
            self._fail(response)
        elif kind == "error":
            flat = {name: value for name, value in fields.items() if name != "type"}
            self._fail(fields if "error" in fields else {"error": flat})


class MessagesRelay(EndingRelay):
    """https://docs.anthropic.com/en/docs/build-with-claude/streaming"""

    MARKS = re.compile(rb'"type": ?"(?:message_start|message_delta|message_stop|error)"')
    DELTA = re.compile(rb'"(?:text|partial_json|thinking)": ?"((?:[^"\\]|\\.)+)')

    def __init__(self, *, secrets: tuple[str, ...] = ()) -> None:
        super().__init__(secrets=secrets)
        self._counts: dict[str, Any] = {}

    def estimate(self, tokens_in: int = 0) -> Usage:
        """The prompt is counted by the provider, at the start; the text that came, here."""
        started = read_messages_usage(self._counts)
        said = super().estimate(tokens_in)
        return said if started is None else msgspec.structs.replace(started, tokens_out=said.tokens_out)

    def _note(self, kind: str, fields: Mapping[str, Any]) -> None:
        if kind == "message_start":
            message = fields.get("message")
            self._count(message.get("usage") if isinstance(message, dict) else None)
        elif kind == "message_delta":
            self._count(fields.get("usage"))
            self.usage = read_messages_usage(self._counts)
        elif kind == "message_stop":
            self.finished = True
        elif kind == "error":  # and no other event with an error of its own inside, such as a tool's
            self._fail(fields)

    def _count(self, usage: object) -> None:
        # Each count is of the whole so far: the last one of a name is the one that holds.
        if isinstance(usage, dict):
            self._counts.update({name: value for name, value in usage.items() if value is not None})


PASSING = {Form.RESPONSES: ResponsesRelay, Form.MESSAGES: MessagesRelay}
