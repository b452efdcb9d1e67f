"""Two sweeps that share trials, started at once on a server that answers slowly."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks.servers import mlflow_server, slow_proxy
from cmkd.errors import InfrastructureError
from tests.conftest import Workspace
from tests.faults.in_process import SPEC, complete, install

pytestmark = [pytest.mark.slow, pytest.mark.timeout(3600)]

ROOT = Path(__file__).resolve().parents[2]
ROUNDS = int(os.environ.get("CMKD_ROUNDS", "20"))
CALLS = 3
"""Of a command: on a busy machine the other sweep may hold a run for more than a minute."""
DELAY_SECONDS = 0.1
"""Of every answer: both sweeps look for the run of a trial before either has made it."""


def sweep_often(name: str, url: str) -> None:
    """Process of one sweep: for each line of stdin, the cache and lr of a round, sweep once."""
    with pytest.MonkeyPatch.context() as patch:
        for line in sys.stdin:
            cache, lr = line.split()
            install(patch, Path(cache), in_step=False)
            spec = Path(f"{name}.yaml")
            spec.write_text(SPEC.format(name=name, lr=lr))
            for _ in range(CALLS):
                try:
                    complete(spec, url, only=("both",))
                    print("done", flush=True)
                    break
                except InfrastructureError as error:
                    print(error, file=sys.stderr)


def start(name: str, url: str, folder: Path) -> subprocess.Popen[str]:
    code = f"from {__name__} import sweep_often; sweep_often({name!r}, {url!r})"
    return subprocess.Popen(
        [sys.executable, "-c", code],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )


def test_two_sweeps_that_share_trials_on_a_slow_server_make_no_twin(tmp_path: Path) -> None:
    """In turn on one cache, as two specs of a user, and on one each, as two clones."""
    space = Workspace(tmp_path, tmp_path / "cache")
    backend = f"sqlite:///{tmp_path}/mlflow.db"
    with (
        mlflow_server(tmp_path, backend) as server,
        slow_proxy(server.port, DELAY_SECONDS) as (url, _),
    ):
        sweeps = {name: start(name, url, tmp_path) for name in ("one", "other")}
        try:
            for number in range(ROUNDS):
                for name, process in sweeps.items():
                    cache = tmp_path / f"cache-{name if number % 2 else 'shared'}"
                    assert process.stdin is not None
                    print(cache, 0.003 + number * 1e-4, file=process.stdin, flush=True)
                for name, process in sweeps.items():
                    assert process.stdout is not None
                    assert process.stdout.readline() == "done\n", f"{name}, round {number}"
        finally:
            for process in sweeps.values():
                process.kill()
                process.communicate()
    assert space.repeats() == [], "no value twice, no trial with two runs"
    runs = space.query(
        "select k.value, r.status, count(*) from runs r join tags k using (run_uuid) "
        "where r.lifecycle_stage = 'active' and k.key = 'kind' group by 1, 2"
    )
    assert runs == [("teacher", "FINISHED", 1), ("trial", "FINISHED", ROUNDS)]
