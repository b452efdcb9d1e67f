"""Sweeps that are stopped twice, frozen, or started in two places."""

from __future__ import annotations

import os
import signal
import sqlite3
import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from cmkd.sweep.failures import ECHO_SECONDS

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]

Make = Callable[..., Any]
FROZEN_SECONDS = 20.0


def test_row_06_a_second_interrupt_leaves_a_store_that_does_not_answer(new_workspace: Make) -> None:
    space = new_workspace(24)
    process = space.start("sweep", "tiny.yaml", "--workers", "1")
    space.wait_until_training(process, 2)
    with sqlite3.connect(space.folder / "mlflow.db", isolation_level=None) as store:
        store.execute("begin exclusive")
        process.send_signal(signal.SIGINT)
        time.sleep(ECHO_SECONDS + 1.0)
        assert process.poll() is None, "it waits for the store"
        process.send_signal(signal.SIGINT)
        output, _ = process.communicate(timeout=10)
        store.execute("rollback")
    assert process.returncode == 130
    assert output.splitlines()[-1] == "cmkd: left at once; the same command goes on"

    code, output = space.run("sweep", "tiny.yaml", "--workers", "1", timeout=600)
    assert code == 0, output
    assert "1 runs of a sweep that died are marked KILLED" in output
    assert space.disorder() == []


def test_row_08_a_frozen_worker_goes_on_and_nobody_takes_its_place(new_workspace: Make) -> None:
    space = new_workspace(24)
    process = space.start("sweep", "tiny.yaml")
    space.wait_until_training(process, 2)
    frozen, *_ = space.workers()
    os.kill(frozen, signal.SIGSTOP)
    try:
        began = time.monotonic()
        code, output = space.run("sweep", "tiny.yaml")
        assert code == 2, output
        assert f"is being run by process {process.pid} on host" in output
        time.sleep(max(0.0, began + FROZEN_SECONDS - time.monotonic()))
    finally:
        os.kill(frozen, signal.SIGCONT)
    output, _ = process.communicate(timeout=600)
    assert process.returncode == 0, output
    assert space.disorder() == []


def test_row_08_what_a_frozen_driver_writes_nobody_else_does(new_workspace: Make) -> None:
    space = new_workspace(24)
    process = space.start("sweep", "tiny.yaml")
    space.wait_until_training(process, 2)
    os.kill(process.pid, signal.SIGSTOP)
    try:
        before = space.metrics()
        # As on another machine: a cache of its own, but the same store.
        other = new_workspace(24)
        store = f"sqlite:///{space.folder}/mlflow.db"
        only = ("sweep", "tiny.yaml", "--only", "control", "--tracking-uri", store)
        code, output = other.run(*only, timeout=600)
        assert code == 3, output
        last = output.splitlines()[-1]
        assert f"is being written by process {process.pid} on host" in output
        assert "the tracking store refused records of control" in last
        assert "to go on: cmkd sweep tiny.yaml --only control" in last
        # What was under way when it was stopped arrives, and no more.
        assert {row[:3] for row in space.metrics()} == {row[:3] for row in before}
    finally:
        os.kill(process.pid, signal.SIGCONT)
    output, _ = process.communicate(timeout=600)
    assert process.returncode == 0, output
    assert space.disorder() == []

    code, output = other.run(*only)
    assert (code, output.splitlines()[-1]) == (0, "nothing to train: 1 of 1 done")
    assert replace(other, folder=space.folder, cache=space.cache).disorder() == []
