"""Every metric that there is: its name, kind, labels and unit (pure). docs/metrics.md is compared with this file.

Values are whole numbers, so that sums are exact: microseconds, units of 1e-10 US dollars; `scale` makes them seconds
and dollars again. Labels come from the configuration or from this program, never from a client: a name that matched a
pattern counts under the pattern.
"""

from typing import Literal

import msgspec

from ledger.money import PLACES

Kind = Literal["counter", "gauge", "histogram"]
MICROS = 6


class Family(msgspec.Struct, frozen=True):
    """`scale` is the number of decimal places of a value; `bounds` are a histogram's, in its own small unit.

    `across` says how a gauge's values in several processes become one.
    """

    name: str
    kind: Kind
    help: str
    labels: tuple[str, ...] = ()
    scale: int = 0
    bounds: tuple[int, ...] = ()
    across: Literal["sum", "max"] = "sum"

    @property
    def slots(self) -> int:
        """Of a histogram: a count for each bound, one for what is above them, and the sum."""
        return len(self.bounds) + 2 if self.kind == "histogram" else 1

    @property
    def unit(self) -> str:
        """CloudWatch's name of it."""
        if self.name.endswith("_seconds"):
            return "Seconds"
        return "Bytes" if self.name.endswith("_bytes") else "None" if "dollars" in self.name else "Count"


def micros(*seconds: float) -> tuple[int, ...]:
    return tuple(round(value * 10**MICROS) for value in seconds)


ROUTE = ("alias", "provider", "model")

REQUESTS = Family(
    "gateway_requests_total",
    "counter",
    "Admitted requests that are over: as many as rows in the ledger.",
    ("endpoint", *ROUTE, "outcome"),
)
RESPONSES = Family("gateway_http_responses_total", "counter", "All answers of the API by status; 0: none.", ("code",))
ERRORS = Family(
    "gateway_errors_total",
    "counter",
    "Errors that clients were given, by their class (gateway/errors.py).",
    ("error", "alias", "provider"),
)
REFUSALS = Family(
    "gateway_refusals_total",
    "counter",
    "Requests that a limit or a budget refused: requests, tokens, budget.",
    ("reason",),
)
ATTEMPTS = Family(
    "gateway_attempts_total",
    "counter",
    "Calls to providers by their end: ok, refused, cancelled, timeout, unreachable, broken, invalid, failed.",
    ("provider", "outcome"),
)
TOKENS = Family(
    "gateway_tokens_total",
    "counter",
    "Tokens: input and output; of the input cached, of the output reasoning, of either audio.",
    (*ROUTE, "kind"),
)
COST = Family("gateway_cost_dollars_total", "counter", "What requests have cost, in US dollars.", ROUTE, PLACES)
UNPRICED = Family("gateway_unpriced_requests_total", "counter", "Requests whose cost is unknown.", ROUTE)
CACHE = Family(
    "gateway_cache_requests_total",
    "counter",
    "Requests by the cache's state: hit, miss, stale, bypass.",
    ("alias", "state"),
)
SAVED = Family(
    "gateway_cache_saved_dollars_total",
    "counter",
    "What kept answers would have cost, in dollars.",
    ("alias",),
    PLACES,
)
DURATION = Family(
    "gateway_request_duration_seconds",
    "histogram",
    "From a request's head to the end of its answer.",
    ("endpoint", "alias", "provider", "stream"),
    MICROS,
    micros(0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 20, 30, 60, 120, 300, 600),
)
FIRST_BYTE = Family(
    "gateway_time_to_first_byte_seconds",
    "histogram",
    "From a request's head to the first byte of the provider's answer.",
    ("alias", "provider"),
    MICROS,
    micros(0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60),
)
PER_TOKEN = Family(
    "gateway_time_per_output_token_seconds",
    "histogram",
    "Of streams: from the first byte to the end, divided by the tokens after the first.",
    ("alias", "provider"),
    MICROS,
    micros(0.001, 0.0025, 0.005, 0.01, 0.02, 0.03, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.5, 1),
)
OVERHEAD = Family(
    "gateway_overhead_seconds",
    "histogram",
    "Of a request's duration what was not spent on a provider.",
    ("endpoint",),
    MICROS,
    micros(0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 5),
)
OPEN = Family("gateway_open_requests", "gauge", "Admitted requests under way.")
STREAMS = Family("gateway_open_streams", "gauge", "Streams under way.")
WAITING = Family("gateway_upstream_waiting", "gauge", "Calls that wait for a free connection: the queue's depth.")
JOURNAL = Family("gateway_journal_pending_bytes", "gauge", "Bytes of the journal that are not rows yet.")
AWAY = Family("gateway_ledger_away", "gauge", "1 where the last attempt to make rows failed.", across="max")
BUFFERED = Family("gateway_buffered_bytes", "gauge", "Bytes in the buffers of all requests.")
CATALOG_AGE = Family(
    "gateway_catalog_age_seconds", "gauge", "Since the configuration was last looked at.", (), MICROS, across="max"
)
BREAKERS = Family(
    "gateway_breakers_open",
    "gauge",
    "Of a provider's credentials and models, how many are passed over because they are out of order.",
    ("provider",),
    across="max",
)
PROCESSES = Family("gateway_processes", "gauge", "Processes of the gateway that live.")

FAMILIES = (
    *(REQUESTS, RESPONSES, ERRORS, REFUSALS, ATTEMPTS, TOKENS, COST, UNPRICED, CACHE, SAVED),
    *(DURATION, FIRST_BYTE, PER_TOKEN, OVERHEAD),
    *(OPEN, STREAMS, WAITING, JOURNAL, AWAY, BUFFERED, CATALOG_AGE, BREAKERS, PROCESSES),
)
BY_NAME = {family.name: family for family in FAMILIES}
