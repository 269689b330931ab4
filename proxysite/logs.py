"""Logs on standard error, ours and the libraries': one JSON object a line, or in development readable lines.

Every line, whoever wrote it, leaves through `Stream`, which takes the secrets out.
"""

import base64
import logging
import re
import sys
import threading
import time
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from functools import lru_cache
from types import TracebackType
from typing import Any

import msgspec
import structlog
from django.conf import settings

from providers import snapshot
from providers.keychain import Keychain
from providers.scrubbing import Scrubber, forms
from proxysite import env

JSON, CONSOLE = "json", "console"
LEVELS = ("debug", "info", "warning", "error")
# Standing in the account, the line must be written or the request is not sent: its failure is raised (LogLines).
ACCOUNT = "usage"
UNFILTERED = frozenset({ACCOUNT, "metrics"})
# At DEBUG they tell of headers, bodies and SQL parameters.
TALKATIVE = ("httpx", "httpcore", "httpcore2", "hpack", "aiohttp", "urllib3", "django.db.backends", "django.template")
SENSITIVE = frozenset(
    {"authorization", "api_key", "token", "secret", "password", "cookie", "headers", "body", "prompt"}
)
# What a terminal or a reader of lines takes for more than text; JSON escapes the rest by itself.
CONTROL = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029]")

Event = dict[str, Any]
Render = Callable[[Event], bytes]
Processor = Callable[[Any, str, Any], Any]

_encode = msgspec.json.Encoder(enc_hook=str).encode


class Stream:
    """Where structlog's loggers write: finished lines to standard error, scrubbed, one write each."""

    scrub = Scrubber()
    _lock = threading.Lock()

    def __init__(self, name: str = "") -> None:
        self.name = name

    def msg(self, line: bytes) -> None:
        """Raises OSError for a line of the account only: what else cannot be written is lost, and harms nobody."""
        data = Stream.scrub(line) + b"\n"
        try:
            with self._lock:
                stream = getattr(sys.stderr, "buffer", None)
                if stream is None:
                    sys.stderr.write(data.decode("utf-8", "replace"))
                else:
                    stream.write(data)
                sys.stderr.flush()
        except (OSError, ValueError):  # ValueError: it is closed
            if self.name == ACCOUNT:
                raise

    log = debug = info = warning = warn = error = critical = fatal = exception = failure = err = msg


class Handler(logging.Handler):
    """The standard library's records in the same form; the only handler there is."""

    def __init__(self, render: Render) -> None:
        super().__init__()
        self.render = render
        self.stream = Stream()

    def emit(self, record: logging.LogRecord) -> None:
        try:
            event: Event = {
                "event": record.getMessage(),
                "logger": record.name,
                "level": record.levelname.lower(),
                "timestamp": _written(record.created),
            }
            if record.exc_info:
                event["exc_info"] = record.exc_info
            self.stream.msg(self.render(event))
        except Exception as error:
            # The record itself is not shown: what could not be formatted could not be looked through either.
            self.stream.msg(
                self.render({"event": "log_record_lost", "logger": record.name, "error": type(error).__name__})
            )


def configure(*, form: str, level: str = "info", scrubber: Scrubber | None = None) -> None:
    """Structlog, the root logger, warnings and uncaught exceptions; `form` is JSON or CONSOLE.

    Standard error, so that a command's standard output stays its result (`create_client_key --json`).
    """
    Stream.scrub = scrubber or Scrubber()
    last: Processor = _console() if form == CONSOLE else _json_line
    structlog.configure(
        processors=[_stamped, _without_secrets, last],
        wrapper_class=_wrapper(level),
        logger_factory=lambda *names: Stream(*names[:1]),
        cache_logger_on_first_use=form == JSON,
    )

    def render(event: Event) -> bytes:
        line: bytes = last(None, "", _without_secrets(None, "", event))
        return line

    _take_over(Handler(render), level)
    if form == JSON:
        _log_what_nobody_caught()


class Shortened:
    """Structlog's loggers without what none of our processors needs: each request's line pays for the general case."""

    _logger: Stream
    _context: Event
    _processors: list[Processor]

    def _proxy_to_logger(self, method_name: str, event: str | None = None, **fields: Any) -> None:
        self._write(method_name, {**self._context, "event": event, **fields})

    def event(self, fields: Event) -> None:
        """`info`, of fields in a dictionary of their own: passing many by name twice takes longer than writing them."""
        self._write("info", fields)

    def _write(self, method_name: str, line: Any) -> None:
        try:
            for processor in self._processors:
                line = processor(self._logger, method_name, line)
        except structlog.DropEvent:
            return
        self._logger.msg(line)


def _filtering(level: str) -> Any:
    base = structlog.make_filtering_bound_logger(level)
    return type("Logger", (Shortened, base), {} if level in ("debug", "info") else {"event": base.info})


def _wrapper(level: str) -> Any:
    """The level is for what happens to be told; what others count on is always told."""
    filtering, all_ = _filtering(level), _filtering("debug")

    def wrapper(logger: Stream, processors: Any, context: Any) -> Any:
        return (all_ if logger.name in UNFILTERED else filtering)(logger, processors, context)

    return wrapper


