"""What becomes of a sweep whose engine is killed under it."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from typing import Any

import pytest

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]
EPOCHS = 24


@pytest.mark.parametrize("server", ["gcs_server", "raylet"])
def test_a_killed_server_of_ray_ends_the_sweep_with_the_command_to_go_on(
    new_workspace: Callable[..., Any], server: str
) -> None:
    space = new_workspace(EPOCHS)
    process = space.start("sweep", "tiny.yaml", "--workers", "1")
    space.wait_until_training(process, 2)
    (victim,) = [pid for pid, command in space.processes() if f"/{server} " in command]
    os.kill(victim, signal.SIGKILL)
    output, _ = process.communicate(timeout=60)
    assert process.returncode == 3, output
    last = " ".join(output.splitlines()[-3:])
    assert "has died" in last
    assert last.endswith("; to go on: cmkd sweep tiny.yaml --workers 1")
    assert space.statuses() == {"teacher tiny_tsm": "FINISHED", "control": "KILLED"}

    code, output = space.run("sweep", "tiny.yaml", timeout=600)
    assert code == 0, output
    assert set(space.statuses().values()) == {"FINISHED"}
    assert space.disorder() == []
    epochs = space.query(
        "select r.name, count(*) from metrics m join runs r using (run_uuid) "
        "where m.key = 'val_acc' and r.name not like 'teacher%' group by 1"
    )
    # Of removed runs too, of which there are none: the trial went on in its own.
    assert [count for _, count in epochs] == [EPOCHS, EPOCHS]


@pytest.mark.parametrize("server", ["gcs_server", "raylet"])
def test_a_server_of_ray_killed_while_it_starts_ends_the_sweep_with_the_command_to_go_on(
    new_workspace: Callable[..., Any], server: str
) -> None:
    space = new_workspace(2)
    process = space.start("sweep", "tiny.yaml", "--workers", "1")
    victims: list[int] = []
    while not victims:
        assert process.poll() is None, process.communicate()
        victims = [pid for pid, command in space.processes() if f"/{server} " in command]
    os.kill(victims[0], signal.SIGKILL)
    output, _ = process.communicate(timeout=240)
    assert process.returncode == 3, output
    assert output.splitlines()[-1].endswith("; to go on: cmkd sweep tiny.yaml --workers 1")
