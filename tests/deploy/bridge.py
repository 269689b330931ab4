"""What a Function URL does for clients that speak HTTP: a request becomes an event, a stream a chunked answer."""

import asyncio
import ssl
from contextlib import suppress
from typing import Self

from tests.deploy.emulator import NULS, Delivery, Emulator
from tests.deploy.requests import url_event

OURS = frozenset({"content-length", "transfer-encoding", "connection"})


class Bridge:
    """A server on 127.0.0.1 in front of the emulator; `cookies` go as their own list, as a Function URL sends them."""

    def __init__(self, emulator: Emulator, *, tls: ssl.SSLContext | None = None) -> None:
        self.emulator, self.tls = emulator, tls
        self.tasks: set[asyncio.Task[None]] = set()

    async def __aenter__(self) -> Self:
        self.server = await asyncio.start_server(self.serve, "127.0.0.1", 0, ssl=self.tls, limit=2**24)
        self.port = self.server.sockets[0].getsockname()[1]
        self.url = f"{'https' if self.tls else 'http'}://127.0.0.1:{self.port}"
        return self

    async def __aexit__(self, *exc: object) -> None:
        self.server.close()
        for task in list(self.tasks):
            task.cancel()
        await asyncio.gather(*self.tasks, return_exceptions=True)

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self.tasks.add(task)
        try:
            while True:
                first, *lines = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")[:-2]
                method, target, _ = first.split(" ")
                headers = {name.lower(): value for name, value in (line.split(": ", 1) for line in lines)}
                body = await reader.readexactly(int(headers.get("content-length", "0")))
                cookies = headers.pop("cookie", "")
                more = {"cookies": cookies.split("; ")} if cookies else {}
                delivery = self.emulator.send(url_event(target, method, headers, body, **more))
                await self.pass_on(delivery, method, writer)
        except (asyncio.IncompleteReadError, ConnectionError, asyncio.CancelledError):
            pass
        finally:
            self.tasks.discard(task)
            writer.close()
            with suppress(Exception):
                await writer.wait_closed()

    async def pass_on(self, delivery: Delivery, method: str, writer: asyncio.StreamWriter) -> None:
        sent = -1  # chunks of the body that have been passed on; the head comes before the first
        while True:
            over = delivery.over.is_set()
            if sent < 0 and NULS in delivery.raw:
                writer.write(self.head(delivery, method))
                sent = 0
            if sent >= 0 and method != "HEAD":
                for _, data in delivery.body_chunks[sent:]:
                    writer.write(b"%x\r\n%b\r\n" % (len(data), data))
                    sent += 1
            if over:
                break
            await writer.drain()
            await asyncio.sleep(0.002)
        if method != "HEAD" and delivery.status not in (204, 304):
            writer.write(b"0\r\n\r\n")
        await writer.drain()

    def head(self, delivery: Delivery, method: str) -> bytes:
        fields = [(name, value) for name, value in delivery.answer["headers"].items() if name not in OURS]
        fields += [("set-cookie", value) for value in delivery.answer.get("cookies", [])]
        if method != "HEAD" and delivery.status not in (204, 304):
            fields.append(("transfer-encoding", "chunked"))
        lines = [f"HTTP/1.1 {delivery.status} Bridged", *(f"{name}: {value}" for name, value in fields)]
        return "\r\n".join([*lines, "", ""]).encode("latin-1")
