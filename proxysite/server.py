"""uvicorn with our protocol at the socket and a bounded drain at SIGTERM, in one process or several."""

import asyncio
import contextlib
import logging
import os
import resource
import signal
import time
from collections.abc import Generator
from pathlib import Path
from socket import AF_INET, AF_INET6, IPPROTO_TCP, TCP_NOTSENT_LOWAT, socket
from types import FrameType
from typing import Any, Protocol

from uvicorn import Config, Server
from uvicorn.config import STARTUP_FAILURE
from uvicorn.supervisors import multiprocess
from uvicorn.supervisors.statreload import StatReload

from proxysite.protocol import GatewayProtocol, ServingState

logger = logging.getLogger("uvicorn.error")
APPLICATION = "proxysite.asgi:application"
# A descriptor for the client, one for the provider, and some left for files and the database.
DESCRIPTORS_PER_CONNECTION = 2
MAX_CONNECTIONS = 8192
UNSENT_BYTES = 131_072  # of a connection, that the kernel takes before the client's window has room for them


class Drainable(Protocol):
    """What an application may leave in the lifespan's state as `engine`."""

    def begin_drain(self) -> None: ...

    async def end_streams(self) -> None: ...


class ServingConfig(Config):
    """uvicorn's configuration, and when a drain does what; a worker gets it by its spawning."""

    streams: float
    drain: float


class GatewayServer(Server):
    """A server that ends in bounded time. All times are seconds after the first SIGTERM or SIGINT.

    At once: the application is told to refuse new work, idle connections close. The listener stays open in a single
    process, so that a load balancer that has not noticed yet is answered with a 503 and not refused; a worker among
    others closes it, so that its siblings take what comes. Until `streams`: answers under way go on. Then the
    application ends its streams. At `drain`: what is left is cancelled. A second signal jumps there.
    """

    # For the application's own stop, after the drain.
    stop = 3.0

    def __init__(self, config: ServingConfig) -> None:
        super().__init__(config)
        self.streams, self.drain = config.streams, config.drain
        self.server_state = ServingState()
        self.serving = self.server_state
        self.parent = os.getppid() if config.workers > 1 else None

    async def startup(self, sockets: list[socket] | None = None) -> None:
        await super().startup(sockets)
        for server in self.servers:
            for listening in server.sockets:
                if listening.family in (AF_INET, AF_INET6):
                    # Accepted connections inherit it. Else the kernel takes 4 MiB for a client that does not read.
                    listening.setsockopt(IPPROTO_TCP, TCP_NOTSENT_LOWAT, UNSENT_BYTES)

    @contextlib.contextmanager
    def capture_signals(self) -> Generator[None, None, None]:
        """As uvicorn's, but a signal that was obeyed is not raised again: the process ends with 0."""
        if self.parent is not None:
            # Control-C goes to the whole group; the parent answers it with a SIGTERM to each worker.
            signal.signal(signal.SIGINT, signal.SIG_IGN)
            taken = [signal.SIGTERM]
        else:
            taken = [signal.SIGTERM, signal.SIGINT]
        before = {number: signal.signal(number, self.handle_exit) for number in taken}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        if self.should_exit:
            self.force_exit = True
        self.should_exit = True

    async def on_tick(self, counter: int) -> bool:
        if self.parent is not None and os.getppid() != self.parent:
            logger.error("The supervising process is gone; this worker ends too.")
            self.should_exit = True
        return await super().on_tick(counter)

    async def shutdown(self, sockets: list[socket] | None = None) -> None:
        began = time.monotonic()
        engine: Drainable | None = self.lifespan.state.get("engine")
        self.serving.draining = True
        if engine is not None:
            engine.begin_drain()
        logger.info("Draining: %d requests under way.", len(self.serving.tasks))
        if self.config.workers > 1:
            self.close_listeners(sockets)
        for connection in list(self.serving.connections):
            if isinstance(connection, GatewayProtocol):
                connection.drain()
        await self.idle(until=began + self.streams)
        if self.serving.tasks and engine is not None and not self.force_exit:
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(engine.end_streams(), self.drain - self.streams)
        await self.idle(until=began + self.drain)
        self.close_listeners(sockets)
        await self.cut_off()
        await self.end_lifespan()

    async def idle(self, *, until: float) -> None:
        """Until no request is under way, the time has come, or a second signal."""
        # Polled, as uvicorn does: an event would cost each request, and this runs once.
        while self.serving.tasks and not self.force_exit and time.monotonic() < until:  # noqa: ASYNC110
            await asyncio.sleep(min(0.05, max(0.0, until - time.monotonic())))

    def close_listeners(self, sockets: list[socket] | None) -> None:
        for server in self.servers:
            server.close()
        for listening in sockets or []:
            listening.close()

    async def cut_off(self) -> None:
        """Cancel what is left, let the last bytes out for at most a second, and close every connection."""
        if self.serving.tasks:
            logger.error("Cancelling %d requests at the end of the drain.", len(self.serving.tasks))
        for task in list(self.serving.tasks):
            task.cancel()
        for connection in list(self.serving.connections):
            connection.shutdown()
        until = time.monotonic() + 1.0
        while (self.serving.tasks or self.serving.connections) and time.monotonic() < until:  # noqa: ASYNC110
            await asyncio.sleep(0.01)
        for connection in list(self.serving.connections):
            connection.transport.abort()

    async def end_lifespan(self) -> None:
        try:
            await asyncio.wait_for(self.lifespan.shutdown(), 1.0 if self.force_exit else self.stop)
        except TimeoutError:
            logger.error("The application did not stop in time; what it keeps in its journal is taken up later.")


