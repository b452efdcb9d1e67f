"""One driver per sweep and data set."""

from __future__ import annotations

import errno
import fcntl
import os
import socket
import subprocess
import sys

import pytest
from filelock import FileLock, Timeout

from cmkd import io
from cmkd.errors import InputError
from cmkd.io import locked, require_locks
from cmkd.sweep import worker
from cmkd.sweep.run import sweep_lock
from cmkd.sweep.worker import Update

HOLD = """
import sys, time
from pathlib import Path
from cmkd.sweep.run import sweep_lock
with sweep_lock(Path(sys.argv[1]), "s", "d"):
    print("held", flush=True)
    time.sleep(60)
"""


def test_the_holder_is_named_and_its_death_frees_the_lock(tmp_path):
    holder = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(tmp_path)], stdout=subprocess.PIPE, text=True
    )
    assert holder.stdout is not None
    assert holder.stdout.readline() == "held\n"
    named = f"process {holder.pid} on host {socket.gethostname()}"
    with pytest.raises(InputError, match=named), sweep_lock(tmp_path, "s", "d"):
        pass
    with sweep_lock(tmp_path, "s", "other data"), sweep_lock(tmp_path, "other", "d"):
        pass
    holder.kill()
    holder.communicate()
    with sweep_lock(tmp_path, "s", "d"):
        pass


HOLD_FILE = """
import sys, time
from filelock import FileLock
with FileLock(sys.argv[1]):
    print("held", flush=True)
    time.sleep(60)
"""


@pytest.fixture
def held(tmp_path, monkeypatch):
    """A lock file and the process that holds it; a wait of 10 ms is a long one."""
    monkeypatch.setattr(io, "QUIET_SECONDS", 0.01)
    monkeypatch.setattr(worker, "QUIET_SECONDS", 0.01)
    path = tmp_path / "lock"
    command = [sys.executable, "-c", HOLD_FILE, str(path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "held\n"
        yield path, holder
        holder.kill()


def test_a_long_wait_says_for_whom_it_waits(held, caplog):
    path, holder = held
    said = []

    def on_wait(line):
        said.append(line)
        holder.kill()

    with locked(path, on_wait), pytest.raises(Timeout), FileLock(path, timeout=0):
        pass
    assert said == [f"waits for process {holder.pid}, which holds {path}"]
    with locked(path):
        pass
    assert not caplog.messages, "nobody held it"


def test_a_trial_that_another_process_trains_says_for_whom_it_waits(held):
    path, holder = held
    updates = worker.train_trial("t", lambda: pytest.fail("opened too early"), FileLock(path))
    (told,) = [next(updates)]
    assert told == Update("t", note=f"waits for process {holder.pid}, which holds {path}")


def test_a_disk_without_locks_is_refused_in_one_line(tmp_path, monkeypatch):
    require_locks(tmp_path / "cache")

    def refuse(*_):
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    monkeypatch.setattr(fcntl, "flock", refuse)
    with pytest.raises(InputError, match="cannot be locked .*CMKD_CACHE.*-o flock") as refused:
        require_locks(tmp_path / "cache")
    assert str(tmp_path / "cache") in str(refused.value)
    assert "\n" not in str(refused.value)


def test_names_stay_inside_the_folder(tmp_path):
    with sweep_lock(tmp_path, "../../s", "a/b"):
        (lock,) = tmp_path.rglob("*.lock")
    assert lock.parent == tmp_path / "locks"
