"""What ``cmkd sweep`` prints."""

from __future__ import annotations

import json

import pytest
from typer.testing import CliRunner

from cmkd.cli.main import app
from cmkd.cli.sweep import _command, _summary
from cmkd.config.paths import cache_root
from cmkd.config.sweep import load_sweep
from cmkd.data.datasets import open_dataset
from cmkd.sweep.expand import expand
from cmkd.sweep.failures import Failure
from cmkd.sweep.plan import make_plan
from cmkd.sweep.session import SweepOutcome


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A cache that has the smoke data set."""
    cache = tmp_path_factory.mktemp("cache")
    open_dataset("synthetic-smoke", cache)
    return cache


@pytest.fixture
def here(made, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("CMKD_CACHE", str(made))
    return tmp_path


def test_a_dry_run_lists_every_trial_and_makes_nothing(here):
    done = CliRunner().invoke(app, ["sweep", "smoke", "--seeds", "2", "--dry-run"])
    assert done.exit_code == 0, done.output
    header, *lines, counts = done.stdout.splitlines()
    assert header.split() == ["state", "trial", "fold", "seed", "arm"]
    assert [line.split()[0] for line in lines] == ["new"] * 6
    assert [line.split()[2:] for line in lines] == [
        ["0", seed, arm] for seed in "01" for arm in ("baseline", "control", "both")
    ]
    assert counts == "0 of 6 done; 6 to run"
    assert list(here.iterdir()) == []


def test_a_dry_run_speaks_json(here):
    done = CliRunner().invoke(app, ["sweep", "smoke", "--dry-run", "--json"])
    plan = json.loads(done.stdout)
    dataset = open_dataset("synthetic-smoke", cache_root())
    expected = expand(
        load_sweep("smoke"), data="synthetic-smoke", data_id=dataset.id, folds=1, seeds=1
    )
    assert [trial["id"] for trial in plan["trials"]] == [trial.id for trial in expected]
    assert plan["trials"][0] == {
        "id": expected[0].id,
        "arms": ["baseline"],
        "fold": 0,
        "seed": 0,
        "state": "new",
    }
    assert (plan["done"], plan["to_run"]) == (0, 3)


def test_the_command_to_go_on_repeats_the_options_and_no_password():
    assert _command("smoke", None, None, None, None) == "cmkd sweep smoke"
    options = "cmkd sweep 'a b.yaml' --data x --seeds 3 --workers 1"
    assert (
        _command("a b.yaml", "x", 3, 1, "sqlite:///a b.db")
        == f"{options} --tracking-uri 'sqlite:///a b.db'"
    )
    for uri in ("postgresql://me:secret@h/db", "postgresql://h/db?password=secret"):
        command = _command("a b.yaml", "x", 3, 1, uri)
        assert command == f"{options} (with MLFLOW_TRACKING_URI set)"


def test_the_summary_groups_failures():
    trials = expand(load_sweep("smoke"), data="d", data_id="i", folds=1, seeds=1)
    failures = tuple((trial.name, Failure("E", "why", "", 0)) for trial in trials[:2])
    text = _summary(SweepOutcome(make_plan(trials, None), 1, failures, 100.0), "cmkd sweep smoke")
    assert text.splitlines() == [
        "1 of 3 trials done, 1 of them now, in 2 min",
        "2 failed:",
        "  2 x E: why [baseline fold 0 seed 0, control fold 0 seed 0]",
        "to try these again: cmkd sweep smoke",
    ]
