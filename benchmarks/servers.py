"""Real tracking servers on loopback for benchmarks and tests: MLflow's, PostgreSQL, a slow one."""

from __future__ import annotations

import http.client
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.request import urlopen

START_SECONDS = 240.0
ACCOUNTS = ("postgres", "nobody")
"""PostgreSQL refuses to run as root; one of these runs it then."""
HOP_HEADERS = frozenset({"connection", "transfer-encoding", "content-length", "server", "date"})


def free_port() -> int:
    """A port of loopback that nothing listens on."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        return int(free.getsockname()[1])


class MlflowServer:
    """``mlflow server`` in front of `backend`, with its artifacts in `folder`."""

    def __init__(self, folder: Path, backend: str) -> None:
        self.folder = folder
        self.backend = backend
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self.start()

    def start(self) -> None:
        """Start it and wait until it answers."""
        arguments = {
            "--backend-store-uri": self.backend,
            "--artifacts-destination": f"{self.folder}/artifacts",
            "--host": "127.0.0.1",
            "--port": str(self.port),
            "--workers": "1",
        }
        log = self.folder / "server.log"
        with log.open("ab") as output:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "mlflow", "server", *sum(arguments.items(), ())],
                env={
                    **os.environ,
                    "MLFLOW_DISABLE_TELEMETRY": "true",
                    "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
                },
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        deadline = time.monotonic() + START_SECONDS
        while not self._answers():
            if self.process.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError(f"mlflow server does not start: {log.read_text()[-2000:]}")
            time.sleep(0.2)

    def kill(self) -> None:
        """Kill it with its workers, as a machine that loses power does."""
        self.send(signal.SIGKILL)
        self.process.wait()

    def send(self, number: signal.Signals) -> None:
        """Send a signal to it and its workers; SIGSTOP makes it hang."""
        os.killpg(self.process.pid, number)

    def resident_mebibytes(self) -> float:
        """Memory of its processes together."""
        return sum(
            resident_mebibytes(int(path.name))
            for path in Path("/proc").glob("[0-9]*")
            if _group(path) == self.process.pid
        )

    def _answers(self) -> bool:
        try:
            with urlopen(f"{self.url}/health", timeout=5) as reply:
                return bool(reply.status == 200)
        except OSError:
            return False


@contextmanager
def mlflow_server(folder: Path, backend: str) -> Iterator[MlflowServer]:
    """A server for this block."""
    server = MlflowServer(folder, backend)
    try:
        yield server
    finally:
        server.kill()


class PostgresServer:
    """A PostgreSQL server of its own, with an empty database; without passwords, so loopback only.

    It trusts the disk (``fsync=off``): these servers are killed, but no machine loses power.
    """

    def __init__(self, binaries: Path, folder: Path) -> None:
        self.binaries = binaries
        self.folder = folder
        self.port = free_port()
        self.user = _other_account() if os.geteuid() == 0 else None
        if self.user:
            shutil.chown(folder, self.user)
        self._run("initdb", "-A", "trust", "-U", "cmkd", "--no-sync", "-D", f"{folder}/data")
        self.start()
        self.url = f"postgresql://cmkd@127.0.0.1:{self.port}/postgres"

    def start(self) -> None:
        """Start it and wait until it answers."""
        self._control("start", "-o", self._options)

    def stop(self) -> None:
        """End it without waiting for clients; what it has acknowledged is kept."""
        self._control("stop", "-m", "immediate")

    def restart(self) -> None:
        """Break all connections off and recover, as after a crash."""
        self._control("restart", "-m", "immediate", "-o", self._options)

    @property
    def _options(self) -> str:
        return f"-p {self.port} -k {self.folder} -c listen_addresses=127.0.0.1 -c fsync=off"

    def _control(self, *words: str) -> None:
        self._run("pg_ctl", "-w", "-D", f"{self.folder}/data", "-l", f"{self.folder}/log", *words)

    def _run(self, program: str, *words: str) -> None:
        done = subprocess.run(
            [str(self.binaries / program), *words],
            cwd=self.folder,
            user=self.user,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
        )
        if done.returncode:
            raise RuntimeError(f"{program}: {done.stderr}")


def postgres_binaries() -> Path | None:
    """Folder of PostgreSQL's server programs: where Debian keeps them, or on the PATH."""
    packaged = max(Path("/usr/lib/postgresql").glob("*/bin/initdb"), default=None)
    found = packaged or shutil.which("initdb")
    return Path(found).resolve().parent if found else None


@contextmanager
def postgres_server() -> Iterator[PostgresServer]:
    """A server for this block, in a folder that its account may enter."""
    binaries = postgres_binaries()
    assert binaries is not None, "see postgres_binaries"
    folder = Path(tempfile.mkdtemp(prefix="cmkd-pg-", dir="/tmp"))
    try:
        server = PostgresServer(binaries, folder)
        try:
            yield server
        finally:
            server.stop()
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@contextmanager
def slow_proxy(port: int, seconds: float) -> Iterator[tuple[str, list[str]]]:
    """An HTTP server that hands every request on to `port` after `seconds`.

    Yields its URL and the list of the requests that it has seen so far.
    """
    seen: list[str] = []

    class Handler(BaseHTTPRequestHandler):
        """One request at a time per connection."""

        protocol_version = "HTTP/1.1"

        def _forward(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
            time.sleep(seconds)
            seen.append(f"{self.command} {self.path}")
            upstream = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
            upstream.request(self.command, self.path, body, dict(self.headers))
            reply = upstream.getresponse()
            content = reply.read()
            upstream.close()
            self.send_response(reply.status)
            for key, value in reply.getheaders():
                if key.lower() not in HOP_HEADERS:
                    self.send_header(key, value)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        do_GET = do_POST = do_PUT = do_PATCH = do_DELETE = _forward

        def log_message(self, *_: object) -> None:
            """Say nothing."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}", seen
    finally:
        server.shutdown()
        server.server_close()


def resident_mebibytes(pid: int) -> float:
    """Memory of a process; 0 when it has ended."""
    try:
        pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    except (OSError, IndexError):
        return 0.0
    return pages * os.sysconf("SC_PAGE_SIZE") / 2**20


def _group(process: Path) -> int:
    try:
        return os.getpgid(int(process.name))
    except OSError:
        return 0


def _other_account() -> str:
    import pwd

    known = {entry.pw_name for entry in pwd.getpwall()}
    return next(name for name in ACCOUNTS if name in known)
