"""``cmkd ui`` shows the store of this folder to this machine."""

from __future__ import annotations

import html
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

from cmkd.cli.ui import runs_address


@pytest.fixture
def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def test_a_port_in_use_is_bad_input_before_anything_starts(tmp_path):
    (tmp_path / "mlflow.db").write_bytes(b"")
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        done = subprocess.run(
            [sys.executable, "-m", "cmkd", "ui", "--port", str(port)],
            cwd=tmp_path,
            capture_output=True,
            text=True,
        )
    assert done.returncode == 2
    assert done.stdout == ""
    assert f"--port {port}" in done.stderr
    assert len(done.stderr.splitlines()) == 1


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
        assert f"sqlite:///{tmp_path}/mlflow.db" in first
        assert f"http://127.0.0.1:{free_port}/#/experiments?workflowType=machine_learning" in first
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


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:The ``noload`` loader:DeprecationWarning")
def test_a_person_finds_the_runs_of_a_sweep_in_a_browser(new_workspace, browser, free_port):
    space = new_workspace(epochs=1)
    code, output = space.run("sweep", "tiny.yaml", "--workers", "1")
    assert code == 0, output
    ((run_id,),) = space.query("select run_uuid from runs where name = 'both seed 0 fold 0'")
    ((experiment,),) = space.query("select experiment_id from experiments where name like 'tiny/%'")
    at = f"http://127.0.0.1:{free_port}/#/experiments"
    mode = "?workflowType=machine_learning"
    assert runs_address(f"sqlite:///{space.folder}/mlflow.db", at.partition("/#")[0]) == (
        f"{at}/{experiment}/runs{mode}&viewStateShareKey=cmkd"
    )
    ui = space.start("ui", "--port", str(free_port))
    try:
        answer(f"http://127.0.0.1:{free_port}/version", parse=False)
        page = seen(browser, f"{at}{mode}", "tiny/synthetic-smoke")
        assert "a test" in page, "the words of the spec"
        names = ("teacher tiny_tsm seed 0 fold 0", "control seed 0 fold 0", "both seed 0 fold 0")
        seen(browser, f"{at}/{experiment}/runs{mode}", *names)
        # The small window of this browser draws neither all columns nor all rows.
        seen(browser, f"{at}/{experiment}/runs{mode}&viewStateShareKey=cmkd", "a shared view")
        run = f"{at}/{experiment}/runs/{run_id}"
        seen(browser, run, "both seed 0 fold 0", "trial_id", "selection", "method.lambda_1")
        # Its files, among them the pictures.
        files = (
            "config.json",
            "confusion.png",
            "graphs.png",
            "predictions.csv",
            "scores.safetensors",
        )
        seen(browser, f"{run}/artifacts", *files)
    finally:
        os.killpg(ui.pid, signal.SIGTERM)
        ui.communicate(timeout=30)


def seen(browser, address, *texts):
    """The page, once it has all texts; on a busy machine its parts come late."""
    for _ in range(3):
        page = html.unescape(browser.page(address))
        if all(text in page for text in texts):
            return page
    missing = [text for text in texts if text not in page]
    pytest.fail(f"{address} lacks {missing}: {page[-2000:]}")


def answer(request, seconds=210.0, *, parse=True):
    """The answer of a server that may still be starting, as JSON unless it is not to be parsed."""
    deadline = time.monotonic() + seconds
    while True:
        try:
            with urllib.request.urlopen(request, timeout=5) as reply:
                return json.load(reply) if parse else reply.read()
        except (urllib.error.URLError, ConnectionError, TimeoutError):
            assert time.monotonic() < deadline, "the server did not come up"
            time.sleep(0.2)
