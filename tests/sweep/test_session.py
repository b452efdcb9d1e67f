"""Whole sweeps: real data, real Ray, real SQLite store, and what interrupts them."""

from __future__ import annotations

import json
import os
import signal
import socket
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import pytest

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]
LONG = 24

Make = Callable[..., Any]


class Story(NamedTuple):
    """A finished sweep with a broken arm."""

    space: Any
    code: int
    output: str
    listening: list[str]


@pytest.fixture(scope="module")
def story(new_workspace: Make) -> Story:
    """`tiny` with an arm whose loss is not finite, looked at while it ran."""
    space = new_workspace(epochs=8, broken=True)
    process = space.start("sweep", "tiny.yaml")
    space.wait_until_training(process, 1)
    listening = [address for pid, _ in space.processes() for address in listening_on(pid)]
    output, _ = process.communicate(timeout=600)
    return Story(space, process.returncode, output, listening)


@pytest.fixture(scope="module")
def unbroken(new_workspace: Make) -> Any:
    """The long sweep, left alone."""
    space = new_workspace(LONG)
    code, output = space.run("sweep", "tiny.yaml")
    assert code == 0, output
    return space


def listening_on(pid: int) -> list[str]:
    """Addresses that a process accepts connections at, from the kernel's tables."""
    try:
        links = [os.readlink(link) for link in Path(f"/proc/{pid}/fd").iterdir()]
    except OSError:
        return []
    sockets = {link[8:-1] for link in links if link.startswith("socket:[")}
    found = []
    for table, family in (("tcp", socket.AF_INET), ("tcp6", socket.AF_INET6)):
        for line in Path(f"/proc/{pid}/net/{table}").read_text().splitlines()[1:]:
            fields = line.split()
            if fields[3] == "0A" and fields[9] in sockets:
                words = bytes.fromhex(fields[1].partition(":")[0])
                raw = b"".join(words[i : i + 4][::-1] for i in range(0, len(words), 4))
                found.append(socket.inet_ntop(family, raw))
    return found


def test_a_failing_arm_costs_only_itself(story: Story) -> None:
    assert story.code == 1, story.output
    assert story.space.statuses() == {
        "teacher tiny_tsm": "FINISHED",
        "control": "FINISHED",
        "both": "FINISHED",
        "broken": "FAILED",
    }
    assert "1 x TrialFailed: loss is not finite" in story.output
    assert "[broken seed 0 fold 0]" in story.output
    assert "Traceback" not in story.output
    (cause,) = story.space.query("select value from tags where key = 'failure'")
    assert "loss is not finite" in str(cause)


def test_every_record_is_there_once(story: Story) -> None:
    assert story.space.disorder() == []
    steps = story.space.query(
        "select r.name, count(*) from metrics m join runs r using (run_uuid) "
        "where m.key = 'val_acc' group by 1"
    )
    assert dict(steps) == {
        "teacher tiny_tsm seed 0 fold 0": 1,
        "control seed 0 fold 0": 8,
        "both seed 0 fold 0": 8,
    }
    finals = story.space.query("select count(*) from metrics where key = 'test_acc' and step = 0")
    assert finals == [(3,)]


def test_runs_say_what_they_are(story: Story) -> None:
    tags = dict(
        story.space.query(
            "select t.key, t.value from tags t join runs r using (run_uuid) "
            "where r.name like 'control%'"
        )
    )
    assert json.loads(str(tags["arms"])) == ["control", "again"], "equal arms share a trial"
    assert (tags["arm"], tags["sweep"], tags["kind"]) == ("control", "tiny", "trial")
    assert (tags["data"], tags["data_kind"]) == ("synthetic-smoke", "embedded")
    assert (tags["seed"], tags["fold"]) == ("0", "0")
    assert tags["git_commit"]
    assert "owner" not in tags
    params = dict(
        story.space.query(
            "select p.key, p.value from params p join runs r using (run_uuid) "
            "where r.name like 'control%'"
        )
    )
    assert params["method.lambda_1"] == "0.0"
    assert params["method.tg"] == "[1, 2, 3]"
    assert params["training.epochs"] == "8"
    configs = list(story.space.folder.glob("mlartifacts/*/artifacts/config.json"))
    assert len(configs) == 4
    assert not (story.space.folder / "mlruns").exists()


