"""A spec or the code that was edited between two calls of the same command."""

from __future__ import annotations

import json
import shutil
import sqlite3
import subprocess
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

import cmkd
from cmkd.io import write_record

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800)]
ROOT = Path(cmkd.__file__).resolve().parents[1]
COMMITS = "select distinct value from tags where key = 'git_commit'"


def plan_of(space: Any) -> dict[str, Any]:
    """What ``--dry-run --json`` says."""
    process = space.start("sweep", "tiny.yaml", "--dry-run", "--json")
    output, _ = process.communicate(timeout=280)
    assert process.returncode == 0, output
    found: dict[str, Any] = json.loads(output[output.index("{\n") :])
    return found


def test_row_23_only_what_an_edited_spec_changes_is_trained(copy_of_finished: Any) -> None:
    space = copy_of_finished
    before = {trial["arms"][0]: trial for trial in plan_of(space)["trials"]}
    metrics = space.metrics()
    spec = space.folder / "tiny.yaml"
    spec.write_text(spec.read_text().replace("both: {}", "both: {method.lambda_1: [0.3]}"))

    plan = plan_of(space)
    after = {trial["arms"][0]: trial for trial in plan["trials"]}
    assert after["control"] == before["control"]
    assert after["both"]["id"] != before["both"]["id"]
    assert (before["both"]["state"], after["both"]["state"]) == ("done", "new")
    assert (plan["counts"]["done"], plan["counts"]["to_run"]) == (1, 1)
    assert plan["counts"]["not_in_spec"] == 1

    code, output = space.run("sweep", "tiny.yaml", timeout=600)
    assert code == 0, output
    assert "1 of 2 done; 1 to run" in output
    assert "1 finished before are not in the spec any more" in output
    assert metrics <= space.metrics(), "what was there before stands"
    assert space.disorder() == []


def test_row_23_trials_of_other_code_are_told(copy_of_finished: Any) -> None:
    space = copy_of_finished
    runs = {
        str(name).partition(" ")[0]: run_id
        for name, run_id in space.query("select name, run_uuid from runs")
    }
    with sqlite3.connect(space.folder / "mlflow.db") as store:
        for arm, commit in (("control", "a" * 40), ("both", "b" * 40)):
            store.execute(
                "update tags set value = ? where key = 'git_commit' and run_uuid = ?",
                (commit, runs[arm]),
            )
        query = "update runs set status = 'KILLED' where run_uuid = ?"
        store.execute(query, (runs["both"],))
    process = space.start("sweep", "tiny.yaml", "--dry-run")
    output, _ = process.communicate(timeout=280)
    assert process.returncode == 0, output
    assert "1 of 2 done, 1 of them by other code (git commit aaaaaaa), 1 interrupted" in output
    assert "1 interrupted ones go on from epochs of other code (git commit bbbbbbb)" in output


def test_row_37_results_of_other_code_in_the_cache_are_trained_anew_and_told(
    copy_of_finished: Any,
) -> None:
    space = copy_of_finished
    # As another clone with other code, on the same cache, would have left them.
    for path in space.cache.glob("*/*/made_by.json"):
        made_by = json.loads(path.read_text())["data"]
        other = [{**one, "code": "0" * 12, "commit": "c0ffee"} for one in made_by]
        write_record(path, path.parent.name, other)
    (space.folder / "mlflow.db").unlink()
    code, output = space.run("sweep", "tiny.yaml", timeout=600)
    assert code == 0, output
    (told,) = [line for line in output.splitlines() if "c0ffee" in line]
    assert told.startswith("3 in the cache") and "trained anew" in told
    tags = space.query("select distinct value from tags where key in ('code', 'git_commit')")
    assert ("0" * 12,) not in tags and ("c0ffee",) not in tags
    assert space.disorder() == []


@pytest.mark.skipif(not (ROOT / ".git").exists(), reason="no checkout of git")
def test_row_37_a_sign_flipped_in_a_second_clone_is_trained_anew_and_fails_the_check(
    new_workspace: Callable[..., Any], tmp_path: Path
) -> None:
    """On the cache that the first clone has filled, with an empty store."""
    # Long enough to be further from chance than the tolerance, on the few clips of this data set.
    space = new_workspace(24)
    spec = space.folder / "tiny.yaml"
    whole, _, _ = spec.read_text().replace("seeds: 1", "seeds: 6").partition("  control:")
    spec.write_text(f"{whole}  spatial: {{method.lambda_2: [0.0]}}\n")
    code, output = space.run("sweep", "tiny.yaml", timeout=1200)
    assert code == 0, output
    baseline = ("report", "baseline", "--sweep", "tiny.yaml", "--out", "baseline.json")
    code, output = space.run(*baseline)
    assert code == 0, output
    code, output = space.run("report", "check", "--baseline", "baseline.json")
    assert code == 0, output

    clone = tmp_path / "clone"
    subprocess.run(["git", "clone", "-q", str(ROOT), str(clone)], check=True)
    losses = clone / "cmkd" / "method" / "losses.py"
    loss = "ce = F.cross_entropy("
    assert losses.read_text().count(loss) == 1
    losses.write_text(losses.read_text().replace(loss, "ce = -F.cross_entropy("))
    (tmp_path / "second").mkdir()
    for name in ("tiny.yaml", "baseline.json"):
        shutil.copy(space.folder / name, tmp_path / "second")
    second = replace(space, folder=tmp_path / "second", environment={"PYTHONPATH": str(clone)})
    code, output = second.run("sweep", "tiny.yaml", timeout=1200)
    assert "12 in the cache made by" in output, output
    assert "do not count here, as the code differs" in output
    commits = {str(commit)[-6:] for (commit,) in second.query(COMMITS)}
    assert commits == {"-dirty"}, "all runs are of the second clone's code"
    code, output = second.run("report", "check", "--baseline", "baseline.json")
    assert code == 1, output


def test_row_38_results_of_this_code_are_taken_from_the_cache_and_told(
    copy_of_finished: Any,
) -> None:
    space = copy_of_finished
    before = {path: path.stat().st_mtime_ns for path in space.cache.glob("trials/*/outcome.json")}
    (space.folder / "mlflow.db").unlink()
    code, output = space.run("sweep", "tiny.yaml", timeout=600)
    assert code == 0, output
    told = [line for line in output.splitlines() if "3 taken from the cache, made by " in line]
    assert len(told) == 2, "before the sweep and at its end"
    assert before == {path: path.stat().st_mtime_ns for path in before}

    (space.folder / "mlflow.db").unlink()
    code, output = space.run("sweep", "tiny.yaml", "--fresh", timeout=600)
    assert code == 0, output
    assert "3 in the cache" in output and "--fresh" in output
    assert all(path.stat().st_mtime_ns > moment for path, moment in before.items())
    assert space.disorder() == []
