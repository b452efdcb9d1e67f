"""Files prepared on a Ray cluster of two nodes on loopback."""

from __future__ import annotations

import csv
import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]

# In a process of its own, as Ray takes a process for itself.
CLUSTER = """
import sys
from ray.cluster_utils import Cluster

node = {"num_cpus": 1, "object_store_memory": 100 * 2**20}
head = {**node, "include_dashboard": False, "temp_dir": sys.argv[1]}
cluster = Cluster(initialize_head=True, head_node_args=head, shutdown_at_exit=False)
cluster.add_node(**node)
print(cluster.address, flush=True)
sys.stdin.read()
cluster.shutdown()
"""
# Preparation as the command does it, with a limit of time that a test can wait for.
HURRIED = """
import sys, time
from pathlib import Path
from cmkd.sweep.cluster import prepare_on_cluster

with prepare_on_cluster(sys.argv[1], Path(sys.argv[2]), Path(sys.argv[2])) as run:
    for number, result in run(time.sleep, [0.0, 600.0, 0.1], timeout=20.0):
        print(number, result, flush=True)
"""


@pytest.fixture(scope="module")
def address() -> Iterator[str]:
    # Paths of sockets are limited to 107 characters.
    temporary = tempfile.mkdtemp(prefix="cmkd", dir="/tmp")
    process = subprocess.Popen(
        [sys.executable, "-c", CLUSTER, temporary],
        env={**os.environ, "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0", "OMP_NUM_THREADS": "1"},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    line = next(line for line in process.stdout if line.startswith("127."))
    yield line.strip()
    process.communicate(timeout=60)
    shutil.rmtree(temporary, ignore_errors=True)


@pytest.fixture
def cmkd(tmp_path: Path) -> Callable[..., subprocess.CompletedProcess[str]]:
    def run(*arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, *arguments],
            cwd=tmp_path,
            env={
                **os.environ,
                "CMKD_CACHE": str(tmp_path / "cache"),
                "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",
            },
            capture_output=True,
            text=True,
        )

    return run


def test_a_folder_is_prepared_by_two_nodes_as_by_this_machine(
    address: str,
    cmkd: Callable[..., subprocess.CompletedProcess[str]],
    shared_video: Path,
    tmp_path: Path,
) -> None:
    real = shared_video / "clips" / "mmaction2_part_0.mp4"
    for number in range(8):
        place = tmp_path / "videos" / "ab"[number % 2] / f"{number}.mp4"
        place.parent.mkdir(parents=True, exist_ok=True)
        place.symlink_to(real)
    (tmp_path / "videos" / "a" / "broken.mp4").write_bytes(real.read_bytes()[:90_000])
    sizes = ("--width", "64", "--height", "64", "--folds", "2")

    def prepare(name: str, *options: str) -> str:
        done = cmkd("-m", "cmkd", "data", "prepare", "videos", "--name", name, *sizes, *options)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    assert "8 prepared (0 of them before), 1 refused" in prepare("there", "--address", address)
    assert "8 prepared (8 of them before), 1 refused" in prepare("there", "--address", address)
    assert "8 prepared (0 of them before), 1 refused" in prepare("here", "--workers", "1")
    data = tmp_path / "cache" / "data"
    cards = [json.loads((data / name / "dataset.json").read_text()) for name in ("there", "here")]
    assert cards[0]["digest"] == cards[1]["digest"], "every clip is the same to the byte"
    with (data / "there" / "refused.csv").open(newline="") as stream:
        assert [row["path"] for row in csv.DictReader(stream)] == ["a/broken.mp4"]


def test_a_file_that_takes_too_long_is_given_up(
    address: str, cmkd: Callable[..., subprocess.CompletedProcess[str]], tmp_path: Path
) -> None:
    done = cmkd("-c", HURRIED, address, str(tmp_path))
    assert done.returncode == 0, done.stderr
    lines = sorted(done.stdout.splitlines())
    assert lines == ["0 None", "1 its process did not finish within 20 s", "2 None"]


def test_what_a_cluster_cannot_do_is_said_before_anything_is_made(
    cmkd: Callable[..., subprocess.CompletedProcess[str]], tmp_path: Path
) -> None:
    for option, message in (
        (["--address", "127.0.0.1:1"], "no answer"),
        (["--address", "127.0.0.1:1", "--workers", "1"], "leave out one"),
    ):
        done = cmkd("-m", "cmkd", "data", "prepare", ".", "--name", "m", *option)
        assert done.returncode in (2, 3) and message in done.stderr
