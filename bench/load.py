"""The load: raw sockets on uvloop in a process of its own; it prints what it saw as one JSON object.

python -m bench.load PORT KEY --connections 32 --seconds 3 [--gap MS]     requests back to back, JSON without --gap
python -m bench.load PORT KEY --connections 1000 --once --gap 200         one stream each; prints `open` when all flow
"""

import argparse
import asyncio
import json
import resource
import time
from typing import cast

import uvloop

from bench.upstream import CHUNKS

EVENTS = CHUNKS + 1  # and [DONE]; the usage chunk is for those who ask for it, and the load does not


def request(key: str, gap: int | None, kind: str = "") -> bytes:
    """The bytes of one request; `gap` None asks for a JSON completion, `kind` for a stream that has to be mended."""
    messages = [
        {"role": "system", "content": "You are a helpful assistant."},
        {"role": "user", "content": "Say something about the quick brown fox, please. " * 4},
    ]
    fields = {"model": f"bench/{kind and kind + '-'}gap-{gap or 0}", "messages": messages, "temperature": 0.5}
    body = json.dumps(fields if gap is None else fields | {"stream": True}).encode()
    head = (
        "POST /v1/chat/completions HTTP/1.1\r\nhost: 127.0.0.1\r\ncontent-type: application/json\r\n"
        f"authorization: Bearer {key}\r\nuser-agent: bench\r\naccept: */*\r\ncontent-length: {len(body)}\r\n\r\n"
    )
    return head.encode() + body


class Tally:
    """What all connections saw: requests sent, seconds of each good answer, and every bad one by its kind."""

    def __init__(self, *, deadline: float) -> None:
        self.deadline = deadline
        self.sent = 0
        self.flowing = 0
        self.latencies: list[float] = []
        self.bad: dict[str, int] = {}

    def fault(self, kind: str) -> None:
        self.bad[kind] = self.bad.get(kind, 0) + 1


class Client(asyncio.Protocol):
    """One connection that asks, reads the answer to its end, checks it, and asks again until the deadline."""

    transport: asyncio.Transport

    def __init__(self, payload: bytes, tally: Tally, *, streaming: bool, kind: str) -> None:
        self.payload, self.tally, self.streaming, self.kind = payload, tally, streaming, kind
        self.done = asyncio.get_running_loop().create_future()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast("asyncio.Transport", transport)  # uvloop's own class is not derived from it
        self.ask()

    def ask(self) -> None:
        self.parts: list[bytes] = []
        self.tail = b""
        self.length: int | None = None
        self.size = 0
        self.tally.sent += 1
        self.began = time.perf_counter()
        self.transport.write(self.payload)

    def data_received(self, data: bytes) -> None:
        if not self.parts:
            self.tally.flowing += 1
            end = data.find(b"\r\n\r\n")
            head = data[:end].lower()
            at = head.find(b"content-length:")
            self.length = None if at < 0 else end + 4 + int(head[at + 15 :].split(b"\r\n", 1)[0])
        self.parts.append(data)
        self.size += len(data)
        self.tail = (self.tail + data)[-5:]
        if self.size == self.length if self.length is not None else self.tail == b"0\r\n\r\n":
            self.answered()

    def answered(self) -> None:
        now = time.perf_counter()
        answer = b"".join(self.parts)
        if not answer.startswith(b"HTTP/1.1 200 "):
            self.tally.fault(answer[:12].decode("latin-1"))
        elif self.streaming and answer.count(b"data: ") != EVENTS:
            self.tally.fault(f"{answer.count(b'data: ')} events")
        elif self.kind == "index" and answer.count(b'"tool_calls":[{"index":0,') != CHUNKS - 1:
            self.tally.fault("calls without their index")
        elif self.kind == "usage" and b'"usage"' in answer:
            self.tally.fault("usage that nobody asked for")
        elif not self.streaming and b'"finish_reason":"stop"' not in answer:
            self.tally.fault("no completion")
        else:
            self.tally.latencies.append(now - self.began)
        if now < self.tally.deadline:
            self.ask()
        else:
            self.transport.close()

    def connection_lost(self, exc: Exception | None) -> None:
        if time.perf_counter() < self.tally.deadline or not self.tail:
            self.tally.fault("connection lost")
        if not self.done.done():
            self.done.set_result(None)


async def run(options: argparse.Namespace) -> Tally:
    """Open the connections, a hundred at a time, and wait until each has read its last answer."""
    loop = asyncio.get_running_loop()
    tally = Tally(deadline=time.perf_counter() + (0 if options.once else options.seconds))
    payload = request(options.key, options.gap, options.kind)
    clients: list[Client] = []

    def connection() -> Client:
        clients.append(Client(payload, tally, streaming=options.gap is not None, kind=options.kind))
        return clients[-1]

    while len(clients) < options.connections:
        room = min(100, options.connections - len(clients))
        await asyncio.gather(*(loop.create_connection(connection, "127.0.0.1", options.port) for _ in range(room)))
    async with asyncio.timeout(60 + options.seconds):
        while options.once and tally.flowing < len(clients) and not tally.bad:
            await asyncio.sleep(0.05)
        if options.once:
            print("open", flush=True)
        await asyncio.gather(*(client.done for client in clients))
    return tally


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("port", type=int)
    parser.add_argument("key")
    parser.add_argument("--connections", type=int, required=True)
    parser.add_argument("--seconds", type=float, default=0.0)
    parser.add_argument("--gap", type=int)
    parser.add_argument("--once", action="store_true")
    parser.add_argument("--kind", default="", help="of a stream whose every chunk has to be mended: index, usage")
    options = parser.parse_args()
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    began = time.perf_counter()
    tally = uvloop.run(run(options))
    took = time.perf_counter() - began
    latencies = sorted(tally.latencies)
    print(
        json.dumps(
            {
                "sent": tally.sent,
                "good": len(latencies),
                "seconds": took,
                "p50_ms": 1000 * latencies[len(latencies) // 2] if latencies else 0.0,
                "p99_ms": 1000 * latencies[len(latencies) * 99 // 100] if latencies else 0.0,
                "bad": tally.bad,
            }
        )
    )


if __name__ == "__main__":
    main()
