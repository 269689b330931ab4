"""A PostgreSQL of a test's own, in a temporary directory, that can be killed (refused) and stopped (hung)."""

import os
import shutil
import signal
import subprocess
import tempfile
from contextlib import suppress
from pathlib import Path
from typing import Self

import psycopg

from tests.machine import postgres_binaries
from tests.proxysite.test_server import free_port

# A wheel's may lie where only we may read, and the user that the server runs as may not.
PACKAGE = "pgserver"
SETTINGS = "-c fsync=off -c listen_addresses=127.0.0.1 -c max_connections=100"


class Cluster:
    """`with Cluster() as cluster:`; one database, `postgres`. `binaries`: where the server's programs are."""

    def __init__(self, binaries: Path | None = None) -> None:
        self.binaries = binaries or postgres_binaries()[-1]
        self.folder = Path(tempfile.mkdtemp(prefix="postgres-", dir="/tmp"))
        self.port = free_port()
        self.url = f"postgresql://postgres@127.0.0.1:{self.port}/postgres"

    def __enter__(self) -> Self:
        if PACKAGE in self.binaries.parts:
            package = self.binaries.parents[1]
            for part in (f"{PACKAGE}/pginstall", f"{PACKAGE}.libs"):
                shutil.copytree(package.parent / part, self.folder / part)
            self.binaries = self.folder / PACKAGE / "pginstall" / "bin"
        if os.geteuid() == 0:  # PostgreSQL refuses to run as root
            shutil.chown(self.folder, "postgres")
        self.run("initdb", "-D", self.data, "-U", "postgres", "--auth", "trust", "--encoding", "UTF8", "--no-sync")
        self.start()
        return self

    def __exit__(self, *exc: object) -> None:
        self.go_on()
        self.kill()
        shutil.rmtree(self.folder, ignore_errors=True)

    @property
    def data(self) -> str:
        return str(self.folder / "data")

    def run(self, program: str, *arguments: str, check: bool = True) -> None:
        command = [str(self.binaries / program), *arguments]
        if os.geteuid() == 0:
            command = ["setpriv", "--reuid", "postgres", "--regid", "postgres", "--init-groups", *command]
        subprocess.run(command, cwd="/", check=check, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, timeout=60)

    def start(self) -> None:
        options = f"-p {self.port} -c unix_socket_directories={self.folder} {SETTINGS}"
        self.run("pg_ctl", "-D", self.data, "-l", str(self.folder / "log"), "-w", "-o", options, "start")

    def kill(self) -> None:
        """No process of it is left, every connection is reset, and new ones are refused."""
        self.run("pg_ctl", "-D", self.data, "-m", "immediate", "stop", check=False)

    def stop(self) -> None:
        """All of its processes stand still: connections stay open, and nothing answers."""
        self.signal(signal.SIGSTOP)

    def go_on(self) -> None:
        self.signal(signal.SIGCONT)

    def signal(self, number: int) -> None:
        """To the server and to the processes that it has made, by their ids."""
        try:
            main = int((self.folder / "data" / "postmaster.pid").read_text().split()[0])
            children = [int(pid) for pid in Path(f"/proc/{main}/task/{main}/children").read_text().split()]
        except FileNotFoundError:
            return
        for pid in (main, *children):
            with suppress(ProcessLookupError):
                os.kill(pid, number)

    def stop_connections(self) -> int:
        """The open connections stand still between two statements, our own apart, and new ones are served; how many."""
        stopped = 0
        with psycopg.connect(self.url, autocommit=True) as server:
            while not stopped:
                idle = server.execute(
                    "SELECT pid FROM pg_stat_activity WHERE pid <> pg_backend_pid() AND state = 'idle'"
                ).fetchall()
                for (pid,) in idle:
                    os.kill(pid, signal.SIGSTOP)
                    stopped += 1
        return stopped

    def terminate_backends(self) -> int:
        """End every connection but our own; how many."""
        with psycopg.connect(self.url, autocommit=True) as server:
            ended = server.execute(
                "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity "
                "WHERE pid <> pg_backend_pid() AND backend_type = 'client backend'"
            ).fetchone()
        return int(ended[0]) if ended else 0
