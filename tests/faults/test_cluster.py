"""Sweeps on a Ray cluster that lasts longer than they do, and nodes that die under them."""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from cmkd.training.loop import CHECKPOINT_SECONDS

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]
EPOCHS = 24
MIB = 2**20
LOOPBACK = {"RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0"}
"""A cluster that listens on loopback alone takes drivers that do so too."""

# In a process of its own, as Ray takes a process for itself.
CLUSTER = """
import json, sys
from ray.cluster_utils import Cluster

caches, temp_dir, size = json.loads(sys.argv[1]), sys.argv[2], int(sys.argv[3])

def node(cache):
    return {"num_cpus": 1, "object_store_memory": size, "env_vars": {"CMKD_CACHE": cache}}

head = {**node(caches[0]), "include_dashboard": False, "temp_dir": temp_dir}
cluster = Cluster(initialize_head=True, head_node_args=head, shutdown_at_exit=False)
other = cluster.add_node(**node(caches[1]))
print(cluster.address, flush=True)
for line in sys.stdin:
    if line == "kill\\n":
        cluster.remove_node(other, allow_graceful=False)
    print("done", flush=True)
cluster.shutdown()
"""


class TwoNodes:
    """A head and another node on loopback, of one CPU each, with caches of their own."""

    def __init__(self, caches: list[Path]) -> None:
        self.caches = caches
        # Paths of sockets are limited to 107 characters.
        self._temporary = tempfile.mkdtemp(prefix="cmkd", dir="/tmp")
        names = json.dumps([str(cache) for cache in caches])
        self._process = subprocess.Popen(
            [sys.executable, "-c", CLUSTER, names, self._temporary, str(100 * MIB)],
            env={**os.environ, **LOOPBACK, "OMP_NUM_THREADS": "1"},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self.address = self._said()

    def ask(self, what: str) -> None:
        """``kill`` kills the second node; anything else only shows that the cluster is there."""
        assert self._process.stdin is not None
        self._process.stdin.write(f"{what}\n")
        self._process.stdin.flush()
        assert self._said() == "done"

    def close(self) -> None:
        """Stop both nodes."""
        self._process.communicate(timeout=60)
        shutil.rmtree(self._temporary, ignore_errors=True)

    def _said(self) -> str:
        assert self._process.stdout is not None
        line = ""
        while not line.startswith(("127.", "done")):
            line = self._process.stdout.readline()
            assert line, "the cluster ended"
        return line.strip()


@pytest.fixture
def new_cluster(tmp_path: Path) -> Iterator[Callable[[list[Path]], TwoNodes]]:
    started: list[TwoNodes] = []

    def start(caches: list[Path]) -> TwoNodes:
        started.append(TwoNodes(caches))
        return started[-1]

    yield start
    for cluster in started:
        cluster.close()


def timestamps(space: Any) -> set[int]:
    """When each epoch of each trial ended; one that is trained again ends at another time."""
    rows = space.query(
        "select timestamp from metrics m join runs r using (run_uuid) "
        "where m.key = 'val_acc' and r.name not like 'teacher%'"
    )
    return {moment for (moment,) in rows}


def epochs_of_trials(space: Any) -> dict[str, int]:
    return dict(
        space.query(
            "select r.name, count(*) from metrics m join runs r using (run_uuid) "
            "where m.key = 'val_acc' and r.name not like 'teacher%' group by 1"
        )
    )


def trained_twice(space: Any) -> float:
    """Seconds of training, by the clock, whose epochs are not those that the store has.

    A checkpoint is written every few seconds; the epochs after it are trained again.
    """
    outcomes = [
        json.loads(path.read_text())["data"] for path in space.cache.glob("trials/*/outcome.json")
    ]
    kept = {epoch["timestamp_ms"] for outcome in outcomes for epoch in outcome["history"]}
    lost = timestamps(space) - kept
    return (max(lost) - min(lost)) / 1000 if lost else 0.0


def test_trials_of_a_node_that_dies_go_on_elsewhere_from_their_last_checkpoint(
    new_workspace: Callable[..., Any],
    new_cluster: Callable[[list[Path]], TwoNodes],
) -> None:
    space = new_workspace(EPOCHS, **LOOPBACK)
    cluster = new_cluster([space.cache, space.cache])
    options = ("--address", cluster.address)
    process = space.start("sweep", "tiny.yaml", *options)
    while sorted(epochs_of_trials(space).values()) < [2, 2]:
        assert process.poll() is None, process.communicate()
        time.sleep(0.1)
    cluster.ask("kill")
    output, _ = process.communicate(timeout=600)
    assert process.returncode == 0, output

    assert set(space.statuses().values()) == {"FINISHED"}
    assert space.disorder() == []
    assert set(epochs_of_trials(space).values()) == {EPOCHS}
    assert len(epochs_of_trials(space)) == 2
    assert trained_twice(space) < 2 * CHECKPOINT_SECONDS
    assert len(list(space.folder.glob("mlartifacts/*/artifacts/predictions.csv"))) == 3

    cluster.ask("are you there?")
    code, output = space.run("sweep", "tiny.yaml", *options)
    assert (code, output.splitlines()[-1]) == (0, "nothing to train: 2 of 2 done")


HEAD, OTHER = "10.211.7.1", "10.211.7.2"


class TwoHosts:
    """Two hosts in network namespaces, joined by a wire; they share this machine's disk.

    On each, Ray's temporary folder is a folder of its own.
    """

    def __init__(self, folder: Path) -> None:
        self._names = [f"cmkd{os.getpid()}{side}" for side in "ab"]
        self.folder = folder
        self._logs: dict[subprocess.Popen[bytes], Path] = {}
        (token := folder / "token").write_text(secrets.token_hex(32))
        self.environment = {
            "OMP_NUM_THREADS": "1",
            "RAY_AUTH_MODE": "token",
            "RAY_AUTH_TOKEN_PATH": str(token),
            "MLFLOW_DISABLE_TELEMETRY": "true",
            "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
        }
        for name in self._names:
            ip("netns", "add", name)
        wires = [f"cw{os.getpid()}{side}" for side in "ab"]
        ip("link", "add", wires[0], "type", "veth", "peer", "name", wires[1])
        for name, wire, address in zip(self._names, wires, (HEAD, OTHER), strict=True):
            ip("link", "set", wire, "netns", name)
            ip("-n", name, "link", "set", wire, "name", "wire")
            ip("-n", name, "address", "add", f"{address}/24", "dev", "wire")
            for device in ("lo", "wire"):
                ip("-n", name, "link", "set", device, "up")

    def start(self, host: int, *command: str, **environment: str) -> subprocess.Popen[bytes]:
        """Start a command on a host."""
        (self.folder / "ray").mkdir(exist_ok=True)
        (own := self.folder / f"ray{host}").mkdir(exist_ok=True)
        # `ip netns exec` gives the command a view of the mounts for itself.
        mount = f'mount --bind {own} {self.folder / "ray"} && exec "$@"'
        log = self.folder / f"{len(self._logs)}.log"
        with log.open("wb") as stream:
            process = subprocess.Popen(
                ["ip", "netns", "exec", self._names[host], "sh", "-c", mount, "sh", *command],
                cwd=self.folder,
                env={**os.environ, **self.environment, **environment},
                stdout=stream,
                stderr=subprocess.STDOUT,
            )
        self._logs[process] = log
        return process

    def said(self, process: subprocess.Popen[bytes]) -> str:
        """What a command has written so far."""
        return self._logs[process].read_text(errors="replace")

    def wire(self, state: str) -> None:
        """Cut the wire (``down``), so that no word gets through, or mend it (``up``)."""
        ip("-n", self._names[1], "link", "set", "wire", state)

    def kill(self, host: int) -> None:
        """Kill everything that runs on a host."""
        for pid in ip("netns", "pids", self._names[host]).split():
            with contextlib.suppress(ProcessLookupError):
                os.kill(int(pid), signal.SIGKILL)

    def close(self) -> None:
        """Leave nothing behind."""
        for host, name in enumerate(self._names):
            self.kill(host)
            ip("netns", "delete", name)
        for process in self._logs:
            process.wait()


def ip(*arguments: str) -> str:
    done = subprocess.run(["ip", *arguments], check=True, capture_output=True, text=True)
    return done.stdout


@pytest.fixture
def hosts() -> Iterator[TwoHosts]:
    if os.geteuid() != 0 or shutil.which("ip") is None or shutil.which("mount") is None:
        pytest.skip("two hosts on one machine need root and the command `ip`")
    # Paths of sockets are limited to 107 characters.
    with tempfile.TemporaryDirectory(prefix="cmkd", dir="/tmp", ignore_cleanup_errors=True) as path:
        try:
            made = TwoHosts(Path(path))
        except subprocess.CalledProcessError as error:
            pytest.skip(f"no network namespaces here: {error.stderr}")
        yield made
        made.close()


def answers(host: str, port: int, hosts: TwoHosts) -> bool:
    asked = f"import socket; socket.create_connection(({host!r}, {port}), 5)"
    return hosts.start(0, sys.executable, "-c", asked).wait() == 0


@pytest.mark.parametrize("end", ["killed", "cut off"])
def test_a_host_is_lost_and_its_trials_are_not(
    new_workspace: Callable[..., Any], hosts: TwoHosts, end: str
) -> None:
    space = new_workspace(EPOCHS)
    ray = str(Path(sys.executable).with_name("ray"))
    node = ("--num-cpus=1", f"--object-store-memory={100 * MIB}", "--disable-usage-stats")
    node += ("--block",)
    temporary = f"--temp-dir={hosts.folder / 'ray'}"
    here = (f"--node-ip-address={HEAD}", "--port=6379", "--include-dashboard=false", temporary)
    hosts.start(0, ray, "start", "--head", *here, *node, CMKD_CACHE=str(space.cache))
    store = ("--backend-store-uri", f"sqlite:///{space.folder}/mlflow.db", "--workers", "1")
    store += ("--artifacts-destination", f"{space.folder}/mlartifacts", "--host", HEAD)
    hosts.start(0, sys.executable, "-m", "mlflow", "server", *store)
    while not (answers(HEAD, 6379, hosts) and answers(HEAD, 5000, hosts)):
        time.sleep(0.5)
    there = (f"--address={HEAD}:6379", f"--node-ip-address={OTHER}")
    second = hosts.start(1, ray, "start", *there, *node, CMKD_CACHE=str(space.cache))
    while "Ray runtime started" not in hosts.said(second):
        assert second.poll() is None, hosts.said(second)
        time.sleep(0.5)

    options = ["--address", f"{HEAD}:6379", "--tracking-uri", f"http://{HEAD}:5000"]
    spec = str(space.folder / "tiny.yaml")
    command = (sys.executable, "-m", "cmkd", "sweep", spec, *options)
    driver = hosts.start(0, *command, CMKD_CACHE=str(space.cache))
    while sorted(epochs_of_trials(space).values()) < [3, 3]:
        assert driver.poll() is None, hosts.said(driver)
        time.sleep(0.1)
    assert max(epochs_of_trials(space).values()) < EPOCHS, "both are being trained"
    before = timestamps(space)
    hosts.wire("down")
    if end == "killed":
        hosts.kill(1)
    assert driver.wait(timeout=600) == 0, hosts.said(driver)
    hosts.wire("up")

    assert set(space.statuses().values()) == {"FINISHED"}
    assert space.disorder() == []
    assert list(epochs_of_trials(space).values()) == [EPOCHS, EPOCHS]
    assert timestamps(space) >= before
    assert trained_twice(space) < 2 * CHECKPOINT_SECONDS
