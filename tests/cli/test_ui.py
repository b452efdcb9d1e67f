"""``cmkd ui`` shows the store of this folder to this machine."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request

import pytest


@pytest.fixture
def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@pytest.mark.slow
def test_the_ui_reads_the_store_of_this_folder(tmp_path, free_port):
    code = (
        "from mlflow import MlflowClient as C; C('sqlite:///mlflow.db').create_experiment('mine')"
    )
    subprocess.run([sys.executable, "-c", code], cwd=tmp_path, check=True, capture_output=True)
    ui = subprocess.Popen(
        [sys.executable, "-m", "cmkd", "ui", "--port", str(free_port)],
        cwd=tmp_path,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        start_new_session=True,
    )
    try:
        assert ui.stdout is not None
        first = ui.stdout.readline()
        assert f"sqlite:///{tmp_path}/mlflow.db is shown at http://127.0.0.1:{free_port}" in first
        asked = urllib.request.Request(
            f"http://127.0.0.1:{free_port}/api/2.0/mlflow/experiments/search",
            data=b'{"max_results": 10}',
            headers={"Content-Type": "application/json"},
        )
        names = {one["name"] for one in answer(asked)["experiments"]}
        assert "mine" in names
    finally:
        os.killpg(ui.pid, signal.SIGTERM)
        ui.communicate(timeout=30)


def answer(request, seconds=90.0):
    """The JSON answer of a server that may still be starting."""
    deadline = time.monotonic() + seconds
    while True:
        try:
            with urllib.request.urlopen(request, timeout=5) as reply:
                return json.load(reply)
        except (urllib.error.URLError, ConnectionError, TimeoutError):
            assert time.monotonic() < deadline, "the server did not come up"
            time.sleep(0.2)