def test_only_this_machine_can_reach_the_engine(story: Story) -> None:
    assert len(story.listening) >= 4, "Ray's server, raylet and workers were running"
    loopback = {"127.0.0.1", "::1", "::ffff:127.0.0.1"}
    assert set(story.listening) <= loopback


def test_what_failed_is_repeated_only_when_asked_for(story: Story) -> None:
    before = story.space.metrics()
    code, output = story.space.run("sweep", "tiny.yaml")
    assert code == 1, "the sweep is still not complete"
    assert "2 of 3 done, 1 failed before; 0 to run" in output
    assert (
        output.splitlines()[-1] == "to try what failed again: cmkd sweep tiny.yaml --retry-failed"
    )
    assert "starting" not in output, "no engine for nothing"

    code, output = story.space.run("sweep", "tiny.yaml", "--retry-failed")
    assert code == 1
    assert "2 of 3 done, 1 failed before; 1 to run" in output
    assert "1 x TrialFailed: loss is not finite" in output
    assert story.space.metrics() == before
    assert story.space.disorder() == []

    without = (story.space.folder / "tiny.yaml").read_text().partition("  broken")[0]
    (story.space.folder / "tiny.yaml").write_text(without)
    code, output = story.space.run("sweep", "tiny.yaml")
    assert (code, output.splitlines()[-1]) == (0, "nothing to train: 2 of 2 done")
    assert story.space.metrics() == before


STAGED = """
name: staged
description: a test
data: synthetic-smoke
seeds: 2
base: {training.epochs: 1, student.width: 4, teacher.width: 4, teacher.training.epochs: 1,
  method.heads: 1, method.hidden: 4}
select:
  best: {key: method.lambda_1, among: [first], rule: best_mean_val_acc}
blocks:
  first: {method.lambda_1: [0.1, 0.5], method.lambda_2: [0.0]}
  second: {method.lambda_1: [$best], method.lambda_2: [0.5, 1.0]}
"""


def test_a_later_stage_takes_what_the_store_says_is_best(new_workspace: Make) -> None:
    space = new_workspace()
    spec = space.folder / "staged.yaml"
    spec.write_text(STAGED)
    code, output = space.run("sweep", "staged.yaml", "--only", "second*")
    assert (code, output.splitlines()[-1]) == (1, "second[lambda_2=1.0] still waits for best")

    code, output = space.run("sweep", "staged.yaml")
    assert code == 0, output
    assert "0 of 4 done; 4 to run" in output
    assert "4 of 8 done; 4 to run" in output
    assert "\n8 of 8 done, 8 of them now" in output
    means = dict(
        space.query(
            "select p.value, avg(m.value) from params p join metrics m using (run_uuid) "
            "join runs r using (run_uuid) where p.key = 'method.lambda_1' "
            "and m.key = 'best_val_acc' and r.name like 'first%' group by 1"
        )
    )
    best = max(means, key=lambda value: (means[value], -float(value)))
    second = (
        "from params p join runs r using (run_uuid) join tags t using (run_uuid) "
        "where p.key = 'method.lambda_1' and t.key = 'selected_best' and r.name like 'second%'"
    )
    assert space.query(f"select distinct p.value {second}") == [(best,)]
    ((count, text),) = space.query(f"select count(*), min(t.value) {second}")
    assert count == 4
    assert str(text).startswith(f"best = {best}: best mean validation accuracy of method.lambda_1")
    assert f"selected {text}" in output

    code, output = space.run("sweep", "staged.yaml")
    assert (code, output.splitlines()[-1]) == (0, "nothing to train: 8 of 8 done")
    assert f"selected {text}" in output

    spec.write_text(STAGED.replace("[0.5, 1.0]", "[0.5]"))
    code, output = space.run("sweep", "staged.yaml")
    assert code == 0
    assert "2 finished before are not in the spec any more" in output


def test_a_sweep_in_which_all_fail_alike_stops(new_workspace: Make) -> None:
    space = new_workspace()
    longer = "{training.epochs: 8, training.lr: 1.0e+12,"
    hopeless = STAGED.replace("{training.epochs: 1,", longer)
    (space.folder / "staged.yaml").write_text(hopeless)
    code, output = space.run("sweep", "staged.yaml", "--seeds", "5", "--workers", "1")
    assert code == 1, output
    last = output.splitlines()[-1]
    assert last.startswith("cmkd: the first 3 trials failed alike, so the others were not tried: ")
    assert "3 x TrialFailed: loss is not finite" in last
    failed = [status for status in space.statuses().values() if status == "FAILED"]
    assert space.query("select count(*) from runs where status = 'FAILED'") == [(3,)], failed


