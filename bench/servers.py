"""The servers of a run, each pinned to one core, with what the kernel knows of their time and memory."""

import base64
import json
import os
import secrets
import shutil
import socket
import sqlite3
import subprocess
import sys
import time
from collections.abc import Mapping
from contextlib import closing
from dataclasses import dataclass, field
from decimal import Decimal
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
TICKS = os.sysconf("SC_CLK_TCK")
PAGE = os.sysconf("SC_PAGE_SIZE")
UPSTREAM_KEY = "sk-upstream-of-the-benchmark"

NGINX = """
daemon off;
worker_processes 1;
worker_rlimit_nofile 16384;
pid {place}/nginx.pid;
error_log stderr error;
events {{ worker_connections 8192; }}
http {{
    access_log off;
    client_body_temp_path {place}/body;
    proxy_temp_path {place}/proxy;
    fastcgi_temp_path {place}/fastcgi;
    uwsgi_temp_path {place}/uwsgi;
    scgi_temp_path {place}/scgi;
    upstream provider {{ server 127.0.0.1:{upstream}; keepalive 1024; }}
    server {{
        listen 127.0.0.1:{port} backlog=2048;
        keepalive_requests 100000000;
        location / {{
            proxy_pass http://provider;
            proxy_http_version 1.1;
            proxy_buffering off;
            proxy_set_header Connection "";
            proxy_set_header Authorization "Bearer {key}";
        }}
    }}
}}
"""

CONFIGURATION = """
providers:
  bench: {{dialect: openai, base_url: "http://127.0.0.1:{upstream}/v1", credentials: {{main: env:BENCH_KEY}}}}
aliases:
  "bench/*": {{routes: [{{provider: bench}}]}}
"""
# What the full rows have: all that a key can be bound by, and so much of each that nothing of the load is refused.
ALL_ON = {
    "--alias": "bench/*",
    "--endpoint": "chat.completions",
    "--cidr": "127.0.0.0/8",
    "--max-tokens": "4096",
    "--max-n": "4",
    "--expires": "30d",
    "--rpm": "600000",
    "--tpm": "2000000000",
    "--concurrency": "10000",
    "--budget": "1000000/month,10000000/total",
    "--unknown-price": "block",
}
PRICE = """
from ledger.models import PriceRow
PriceRow.objects.create(model="gap-*", input="0.15", output="0.60", cached="0.075", request="0.001")
"""
COST = Decimal("0.001033")  # of each request of the load: 20 tokens in, 50 out


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port: int = listener.getsockname()[1]
        return port


@dataclass
class Server:
    """A started server; `sent` counts the requests that it was given."""

    name: str
    port: int
    process: subprocess.Popen[bytes]
    key: str = "sk-none"
    database: Path | None = None
    sent: int = field(default=0)
    companion: "Server | None" = None  # another gateway on its database, idle

    def family(self) -> list[int]:
        """The process and all that it started."""
        found, open_ = [], [self.process.pid]
        while open_:
            pid = open_.pop()
            found.append(pid)
            for children in Path(f"/proc/{pid}/task").glob("*/children"):
                open_.extend(map(int, children.read_text().split()))
        return found

    def cpu_seconds(self) -> float:
        """User and system time, ended children included; https://man7.org/linux/man-pages/man5/proc_pid_stat.5.html"""
        total = 0
        for pid in self.family():
            fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
            total += sum(map(int, fields[11:15]))
        return total / TICKS

    def rss_bytes(self) -> int:
        return sum(int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * PAGE for pid in self.family())

    def settle(self, limit: float = 8.0) -> None:
        """Wait until the server has nothing left to do, such as writing its ledger, for `limit` seconds at most."""
        end = time.monotonic() + limit
        before = self.cpu_seconds()
        while time.monotonic() < end:
            time.sleep(0.4)
            now = self.cpu_seconds()
            if now - before <= 0.02:
                return
            before = now

    def wait_until_it_listens(self) -> None:
        end = time.monotonic() + 30
        while time.monotonic() < end:
            if self.process.poll() is not None:
                raise RuntimeError(f"{self.name} ended with {self.process.returncode}")
            try:
                socket.create_connection(("127.0.0.1", self.port), timeout=1).close()
            except OSError:
                time.sleep(0.05)
            else:
                return
        raise RuntimeError(f"{self.name} does not listen")

    def wait_until_it_counts(self) -> None:
        """Until it knows of its companion, and counts limits with it."""
        if self.companion is None:
            return
        end = time.monotonic() + 30
        while self.asked("SELECT count(*) FROM gateway_gatewayprocess WHERE mode = 'sql'") != 2:
            if time.monotonic() > end:
                raise RuntimeError(f"{self.name} does not count together with another")
            time.sleep(0.1)

    def stop(self) -> None:
        if self.companion is not None:
            self.companion.stop()
        self.process.terminate()
        try:
            self.process.wait(40)
        except subprocess.TimeoutExpired:
            self.process.kill()

    def ledger_rows(self) -> int:
        """How many requests the ledger has, once the server has stopped."""
        return int(self.asked("SELECT count(*) FROM ledger_usagerecord"))

    def cost(self) -> Decimal:
        """What the ledger says that all of it cost, in US dollars."""
        return Decimal(self.asked("SELECT coalesce(sum(cost), 0) FROM ledger_usagerecord")) / 10**10

    def asked(self, statement: str) -> int:
        """The one whole number that its database answers with."""
        assert self.database is not None
        with closing(sqlite3.connect(self.database)) as connection:
            number: int = connection.execute(statement).fetchone()[0]
        return number


