"""What the client wants: the few fields that we read, beside the raw fields that are forwarded as they came.

A body is decoded to `dict[str, msgspec.Raw]` and encoded again from it, so that what was authorised is what is sent: of
a field that came twice the provider sees the one that we looked at.
"""

import json
import re
from enum import Enum
from typing import Annotated, Any, Protocol

import msgspec
from msgspec.structs import replace

from gateway.errors import BadRequest, DuplicateField, MissingField
from gateway.parsing import mentions
from gateway.pouring import Source

MAX_DEPTH = 64
MAX_MODEL_CHARS = 300
MAX_END_USER_CHARS = 128
MOST = 2**31 - 1  # tokens or choices: more is no number that anybody means
# The field that bounds an answer; of a chat the newer one, which presets rename for providers that know the older.
BOUND = {"chat.completions": "max_completion_tokens", "completions": "max_tokens"}
TOKENS_PER_MESSAGE = 16  # what a provider's template may put around a message, at the most


class Form(Enum):
    """How an operation's answer is read, and how an error looks in its stream."""

    COMPLETION = "completion"  # chat, completions, embeddings: checked, and mended where clients would trip
    RESPONSES = "responses"
    MESSAGES = "messages"  # Anthropic's
    PLAIN = "plain"  # whatever else: passed on as it is


class StreamOptions(msgspec.Struct):
    include_usage: bool | None = None


Choices = Annotated[int, msgspec.Meta(ge=1, le=MOST)]
Tokens = Annotated[int, msgspec.Meta(ge=0, le=MOST)]


class Fields(msgspec.Struct):
    """The fields that we read; of the rest we know nothing. Names as in OpenAI's specification."""

    model: Annotated[str, msgspec.Meta(max_length=MAX_MODEL_CHARS)] | msgspec.UnsetType | None = msgspec.UNSET
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    n: Choices | None = None
    best_of: Choices | None = None
    max_tokens: Tokens | None = None
    max_completion_tokens: Tokens | None = None
    max_output_tokens: Tokens | None = None
    user: Any = None
    safety_identifier: Any = None


READ = tuple(Fields.__struct_fields__)
# Not "user": it stands in every chat as a role, and of a doubled field both readers see the last.
_QUOTED = tuple(b'"%b"' % name.encode() for name in READ if name != "user")
_raw_fields = msgspec.json.Decoder(dict[str, msgspec.Raw])
_raw_list = msgspec.json.Decoder(list[msgspec.Raw])
_fields = msgspec.json.Decoder(Fields)
_encode = msgspec.json.Encoder().encode
# msgspec's error path: "... - at `$.stream_options.include_usage`"
_PATH = re.compile(r" - at `\$\.?([^`]*)`$")
_DOUBLED_BACKSLASH = b"\\\\"
_STRUCTURE = bytes(set(range(256)) - set(b"[]{}"))


class Upload(Protocol):
    """A body that is passed on as it comes: see gateway.uploads."""

    keep: bool

    @property
    def restarts(self) -> bool: ...

    def source(self, model: str | None) -> Source:
        """The body for one provider; None: whatever model it names stays."""