def configured(options: Mapping[str, Any]) -> None:
    """For Django's LOGGING_CONFIG, which comes before any application is loaded."""
    configure(form=options["form"], level=options["level"], scrubber=Scrubber(known_secrets()))


def known_secrets() -> Callable[[], tuple[bytes, ...]]:
    """What this process holds: its own secrets, and the providers' tokens of the catalog that is in force."""
    own = [settings.SECRETS.django_key, settings.GATEWAY_METRICS_TOKEN, env.place("OPENAI_PROXY_KEY")]
    own.append(settings.DATABASES["default"].get("PASSWORD") or "")
    keys = settings.GATEWAY_ENCRYPTION_KEYS
    # What KMS unwraps is not asked for to be looked for: it stands in no text of this process.
    for ring in (keys.bare if isinstance(keys, Keychain) else keys, settings.GATEWAY_KEY_PEPPERS):
        own += [base64.b64encode(key).decode() for key in ring.values()]
    seen, found = snapshot.current(), forms(own)

    def known() -> tuple[bytes, ...]:
        nonlocal seen, found
        if (catalog := snapshot.current()) is not seen:
            cards = [card for provider in catalog.providers.values() for card in provider.credentials]
            seen, found = catalog, forms([*own, *(card.secret.reveal() for card in cards)])
        return found

    return known


def _take_over(handler: Handler, level: str) -> None:
    """No logger keeps a handler of its own; their records come to the root's."""
    root = logging.getLogger()
    root.handlers[:] = [one for one in root.handlers if type(one) is not logging.StreamHandler and not _is_ours(one)]
    root.addHandler(handler)
    root.setLevel(level.upper())
    for name, logger in list(logging.Logger.manager.loggerDict.items()):
        if isinstance(logger, logging.Logger) and name.partition(".")[0] in ("django", "uvicorn", "asyncio"):
            logger.handlers.clear()
            logger.propagate = True
            logger.setLevel(logging.NOTSET)
    # Each request has its line already; uvicorn asks whether anybody would read another.
    logging.getLogger("uvicorn.access").propagate = False
    for name in TALKATIVE:
        logging.getLogger(name).setLevel(max(logging.WARNING, root.level))
    logging.raiseExceptions = False
    logging.captureWarnings(True)


def _is_ours(handler: logging.Handler) -> bool:
    return isinstance(handler, Handler)


def _log_what_nobody_caught() -> None:
    """A traceback goes the way of all lines, and not to standard error as it is."""
    log = structlog.get_logger("process")

    def hook(kind: type[BaseException], exc: BaseException, trace: TracebackType | None) -> None:
        if issubclass(kind, KeyboardInterrupt):
            return
        log.critical("uncaught_exception", exc_info=(kind, exc, trace))

    sys.excepthook = hook
    threading.excepthook = lambda args: hook(args.exc_type, args.exc_value or args.exc_type(), args.exc_traceback)
    sys.unraisablehook = lambda args: log.error("unraisable_exception", exc_info=args.exc_value)


def _stamped(logger: Any, method: str, event: Any) -> Any:
    """The level, the logger's name and the time. A processor of structlog's own for each costs every request's line."""
    event["level"] = "error" if method == "exception" else method
    event["logger"], event["timestamp"] = logger.name, _written(time.time())
    return event


def _written(at: float) -> str:
    """RFC 3339, in UTC, with microseconds."""
    seconds, rest = divmod(int(at * 1_000_000), 1_000_000)
    return f"{_written_seconds(seconds)}.{rest:06d}Z"


@lru_cache(maxsize=2)
def _written_seconds(at: int) -> str:
    return datetime.fromtimestamp(at, UTC).strftime("%Y-%m-%dT%H:%M:%S")


def _without_secrets(_: Any, __: str, event: Any) -> Any:
    """Fields that hold secrets or prompts by their name; no call of ours has them, and none shall."""
    if not SENSITIVE.isdisjoint(event):
        for name in event.keys() & SENSITIVE:
            event[name] = "***"
    return event


def _json_line(logger: Any, method: str, event: Any) -> bytes:
    if "exc_info" in event:
        event = structlog.processors.format_exc_info(logger, method, event)
    line = _encode(event)
    if line.isascii():
        return line
    return CONTROL.sub(_escaped, line.decode()).encode()


def _console() -> Processor:
    renderer = structlog.dev.ConsoleRenderer(
        # Plain: rich's tracebacks show local variables, and so tokens and prompts.
        colors=sys.stderr.isatty(),
        exception_formatter=structlog.dev.plain_traceback,
    )

    def render(logger: Any, method: str, event: Event) -> bytes:
        for name, value in event.items():
            if isinstance(value, str):
                event[name] = CONTROL.sub(_escaped, value)
        return renderer(logger, method, event).encode("utf-8", "backslashreplace")

    return render


def _escaped(match: "re.Match[str]") -> str:
    return f"\\u{ord(match[0]):04x}"
