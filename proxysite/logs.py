"""Structured logs on standard error: one JSON object a line in production, readable lines in development."""

import sys
from typing import Any

import msgspec
import structlog

_encoder = msgspec.json.Encoder(enc_hook=str)


def _json_line(_: Any, __: str, event: "structlog.typing.EventDict") -> bytes:
    return _encoder.encode(event)


def configure(*, readable: bool) -> None:
    """Standard error, so that a command's standard output stays its result (`create_client_key --json`)."""
    shared: list[structlog.typing.Processor] = [
        structlog.processors.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
    ]
    if readable:
        structlog.configure(
            processors=[
                *shared,
                # Plain: rich's tracebacks show local variables, and so tokens and prompts.
                structlog.dev.ConsoleRenderer(
                    colors=sys.stderr.isatty(), exception_formatter=structlog.dev.plain_traceback
                ),
            ],
            logger_factory=structlog.PrintLoggerFactory(sys.stderr),
            cache_logger_on_first_use=False,
        )
    else:
        structlog.configure(
            processors=[*shared, structlog.processors.format_exc_info, _json_line],
            wrapper_class=structlog.make_filtering_bound_logger("info"),
            logger_factory=structlog.BytesLoggerFactory(sys.stderr.buffer),
            cache_logger_on_first_use=True,
        )