class Ask(msgspec.Struct, frozen=True):
    """One parsed request. `fields` holds every top-level field of a JSON body, in order, as raw JSON."""

    endpoint: str  # the family's name, as in a key's scope and in the ledger: chat.completions, files, ...
    path: str  # below a provider's base URL: of our own fixed set, or the client's own, checked (parsing/operations.py)
    model: str
    fields: dict[str, msgspec.Raw]
    size: int  # bytes of the body as it came
    form: Form = Form.COMPLETION
    stream: bool = False
    wants_usage: bool = False
    choices: int = 1
    drafts: int = 0  # of which a completion's choices are the best: `best_of`; 0 where the client names none
    end_user: str = ""  # as the client names its own user; at most 128 characters
    max_tokens: int | None = None  # of each choice, as the client bounds it
    method: str = "POST"
    query: str = ""  # as it came, without the question mark
    names_model: bool = True  # False: nothing says which alias is meant, and so not which provider
    whole: bytes | None = None  # the body where it is no JSON object, b"" where there is none
    content_type: str = "application/json"
    is_billed: bool = True  # whether a provider may charge for the call itself
    upload: Upload | None = None  # the body where it is not in memory
    ids: tuple[str, ...] = ()  # of what a provider keeps, as the path and the body name them
    is_fixed: bool = True  # whether the path is one of our own set, and so its address worth remembering
    bound: str = ""  # the field that bounds the answer, "" where there is none

    @property
    def prompt_bound(self) -> int:
        """The most tokens that the prompt can have: a token is a byte at least, and each message has a frame."""
        messages = self.fields.get("messages") or self.fields.get("input")
        return self.size + TOKENS_PER_MESSAGE * (bytes(messages).count(b'"role"') if messages is not None else 1)

    def output_bound(self, cap: int) -> int:
        """The most tokens that all choices together can have; `cap` is what one may have where the client says none."""
        if not self.bound:
            return 0
        each = cap if self.max_tokens is None else self.max_tokens
        return each * max(self.choices, self.drafts) * self.prompts

    @property
    def prompts(self) -> int:
        """How many prompts a completion has, each of which is answered: a text or a list of tokens is one."""
        raw = self.fields.get("prompt") if self.endpoint == "completions" else None
        if raw is None or not bytes(raw).lstrip().startswith(b"["):
            return 1
        return max(1, sum(bytes(prompt)[:1] not in _NUMBER for prompt in _raw_list.decode(raw)))

    def bounded(self, cap: int) -> "Ask":
        """The same request with an answer of at most `cap` tokens a choice, where the client has set no bound."""
        return self.prescribed(cap, self.end_user)

    def prescribed(self, cap: int | None, end_user: str) -> "Ask":
        """The same for that end user; without a `cap` the answer stays as it was asked for."""
        if cap is not None and self.bound and self.max_tokens is None:
            fields = {**self.fields, self.bound: msgspec.Raw(b"%d" % cap)}
            return replace(self, fields=fields, max_tokens=cap, end_user=end_user)
        return self if end_user == self.end_user else replace(self, end_user=end_user)

    @property
    def is_background(self) -> bool:
        """Whether the provider answers at once and works on, and goes on when nobody listens any more."""
        return self.form is Form.RESPONSES and bytes(self.fields.get("background", b"")) == b"true"

    @property
    def wants_base64(self) -> bool:
        """Whether vectors are to come as base64. OpenAI's libraries ask for that unless their user does for floats."""
        return bytes(self.fields.get("encoding_format", b"")) == _BASE64

    def body(self, model: str, *, include_usage: bool, edit: Any = None) -> bytes | Source:
        """The body for one provider: its model name, usage asked for where that is allowed, its declared edits."""
        if self.upload is not None:
            return self.upload.source(model if self.names_model else None)
        if self.whole is not None:
            return self.whole
        fields = self.fields.copy()
        if self.names_model:
            fields["model"] = msgspec.Raw(_encode(model))
        if self.stream and include_usage and self.form is Form.COMPLETION:
            fields["stream_options"] = self._with_usage()
        if edit is not None:
            edit(fields)
        return _encode(fields)

    def _with_usage(self) -> msgspec.Raw:
        raw = self.fields.get("stream_options")
        if raw is None or bytes(raw) == b"null":
            return _INCLUDE_USAGE
        options = _raw_fields.decode(raw)
        options["include_usage"] = _TRUE
        return msgspec.Raw(_encode(options))


_BASE64 = b'"base64"'
_NUMBER = frozenset(b"%c" % first for first in b"-0123456789")
_TRUE = msgspec.Raw(b"true")
_INCLUDE_USAGE = msgspec.Raw(b'{"include_usage":true}')


def parse(body: bytes, *, endpoint: str, path: str, streams: bool, deployment: str = "") -> Ask:
    """Read a JSON body. Raises BadRequest with the name of the field, DuplicateField or MissingField.

    `deployment` is the model where the path names it, as Azure's clients do; the body's own then counts for nothing.
    """
    raw, fields = read(body)
    model = deployment or fields.model
    if model is msgspec.UNSET:
        raise MissingField("you must provide a `model` parameter", param="model")
    if model is None:
        raise BadRequest("Invalid `model`: Expected `str`, got `null`.", param="model", code="invalid_type")
    stream = bool(streams and fields.stream)
    options = fields.stream_options
    return Ask(
        endpoint=endpoint,
        path=path,
        model=model,
        fields=raw,
        size=len(body),
        stream=stream,
        wants_usage=bool(stream and options and options.include_usage),
        choices=fields.n or 1,
        drafts=fields.best_of or 0,
        end_user=end_user(fields.safety_identifier, fields.user),
        max_tokens=_max_tokens(fields, endpoint),
        bound=BOUND.get(endpoint, ""),
        ids=tuple(mentions.in_chat(raw, body)),
    )


def read(body: bytes) -> tuple[dict[str, msgspec.Raw], Fields]:
    """A JSON object as raw fields, and those that we read; raises BadRequest with the name of the field."""
    raw = read_object(body)
    try:
        return raw, _fields.decode(body)
    except msgspec.ValidationError as exc:
        raise invalid(exc) from None


