"""One driver per sweep and data set."""

from __future__ import annotations

import errno
import fcntl
import os
import socket
import subprocess
import sys

import pytest

from cmkd.errors import InputError
from cmkd.io import require_locks
from cmkd.sweep.run import sweep_lock

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