def pinned(command: list[str], core: int, **options: object) -> subprocess.Popen[bytes]:
    return subprocess.Popen(["taskset", "-c", str(core), *command], cwd=ROOT, **options)  # type: ignore[call-overload, no-any-return]


def start_upstream(core: int) -> Server:
    port = free_port()
    return Server("upstream", port, pinned([sys.executable, "-m", "bench.upstream", str(port)], core))


def start_bare(core: int, upstream: int) -> Server:
    port = free_port()
    command = [sys.executable, "-m", "bench.bare", str(port), f"http://127.0.0.1:{upstream}"]
    return Server("no framework", port, pinned(command, core))


def start_nginx(core: int, upstream: int, place: Path) -> Server | None:
    """None on a machine without nginx."""
    program = shutil.which("nginx", path=os.environ.get("PATH", "") + ":/usr/sbin")
    if program is None:
        return None
    port = free_port()
    config = place / "nginx.conf"
    text = NGINX.format(place=place, upstream=upstream, port=port, key=UPSTREAM_KEY)
    # Started as root its worker would become another user, who may not write here.
    config.write_text(("user root;" if os.getuid() == 0 else "") + text)
    return Server("nginx", port, pinned([program, "-p", str(place), "-c", str(config)], core))


class Site:
    """A migrated SQLite database in `place`, with one provider from a configuration file, and its secrets."""

    def __init__(self, core: int, upstream: int, place: Path, **more: str) -> None:
        place.mkdir(exist_ok=True)
        config = place / "gateway.yaml"
        config.write_text(CONFIGURATION.format(upstream=upstream))
        self.core = core
        self.place = place
        self.database = place / "gateway.sqlite3"
        self.environment = {
            "PATH": os.environ["PATH"],
            "DJANGO_SECRET_KEY": secrets.token_urlsafe(50),
            "GATEWAY_ENCRYPTION_KEYS": "k1:" + base64.b64encode(secrets.token_bytes(32)).decode(),
            "GATEWAY_KEY_PEPPERS": "p1:" + base64.b64encode(secrets.token_bytes(32)).decode(),
            "DATABASE_URL": f"sqlite:///{self.database}",
            "GATEWAY_DATA_DIR": str(place),
            "GATEWAY_CONFIG": str(config),
            "GATEWAY_PRIVATE_UPSTREAMS": f"127.0.0.1:{upstream}",
            "BENCH_KEY": UPSTREAM_KEY,
            "GATEWAY_DEFAULT_RPM": "0",
            "GATEWAY_DEFAULT_BUDGET": "none",
            **more,
        }
        self.manage("migrate", "--verbosity", "0")

    def manage(self, *arguments: str) -> bytes:
        command = [sys.executable, "manage.py", *arguments]
        return subprocess.run(command, cwd=ROOT, env=self.environment, check=True, stdout=subprocess.PIPE).stdout

    def key(self, bounds: Mapping[str, str]) -> str:
        options = [part for bound in bounds.items() for part in bound]
        key: str = json.loads(self.manage("create_client_key", "bench", "--json", *options))["key"]
        return key

    def serve(self, name: str, *, key: str = "", core: int | None = None) -> Server:
        """`manage.py serve` as shipped: production, one process."""
        port = free_port()
        environment = self.environment | {"GATEWAY_DATA_DIR": str(self.place / name.replace(" ", "-"))}
        with (self.place / f"{name}.log").open("wb") as log:
            command = [sys.executable, "manage.py", "serve", "--host", "127.0.0.1", "--port", str(port)]
            process = pinned(command, self.core if core is None else core, env=environment, stdout=log, stderr=log)
        return Server(name, port, process, key=key, database=self.database)


def start_gateway(core: int, upstream: int, place: Path) -> Server:
    """With one client key that may do everything."""
    site = Site(core, upstream, place / "plain")
    return site.serve("gateway", key=site.key({}))


def start_silent(core: int, upstream: int, place: Path) -> Server:
    """With no line a request, and nothing counted."""
    site = Site(core, upstream, place / "silent", GATEWAY_ACCESS_LOG="0")
    return site.serve("silent", key=site.key({}))


def start_observed(core: int, upstream: int, place: Path) -> Server:
    """With a line a request and all metrics."""
    site = Site(core, upstream, place / "observed", GATEWAY_METRICS_TOKEN=secrets.token_urlsafe(20))
    return site.serve("observed", key=site.key({}))


def start_full(core: int, upstream: int, place: Path) -> Server:
    """With scopes, three limits, a budget and a price; alone on its database it counts in memory."""
    site = Site(core, upstream, place / "full")
    site.manage("shell", "-c", PRICE)
    return site.serve("all on", key=site.key(ALL_ON))


def start_full_shared(core: int, upstream: int, place: Path, other: int) -> Server:
    """The same beside an idle gateway on the core `other`, with which it counts in SQL."""
    site = Site(core, upstream, place / "shared")
    site.manage("shell", "-c", PRICE)
    companion = site.serve("companion", core=other)
    companion.wait_until_it_listens()
    server = site.serve("all on, SQL", key=site.key(ALL_ON))
    server.companion = companion
    return server
