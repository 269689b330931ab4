"""The background of one process: the catalog's refresh, the journal's drain, the tick; started by lifespan.

All SQL of the gateway's process runs on one thread, one job at a time; the event loop reads memory only.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import structlog
from django.conf import settings

from gateway import idempotency, trials
from gateway.alerts import Channels, Herald, velocity
from gateway.caching.opening import open_cache
from gateway.credentials.desk import Desk
from gateway.errands import embed
from gateway.errors import BLOCKED, EndUserBlocked, KeyCompromised, LedgerUnavailable, Overloaded, StreamInterrupted
from gateway.limits.limiter import BEAT, Limiter
from gateway.observing import Observer
from gateway.pauses import Pauses
from gateway.process import Process
from gateway.routing.stickies import Stickies
from gateway.sqlthread import SqlThread, close_connections, paced
from gateway.upstream.client import Upstream
from ledger import openrows
from ledger.budgets import Budgets
from ledger.entries import Opened
from ledger.journal import Journal
from ledger.loglines import LogLines
from ledger.ownprices import OwnPrices
from ledger.pricebook import PriceBook
from providers import catalog, snapshot
from providers.addresses import AddressPolicy

log = structlog.get_logger("gateway")

T = TypeVar("T")

TICK = 0.25
REFRESH = 1.0
DRAIN = 0.25
DRAIN_LINES = 500
ADOPT = 5.0
ALERT = 2.0
LOSE = 60.0
IDLE = 15.0  # seconds of a pause after which connections to providers are not trusted; the wire's own idle time
SQL_IDLE = 240.0  # the same for the database's, below the 350 s of the usual address translation


class Engine:
    """One a process. `running()` starts it where no lifespan did, as under a server with lifespan off.

    `freezes`: the process may be frozen between requests, and killed so, with its disk. Each request's row is committed
    before the provider is called, then, and nothing is held for the next one. `stateless`: there is no database; the
    configuration is the environment's, the account goes to the log.
    """

    def __init__(self, data_dir: Path | None = None, *, freezes: bool = False, stateless: bool = False) -> None:
        self.data_dir = data_dir
        self.freezes = freezes
        self.durable_open = freezes and not stateless
        self.stateless = stateless
        self.reader = catalog.Reader(database=not stateless)
        self.ready = False
        self.draining = False
        self.process: Process | None = None
        self.journal: Journal | LogLines | None = None
        self.pauses = Pauses()
        self.observer = Observer()
        self._sql: SqlThread | None = None
        self._tasks: list[asyncio.Task[None]] = []
        self._starting: asyncio.Lock | None = None
        self._drained_at = float("-inf")  # all that was settled before has its row
        self._failing: set[str] = set()
        self.desk = Desk(self._sql_soon, self.sql, self._upstream, stateless=stateless)
        self._at_work = 0  # background jobs under way
        self._at_rest = asyncio.Event()

    async def running(self) -> Process:
        if self.process is None:
            lock = self._starting = self._starting or asyncio.Lock()
            async with lock:
                if self.process is None:
                    try:
                        await self.start()
                    except BaseException:
                        await self.stop()  # half a start serves nobody: the next request tries it anew
                        self._starting = lock  # those who wait are let in one after the other
                        raise
        assert self.process is not None
        return self.process

    async def start(self, upstream: Upstream | None = None) -> None:
        """Load the catalog, open the journal, adopt what dead processes left, begin to tick."""
        self._sql = SqlThread()
        await self.sql(self._sql.keep_connection)
        await self.sql(self.reader.load)
        self.pauses.looked()
        self.journal = self._open_journal()
        policy = AddressPolicy(settings.GATEWAY_PRIVATE_UPSTREAMS, development=settings.DEVELOPMENT)
        clock = self.pauses.clock if self.freezes else asyncio.get_running_loop().time
        run = self.sql if self.freezes else partial(self.sql, paced)
        key_ids = settings.GATEWAY_ENCRYPTION_KEYS
        self.limiter = Limiter(clock, run, settings.REDIS_URL, together=self.durable_open, key_ids=key_ids)
        prices, budgets = PriceBook(), None  # without a database: only the built-in prices, and no budgets
        if not self.stateless:
            await self._join()
            prices = PriceBook(OwnPrices())
            budgets = Budgets(self.sql, clock, wait=self._sql.patience, by_request=self.freezes)
        self.process = Process(
            upstream or Upstream(policy), self.journal, clock, self.limiter, prices, budgets, self._sql.run_soon
        )
        self.process.disk.directory = self.data_dir or Path(settings.DATA_DIR)
        self.process.cache = open_cache(self.process, embed)
        if not self.stateless:
            self.process.stickies = Stickies(self.sql)
        if self.durable_open:
            self.process.commit_open = self._commit_open
        lasting = None if self.freezes else self.process.disk.directory
        self.observer.begin(self.process, self.journal, lasting)
        self._herald = Herald(self.process, self.sql, _channels(), time.time)
        await self._price()
        self._tasks = [
            asyncio.create_task(self._every(TICK, self._tick)),
            asyncio.create_task(self._every(REFRESH, self._refresh)),
            asyncio.create_task(self._every(DRAIN, self._drain)),
            asyncio.create_task(self._every(ADOPT, self._adopt)),
            asyncio.create_task(self._every(BEAT, self._beat)),
            asyncio.create_task(self._every(TICK, self._tend)),
            asyncio.create_task(self._every(REFRESH, self._price)),
            asyncio.create_task(self._every(ALERT, self._alert)),
            asyncio.create_task(self._every(REFRESH, self._try_out)),
            asyncio.create_task(self._every(idempotency.BEAT, self._keep_keyed)),
            asyncio.create_task(self._every(REFRESH, self.observer.look)),
            asyncio.create_task(self._every(REFRESH, self._keep)),
            asyncio.create_task(self._every(REFRESH, self._export)),
        ]
        if self.durable_open:
            self._tasks.append(asyncio.create_task(self._every(LOSE, self._lose)))
        self.draining, self.ready = False, True

    async def _join(self) -> None:
        try:
            await self.limiter.join()
        except Exception as error:  # the next beat finds the others; a server starts without its database too
            log.warning("limits_not_shared_yet", error=type(error).__name__)

    def _open_journal(self) -> Journal | LogLines:
        if self.stateless:
            return LogLines()
        directory = (self.data_dir or Path(settings.DATA_DIR)) / "journal"
        return Journal(directory, store=openrows.store_each) if self.durable_open else Journal(directory)

    async def stop(self) -> None:
        """Stop ticking, drain the journal, close the connections."""
        self.ready = False
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self.desk.close()
        if self.process is not None and self.journal is not None and self._sql is not None:
            await self.process.upstream.aclose()
            self.process.disk.close()
            try:
                while await self.sql(self.journal.drain, DRAIN_LINES):
                    pass
                await self.process.stickies.close()
                await self.process.cache.close()
                await self.observer.keep()
                if self.process.budgets is not None:
                    await self.process.budgets.close()
                if not self.stateless:
                    await self.limiter.leave()
            except Exception:
                log.exception("last_drain_failed")
            self.journal.close()
            await self.observer.end()
        if self._sql is not None:
            await self.sql(close_connections)
            self._sql.shutdown()
        self.process, self.journal, self._sql, self._tasks, self._starting = None, None, None, [], None

    # --- what requests ask for ---------------------------------------------------------------------------------------

    def _upstream(self) -> Upstream:
        assert self.process is not None
        return self.process.upstream

    async def _sql_soon(self, job: Callable[..., T], *args: object) -> T:
        """The same for a request that can only wait so long; raises Overloaded."""
        assert self._sql is not None
        return await self._sql.run_soon(job, *args)

    async def sql(self, job: Callable[..., T], *args: object) -> T:
        """Run one job on the process's SQL thread."""
        assert self._sql is not None
        return await self._sql.run(job, *args)

    # --- draining for a stop -----------------------------------------------------------------------------------------

    def begin_drain(self) -> None:
        """Not ready, no new work; what is under way goes on."""
        self.ready, self.draining = False, True

    async def end_streams(self) -> None:
        """End what is still open with an error event (or a 503 where no byte has gone out)."""
        if self.process is None:
            return
        for receipt in list(self.process.receipts):
            receipt.interrupt(StreamInterrupted("The gateway is shutting down.", sent=True))
        for _ in range(100):
            if not self.process.receipts:
                return
            await asyncio.sleep(0.01)

    # --- between requests, where the environment lies frozen (AWS Lambda) --------------------------------------------

    async def thaw(self) -> None:
        """Before a request: drop the connections that may have died unseen, look at a catalog older than 1 s."""
        process = await self.running()
        pause = self.pauses.begin()
        if pause > IDLE:
            await process.upstream.aclose()
        if pause > SQL_IDLE:
            await self.sql(close_connections)
        if self.pauses.stale():
            self.pauses.looked()
            assert self._sql is not None
            with suppress(Overloaded):  # which is logged: the last good catalog stays
                await self._sql.run_soon(self.reader.refresh)

    async def flush(self) -> None:
        """After a response: its row. From here to the next `thaw` nothing is begun that a freeze could cut in two."""
        assert self.journal is not None
        assert self.process is not None
        self.pauses.end()
        while self.pauses.resting and self._at_work:
            self._at_rest.clear()
            await self._at_rest.wait()
        await self._without_noise("telemetry", self.observer.flush())
        await self._without_noise("captured payloads", self.observer.keep())
        while self.journal.pending and await self.sql(self.journal.drain, DRAIN_LINES):
            pass
        if self.pauses.resting:
            await self.limiter.rest()
            if self.process.budgets is not None:
                await self.process.budgets.rest()

    def time_is_up(self, task: "asyncio.Task[Any]") -> None:
        """The request of that task ends now, with an error event or a 503 in its place."""
        for receipt in list(self.process.receipts if self.process is not None else ()):
            if receipt.runs_in(task):
                receipt.interrupt(StreamInterrupted("The time that one request may take here is over.", sent=True))

    async def _commit_open(self, entry: Opened) -> None:
        assert self._sql is not None
        try:
            await self._sql.run_soon(openrows.commit, entry)
        except Overloaded as exc:
            raise LedgerUnavailable("The request cannot be recorded now, so it is not sent.", retry_after=5) from exc

    # --- the background ----------------------------------------------------------------------------------------------

    async def _every(self, seconds: float, job: Callable[[], object]) -> None:
        while True:
            if not self.pauses.resting:
                await self._do(job)
            await asyncio.sleep(seconds)

    async def _do(self, job: Callable[[], object]) -> None:
        self._at_work += 1
        try:
            result = job()
            if asyncio.iscoroutine(result):
                await result
        except Exception:
            log.exception("background_job_failed", job=job.__name__)
        finally:
            self._at_work -= 1
            if not self._at_work:
                self._at_rest.set()

    def _tick(self) -> None:
        assert self.process is not None
        now, config = self.process.clock(), snapshot.current()
        for receipt in list(self.process.receipts):
            receipt.tick(now)
            if config.compromised and receipt.key_id in config.compromised:
                receipt.revoke(KeyCompromised("This API key has been revoked."))
            if config.end_users and config.refuses(*receipt.user):
                receipt.revoke(EndUserBlocked(BLOCKED))
        self.limiter.tick()
        if self._sql is not None:
            self._sql.tick()

    async def _refresh(self) -> None:
        self.pauses.looked()
        await self.sql(self.reader.refresh)

    async def _drain(self) -> None:
        journal = self.journal
        assert journal is not None
        assert self.process is not None
        began = self.process.clock()
        if journal.pending:
            while await self.sql(paced, journal.drain, DRAIN_LINES) >= DRAIN_LINES:
                pass
        if not journal.away:
            self._drained_at = began

    async def _tend(self) -> None:
        assert self.process is not None
        budgets = self.process.budgets
        if budgets is not None:
            await self._without_noise("budgets", budgets.tend(self._drained_at))
        if not self.pauses.resting:
            await self._without_noise("cache", self.process.cache.tend())

    async def _beat(self) -> None:
        if not self.stateless:
            await self._without_noise("limits", self.limiter.beat())

    async def _price(self) -> None:
        assert self.process is not None
        await self._without_noise("prices", self.sql(self.process.prices.refresh, snapshot.current()))

    async def _alert(self) -> None:
        if not self.stateless:
            await self._without_noise("alerts", self._herald.tell())

    async def _try_out(self) -> None:
        assert self.process is not None
        if self.process.breakers.open and not self.pauses.resting:
            await trials.look(self.process)

    async def _keep_keyed(self) -> None:
        assert self.process is not None
        if not self.stateless and not self.pauses.resting:
            await self._without_noise("idempotency", idempotency.tend(self.process))

    async def _without_noise(self, name: str, job: Awaitable[object]) -> None:
        """What fails every second while the database is away is said once."""
        try:
            await job
        except Exception as error:
            if name not in self._failing:
                self._failing.add(name)
                log.warning("background_job_failed", job=name, error=type(error).__name__)
        else:
            self._failing.discard(name)

    async def _keep(self) -> None:
        if not self.pauses.resting:
            await self._without_noise("captured payloads", self.observer.keep())

    async def _export(self) -> None:
        if not self.pauses.resting:
            await self._without_noise("telemetry", self.observer.export())

    async def _adopt(self) -> None:
        assert self.journal is not None
        # A part at a time: what requests wait for comes in between.
        while await self.sql(paced, self.journal.adopt, DRAIN_LINES):
            pass
        await self.sql(self.observer.adopt)

    async def _lose(self) -> None:
        await self.sql(paced, openrows.lose)


def _channels() -> Channels:
    return Channels(
        settings.GATEWAY_ALERT_WEBHOOK, settings.GATEWAY_ALERT_EMAILS, velocity(settings.GATEWAY_ALERT_VELOCITY)
    )


engine = Engine(freezes=settings.ON_LAMBDA, stateless=settings.GATEWAY_STATELESS)
