"""Spawned workers: all results arrive, and a hang or a crash costs one task.

The tasks are functions of the standard library, which a spawned process can import anywhere.
"""

from __future__ import annotations

import math
import multiprocessing
import operator
import os
import resource
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from cmkd.data.workers import run_tasks
from cmkd.errors import DataError, InfrastructureError

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize("workers", [1, 3])
def test_every_task_is_answered_once(workers: int) -> None:
    results = dict(run_tasks(operator.neg, list(range(7)), workers=workers))

    assert results == {number: -number for number in range(7)}


def test_more_workers_than_tasks() -> None:
    assert list(run_tasks(operator.neg, [5], workers=4, timeout=60)) == [(0, -5)]
    assert list(run_tasks(operator.neg, [], workers=4, timeout=60)) == []


def test_a_hang_costs_one_task() -> None:
    results = dict(run_tasks(time.sleep, [0.0, 900.0, 0.0], workers=1, timeout=5))

    assert results[0] is None and results[2] is None
    assert isinstance(results[1], DataError)
    assert "did not finish within 5 s" in str(results[1])


@pytest.mark.parametrize("crash", ["SIGSEGV", "SIGABRT", "SIGFPE", "SIGILL", "SIGBUS"])
def test_a_crash_costs_one_task(crash: str) -> None:
    harmless = 0
    tasks = [harmless, int(signal.Signals[crash]), harmless]
    results = dict(run_tasks(signal.raise_signal, tasks, workers=1, timeout=60))

    assert results[0] is None and results[2] is None
    assert isinstance(results[1], DataError)
    assert crash in str(results[1])


@pytest.mark.parametrize(
    ("ended_by", "message"),
    [
        (signal.SIGKILL, r"\(signal 9\), the third one at it; .* fewer --workers"),
        (signal.SIGTERM, r"\(signal 15\), the third one at it"),
    ],
)
def test_who_is_killed_again_and_again_blames_no_file(
    ended_by: signal.Signals, message: str, caplog: pytest.LogCaptureFixture
) -> None:
    with pytest.raises(InfrastructureError, match=f"^task {int(ended_by)}: .*{message}"):
        list(
            run_tasks(
                signal.raise_signal,
                [int(ended_by)],
                workers=1,
                timeout=60,
                name=lambda task: f"task {task}",
            )
        )
    assert len(caplog.messages) == 2
    assert all("; it is tried again" in line for line in caplog.messages)


def test_row_02_a_killed_process_costs_nothing(caplog: pytest.LogCaptureFixture) -> None:
    answers = run_tasks(
        time.sleep, [0.0, 2.0, 0.0, 0.0], workers=1, timeout=60, name=lambda task: f"nap of {task}"
    )
    assert next(answers)[0] == 0
    (victim,) = multiprocessing.active_children()
    assert victim.pid is not None
    os.kill(victim.pid, signal.SIGKILL)
    assert [number for number, _ in answers] == [1, 2, 3]
    assert caplog.messages == [
        f"nap of 2.0: worker process {victim.pid} was ended from outside (signal 9); "
        "it is tried again"
    ]


def test_too_few_resources_for_a_worker_is_said() -> None:
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    lowest_free = os.dup(0)
    os.close(lowest_free)
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (lowest_free, before[1]))
        with pytest.raises(InfrastructureError, match="cannot be started .Too many open files"):
            list(run_tasks(operator.neg, [1], workers=1, timeout=60))
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, before)


def test_a_bug_keeps_its_traceback() -> None:
    with pytest.raises(RuntimeError, match="ValueError"):
        list(run_tasks(math.sqrt, [4.0, -1.0], workers=2, timeout=60))


def test_a_script_without_a_guard_runs_once(tmp_path: Path) -> None:
    script = tmp_path / "script.py"
    script.write_text(
        "import operator\nfrom cmkd.data.workers import run_tasks\nprint('started')\n"
        "print(sorted(run_tasks(operator.neg, [1, 2], workers=2, timeout=60)))\n"
    )
    done = subprocess.run(
        [sys.executable, script], capture_output=True, text=True, timeout=120, cwd=ROOT
    )
    assert done.stdout == "started\n[(0, -1), (1, -2)]\n", done.stderr