class Worker(multiprocess.Process):
    """One supervised process, with our server in it."""

    config: ServingConfig

    @property
    def server(self) -> Server:
        if self._server is None:
            self._server = GatewayServer(self.config)
        return self._server


class Supervisor(multiprocess.Multiprocess):
    """uvicorn's supervisor, with an end that is bounded and a second signal that is passed on."""

    patience = 36.0

    def terminate_all(self) -> None:
        # The workers hold their own copies: without this one, the last of them to close refuses what comes.
        for listening in self.sockets:
            listening.close()
        super().terminate_all()

    def join_all(self) -> None:
        self.signal_queue.clear()
        until = time.monotonic() + self.patience
        waiting = [process.process for process in self.processes]
        while any(process.is_alive() for process in waiting):
            time.sleep(0.05)
            if time.monotonic() > until:
                for process in waiting:
                    process.kill()
            if self.signal_queue:
                self.signal_queue.clear()
                for process in waiting:
                    process.terminate()

    @property
    def failed(self) -> bool:
        return any(process.exitcode == STARTUP_FAILURE for process in self.processes)


# uvicorn names the class in five places and takes no other as an argument.
setattr(multiprocess, "Process", Worker)  # noqa: B010


def descriptors() -> int:
    """Raise the soft limit of open files to the hard one, and give it."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard == resource.RLIM_INFINITY:
        hard = max(soft, 65_536)
    with contextlib.suppress(OSError, ValueError):
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
        soft = hard
    return soft


def configuration(
    app: Any = APPLICATION, *, streams: float = 28.0, drain: float = 30.0, **options: Any
) -> ServingConfig:
    """What both servers run with: our protocol, no WebSocket, no trust in forwarded headers, no log line a request."""
    connections = min(MAX_CONNECTIONS, max(64, (descriptors() - 64) // DESCRIPTORS_PER_CONNECTION))
    defaults: dict[str, Any] = {
        "http": GatewayProtocol,
        "loop": "uvloop",
        "ws": "none",
        "lifespan": "on",
        "interface": "asgi3",
        "proxy_headers": False,
        "server_header": False,
        "access_log": False,
        "log_config": None,
        "limit_concurrency": connections,
        # Longer than the idle time of common clients and load balancers (60 s), so that they close first.
        "timeout_keep_alive": 75,
        "workers": 1,
    }
    config = ServingConfig(app, **{**defaults, **options})
    config.streams, config.drain = streams, drain
    return config


def serve(config: ServingConfig) -> int:
    """Run until a signal ends it; the process's exit status."""
    if config.workers == 1:
        server = GatewayServer(config)
        server.run()
        return 0 if server.started else STARTUP_FAILURE
    supervisor = Supervisor(config, sockets=[config.bind_socket()])
    supervisor.run()
    return STARTUP_FAILURE if supervisor.failed else 0


def develop(config: ServingConfig, folders: list[Path]) -> int:
    """As `serve`, in one process that starts again when a .py file in `folders` changes."""
    server = GatewayServer(config)
    if not folders:
        server.run()
        return 0 if server.started else STARTUP_FAILURE
    config.reload_dirs = folders
    StatReload(config, target=server.run, sockets=[config.bind_socket()]).run()
    return 0