def read_object(body: bytes) -> dict[str, msgspec.Raw]:
    """The top-level fields of a JSON object; raises BadRequest, and DuplicateField for a doubled one that we read."""
    raw = _decode(body)
    _check_depth(body)
    for quoted in _QUOTED:
        if body.count(quoted) > 1:
            _check_doubled(body)
            break
    return raw


def end_user(*given: Any) -> str:
    """The first that names one. https://platform.openai.com/docs/api-reference/chat/create: `safety_identifier` takes
    the place of `user`."""
    for value in given:
        if value:
            name = value if isinstance(value, str) else _encode(value).decode()
            return name[:MAX_END_USER_CHARS].replace("\0", "\N{REPLACEMENT CHARACTER}")  # PostgreSQL stores no NUL
    return ""


def _max_tokens(fields: Fields, endpoint: str) -> int | None:
    """What bounds the answer: a chat knows both fields, and of the two the larger one counts."""
    if endpoint not in BOUND:
        return None
    known = [fields.max_tokens, *([fields.max_completion_tokens] if endpoint == "chat.completions" else [])]
    return max((bound for bound in known if bound is not None), default=None)


def _decode(body: bytes) -> dict[str, msgspec.Raw]:
    if not body.strip():
        raise BadRequest("The request has no body: send a JSON object.")
    try:
        if not body.isascii():
            body.decode()
        return _raw_fields.decode(body)
    except UnicodeDecodeError as exc:
        raise BadRequest(f"The body is not UTF-8 (byte {exc.start}).") from None
    except msgspec.ValidationError:
        raise BadRequest("The body must be a JSON object.") from None
    except msgspec.DecodeError as exc:
        _check_surrogates(body)
        raise BadRequest(f"We could not parse the JSON body of your request: {exc}.") from None
    except RecursionError:
        raise BadRequest(f"The JSON body is nested more than {MAX_DEPTH} levels deep.") from None


def _check_depth(body: bytes) -> None:
    """Refuse more than MAX_DEPTH levels; nothing but two counts where there are not even that many brackets."""
    if body.count(b"{") + body.count(b"[") <= MAX_DEPTH:
        return
    bare = body
    if b"\\" in body:
        bare = body.replace(_DOUBLED_BACKSLASH, b"").replace(b'\\"', b"")
    structure = b"".join(bare.split(b'"')[::2]).translate(None, _STRUCTURE)
    for _ in range(MAX_DEPTH):
        # Each round takes the innermost pairs away; siblings go in the same round.
        peeled = _peel(structure)
        if not peeled:
            return
        structure = peeled
    raise BadRequest(f"The JSON body is nested more than {MAX_DEPTH} levels deep.")


_PAIR = re.compile(rb"\{(?:\{\}|\[\])*\}|\[(?:\{\}|\[\])*\]")


def _peel(structure: bytes) -> bytes:
    if structure.replace(b"{}", b"").replace(b"[]", b"") == b"":
        return b""
    return _PAIR.sub(lambda match: b"" if match[0] in (b"{}", b"[]") else match[0][:1] + match[0][-1:], structure)


def _check_surrogates(body: bytes) -> None:
    """A lone surrogate is no text: databases refuse it, and so do providers, later and worse."""
    try:
        fields = json.loads(body)
    except (ValueError, RecursionError):
        return
    for name, value in fields.items() if isinstance(fields, dict) else ():
        try:
            json.dumps({name: value}, ensure_ascii=False).encode()
        except UnicodeEncodeError:
            shown = name.encode(errors="replace").decode()
            raise BadRequest(f"`{shown}` holds half of a surrogate pair, which is not text.", param=shown) from None


def _check_doubled(body: bytes) -> None:
    """Which of our fields stands twice at the top level; json's hook sees the outermost object last."""
    seen: list[str] = []

    def note(pairs: list[tuple[str, Any]]) -> None:
        seen[:] = [name for name, _ in pairs]

    # Numbers stay texts: Python makes none of one with thousands of digits.
    json.loads(body, object_pairs_hook=note, parse_int=str, parse_float=str)
    for name in READ:
        if seen.count(name) > 1:
            raise DuplicateField(f"`{name}` is given twice.", param=name)


def invalid(exc: msgspec.ValidationError) -> BadRequest:
    """The field at which a body is not what it should be, by its path."""
    text = str(exc)
    match = _PATH.search(text)
    if match is None:
        return BadRequest(text)
    code = "invalid_type" if text.startswith("Expected `") and ", got" in text else "invalid_value"
    return BadRequest(f"Invalid `{match[1]}`: {text[: match.start()]}.", param=match[1], code=code)