def test_a_killed_driver_is_made_good_by_the_same_command(
    new_workspace: Make, unbroken: Any
) -> None:
    space = new_workspace(LONG)
    process = space.start("sweep", "tiny.yaml")
    space.wait_until_training(process, 4)
    process.kill()
    process.communicate()
    assert "RUNNING" in space.statuses().values()

    code, output = space.run("sweep", "tiny.yaml")
    assert code == 0, output
    assert "2 interrupted" in output
    assert set(space.statuses().values()) == {"FINISHED"}
    assert space.disorder() == []
    assert space.metrics() == unbroken.metrics()


@pytest.mark.parametrize(("signum", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_leaves_everything_in_order(
    new_workspace: Make, unbroken: Any, signum: int, code: int
) -> None:
    space = new_workspace(LONG)
    process = space.start("sweep", "tiny.yaml", "--workers", "1")
    space.wait_until_training(process, 2)
    # As the terminal does it: Ctrl-C goes to every process of the group. `make` passes it on.
    os.killpg(process.pid, signum)
    process.send_signal(signum)
    output, _ = process.communicate(timeout=30)
    assert process.returncode == code, output
    assert "to go on: cmkd sweep tiny.yaml --workers 1\n" in output
    assert "Traceback" not in output
    assert space.statuses() == {"teacher tiny_tsm": "FINISHED", "control": "KILLED"}
    assert list(space.processes()) == []

    assert space.run("sweep", "tiny.yaml", "--workers", "1")[0] == 0
    assert space.disorder() == []
    assert set(space.statuses().values()) == {"FINISHED"}
    assert {row for row in space.metrics() if row[0] == "control seed 0 fold 0"} <= (
        unbroken.metrics()
    )


def test_a_killed_worker_is_replaced_and_goes_on(new_workspace: Make, unbroken: Any) -> None:
    space = new_workspace(LONG)
    process = space.start("sweep", "tiny.yaml")
    space.wait_until_training(process, 4)
    workers = [pid for pid, command in space.processes() if "Trainable" in command]
    assert len(workers) == 2
    os.kill(workers[0], signal.SIGKILL)
    output, _ = process.communicate(timeout=600)
    assert process.returncode == 0, output
    assert space.disorder() == []
    assert space.metrics() == unbroken.metrics()


def test_the_processes_of_a_trial_are_no_part_of_it(new_workspace: Make) -> None:
    space = new_workspace()
    process = space.start("sweep", "tiny.yaml", "--workers", "2", "--processes", "2")
    commands: set[str] = set()
    while process.poll() is None:
        commands |= {command.strip() for _, command in space.processes()}
        time.sleep(0.2)
    output, _ = process.communicate()
    assert process.returncode == 0, output
    assert any("RayTrainWorker" in command for command in commands), commands
    assert set(space.statuses().values()) == {"FINISHED"}
    assert space.disorder() == []
    code, output = space.run("sweep", "tiny.yaml")
    assert (code, output.splitlines()[-1]) == (0, "nothing to train: 2 of 2 done")


def test_a_second_driver_is_refused_by_name(new_workspace: Make) -> None:
    space = new_workspace(LONG)
    process = space.start("sweep", "tiny.yaml")
    space.wait_until_training(process, 1)
    code, output = space.run("sweep", "tiny.yaml")
    os.killpg(process.pid, signal.SIGKILL)
    process.communicate()
    assert code == 2
    assert f"process {process.pid} on host {socket.gethostname()}" in output
    assert len(output.splitlines()) == 1


def test_no_signal_is_lost_while_the_engine_starts(
    new_workspace: Make,
) -> None:
    space = new_workspace()
    process = space.start("sweep", "tiny.yaml")
    assert process.stdout is not None
    for line in process.stdout:
        if line.startswith("starting"):
            break
    process.send_signal(signal.SIGINT)
    output, _ = process.communicate(timeout=60)
    assert process.returncode == 130, output
    assert "RUNNING" not in space.statuses().values()
