"""Output of ``cmkd sweep``."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest
from typer.testing import CliRunner

from cmkd.cli.main import app
from cmkd.cli.sweep import next_steps, plan_json, plan_text, same_command, summary
from cmkd.config.sweep import Choice, load_sweep
from cmkd.errors import ConfigError, InputError
from cmkd.sweep.failures import Failure
from cmkd.sweep.interim_looks import Comparison
from cmkd.sweep.plan import make_plan
from cmkd.sweep.preflight import Preflight, Room, class_of, forecast
from cmkd.sweep.run import SweepResult
from cmkd.sweep.trials import expand
from cmkd.tracking.store import RunRecord, RunStatus
from tests.conftest import share_data


@pytest.fixture(scope="module")
def made(smoke_data, tmp_path_factory):
    """A cache that has the smoke data set."""
    return share_data(smoke_data, tmp_path_factory.mktemp("with-data") / "cache")


@pytest.fixture
def here(made, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("CMKD_CACHE", str(made))
    return tmp_path


def test_a_dry_run_lists_every_trial_and_makes_nothing(here):
    done = CliRunner().invoke(app, ["sweep", "smoke", "--seeds", "2", "--dry-run"])
    assert done.exit_code == 0, done.output
    header, *lines, counts, time = done.stdout.splitlines()
    assert header.split() == ["state", "trial", "fold", "seed", "arm", "axes"]
    assert [line.split()[0] for line in lines] == ["new"] * 6
    assert [line.split()[2:] for line in lines] == [
        ["0", seed, arm, *axes.split()]
        for seed in "01"
        for arm, axes in (
            ("baseline", "decoder=false lambda_1=0.0 lambda_2=0.0"),
            ("control", "decoder=true lambda_1=0.0 lambda_2=0.0"),
            ("both", "decoder=true lambda_1=0.1 lambda_2=1.0"),
        )
    ]
    assert counts == "0 of 6 done; 6 to run"
    assert re.fullmatch(
        r"about \d+ (s|min) \(\d+ (s|min) to \d+ (s|min)\) with \d+ workers, "
        r"[0-9.e-]+ device-hours; known from a measured step \(6\)",
        time,
    )
    assert list(here.iterdir()) == []


def test_the_json_of_a_plan_says_all_that_the_text_says():
    sweep = load_sweep("smoke").only(["control", "both"])
    trials = expand(sweep, data="d", data_id="id", folds=1, seeds=1)
    choice = Choice("best", "method.lambda_1", {0.1: 70.0, 0.5: 71.0}, 4)
    plan = replace(
        make_plan(trials, [RunRecord("r", trials[0].id, "FINISHED", {"git_commit": "x"}, {})]),
        choices=(choice,),
        waiting={"late": ("other",)},
        unlisted=2,
        comparisons=(Comparison("both", "control", 1.5, 2.0, 5, decided=False),),
    )
    cost = {class_of(trials[1].config.setting): np.array([4.0, 5.0, 7.0])}
    times = forecast(plan, {}, cost, workers=1)
    expected = Preflight(times, Room(7, (9, 5)), wanted=2, warnings=("no groups",))
    assert "no groups" in plan_text(plan, expected).splitlines()
    assert json.loads(json.dumps(plan_json(plan, expected))) == {
        "resources": {
            "workers": 1,
            "cpus_per_worker": 1,
            "bytes_per_worker": 7,
            "bytes_free": [9, 5],
        },
        "trials": [
            {
                "id": trial.id,
                "setting": trial.config.setting.id,
                "arms": [arm],
                "axes": {"method.lambda_1": first, "method.lambda_2": second},
                "fold": 0,
                "seed": 0,
                "state": state,
                "to_run": state == "new",
            }
            for trial, arm, first, second, state in zip(
                trials,
                ("control", "both"),
                ("0.0", "0.1"),
                ("0.0", "1.0"),
                ("done", "new"),
                strict=True,
            )
        ],
        "counts": {
            "done": 1,
            "pruned": 0,
            "failed": 0,
            "interrupted": 0,
            "new": 1,
            "to_run": 1,
            "merged": 0,
            "by_other_code": 1,
            "not_in_spec": 2,
        },
        "selected": {
            "best": {
                "key": "method.lambda_1",
                "value": 0.5,
                "candidates": [
                    {"value": 0.1, "mean_val_acc": 70.0},
                    {"value": 0.5, "mean_val_acc": 71.0},
                ],
            }
        },
        "orders": [
            {
                "arm": "both",
                "other": "control",
                "mean": 1.5,
                "half_width": 2.0,
                "seeds": 5,
                "decided": False,
            }
        ],
        "waiting": {"late": ["other"]},
        "warnings": ["no groups"],
        "forecast": {
            "wall_seconds": dict(zip(("low", "likely", "high"), times.wall.tolist(), strict=True)),
            "device_seconds": {"low": 8.5, "likely": 11.5, "high": 18.0},
            "trials_by_source": {"a measured step": 1},
        },
    }


def test_a_dry_run_says_in_its_json_what_it_is_of(here):
    done = CliRunner().invoke(app, ["sweep", "smoke", "--seeds", "1", "--dry-run", "--json"])
    assert done.exit_code == 0, done.output
    told = json.loads(done.stdout)
    assert [told[key] for key in ("schema", "sweep", "data", "seeds")] == [
        *(1, "smoke", "synthetic-smoke", 1)
    ]
    assert len(told["trials"]) == 3


@pytest.mark.parametrize("most", [6, 2])
def test_axes_of_one_name_are_told_apart_and_defaults_of_many_are_left_out(
    most, tmp_path, monkeypatch
):
    monkeypatch.setattr("cmkd.cli.sweep.MOST_AXES", most)
    path = tmp_path / "s.yaml"
    path.write_text(
        "name: s\ndescription: d\nblocks:\n"
        "  tsm: {student.backbone: [tiny_tsm], teacher.backbone: [tiny_tsm]}\n"
        "  tdn: {student.backbone: [tiny_tdn], teacher.backbone: [tiny_tdn], method.heads: [2]}\n"
    )
    trials = expand(load_sweep(str(path)), data="d", data_id="id", folds=1, seeds=1)
    plan = make_plan(trials, ())
    expected = Preflight(forecast(plan, {}, {}, workers=1), Room(), wanted=1)
    _, tsm, tdn, *_ = plan_text(plan, expected).splitlines()
    defaults = {"student.backbone=tiny_tsm", "teacher.backbone=tiny_tsm", "heads=1"}
    assert set(tsm.split()[5:]) == (defaults if most == 6 else set())
    assert set(tdn.split()[5:]) == {
        *("student.backbone=tiny_tdn", "teacher.backbone=tiny_tdn", "heads=2")
    }


def test_equal_arms_and_waiting_ones_are_shown(tmp_path):
    path = tmp_path / "s.yaml"
    path.write_text("name: s\ndescription: d\nblocks: {a: {}, b: {}}\n")
    trials = expand(load_sweep(str(path)), data="d", data_id="id", folds=1, seeds=1)
    plan = replace(make_plan(trials, ()), waiting={"late": ("best",)}, replicates=3)
    expected = Preflight(forecast(plan, {}, {}, workers=1), Room(), wanted=1)
    lines = plan_text(plan, expected).splitlines()
    assert lines[1].split()[2:] == ["0", "0", "a", "=", "b"]
    assert lines[2:-1] == [
        "0 of 1 done; 1 to run",
        "1 more are equal to one of these, which stands for them",
        "up to 3 more, in no forecast, wait for the selection of best",
        "late waits for best",
    ]


@pytest.mark.slow  # torch, in a process of its own
def test_an_axis_that_changes_nothing_is_refused_before_anything_starts(here):
    spec = here / "dead.yaml"
    spec.write_text(
        "name: dead\ndescription: d\ndata: synthetic-smoke\nbase: {method.logits: 'off'}\n"
        "blocks:\n  a: {method.lambda_logits: [0.5, 1.0], method.lambda_1: [0.1, 0.2]}\n"
    )
    done = CliRunner().invoke(app, ["sweep", "dead.yaml", "--seeds", "1", "--dry-run"])
    assert isinstance(done.exception, ConfigError)
    assert str(done.exception).startswith("method.lambda_logits: the values of this axis give")


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (["smoke", "--only", "bot"], "no arm matches 'bot'; did you mean 'both'?"),
        ([], "give a spec or --table NUMBER, and not both"),
        (["smoke", "--table", "4"], "give a spec or --table NUMBER, and not both"),
        (["--table", "6"], "no table 6 that is swept; known: 1, 2, 3, 4, 5"),
        (["ablation", "--until-decided", "5"], "--until-decided 5: it goes on from 5 seeds"),
        (["smoke", "--until-decided", "9"], "give --seeds 3 or more"),
        (["smoke", "--workers", "1", "--processes", "2"], "give a number from 1 to 1"),
        (["smoke", "--processes", "0"], "--processes 0: they are taken from the"),
    ],
)
def test_what_cannot_be_swept_is_bad_input(here, options, says):
    done = CliRunner().invoke(app, ["sweep", *options])
    assert isinstance(done.exception, InputError)
    assert says in str(done.exception)


# MLflow's own, against SQLAlchemy 2.1.
@pytest.mark.filterwarnings("ignore:.*noload:DeprecationWarning")
@pytest.mark.parametrize("options", [["--dry-run"], ["--workers", "1"]])
def test_weights_that_were_not_imported_are_refused_before_anything_starts(here, options):
    spec = here / "imported.yaml"
    spec.write_text(
        "name: imported\ndescription: d\ndata: synthetic-smoke\n"
        "base: {student.p_weights: absent}\nblocks:\n  a: {}\n"
    )
    done = CliRunner().invoke(app, ["sweep", "imported.yaml", "--seeds", "1", *options])
    assert isinstance(done.exception, InputError)
    assert str(done.exception).startswith("weights 'absent': no such id; nothing has been imported")
    assert "starting" not in done.output


@pytest.mark.slow  # torch, in a process of its own
def test_a_large_sweep_runs_only_when_it_is_allowed(here):
    spec = here / "large.yaml"
    values = ", ".join(f"0.{n:02}" for n in range(1, 68))
    spec.write_text(
        "name: large\ndescription: d\ndata: synthetic-smoke\nseeds: 3\n"
        "base: {student.width: 4, teacher.width: 4, method.heads: 1, method.hidden: 4}\n"
        f"blocks:\n  a: {{method.lambda_1: [{values}]}}\n"
    )
    command = [sys.executable, "-m", "cmkd", "sweep", "large.yaml", "--workers", "1"]
    done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True)
    assert done.returncode == 2
    assert re.match(
        r"cmkd: 201 trials are to run, in about .*; --yes runs it, --dry-run lists it", done.stderr
    )
    assert "starting" not in done.stdout


def test_the_command_to_go_on_repeats_the_options_and_no_password():
    given = ["sweep", "a b.yaml", "--only", "a*", "--seeds", "3", "--fresh", "--retry-failed"]
    plain = "cmkd sweep 'a b.yaml' --only 'a*' --seeds 3"
    assert same_command(given, None) == plain
    store = "sqlite:///a b.db"
    assert same_command([*given, "--tracking-uri", store], store) == (
        f"{plain} --tracking-uri '{store}'"
    )
    for uri in ("postgresql://me:secret@h/db", "postgresql://h/db?password=secret"):
        for words in (["--tracking-uri", uri], [f"--tracking-uri={uri}"]):
            command = same_command([*given, *words], uri)
            assert command == f"{plain} (with MLFLOW_TRACKING_URI set)"


def test_the_end_of_a_sweep_names_the_commands_that_go_on_from_it(tmp_path, monkeypatch):
    monkeypatch.setenv("CMKD_CACHE", str(tmp_path))
    trials = expand(load_sweep("smoke"), data="d", data_id="i", folds=1, seeds=1)
    runs = [RunRecord("r", trial.id, "FINISHED", {}, {}) for trial in trials]
    plan, tables = make_plan(trials, runs), "tables and figures: cmkd report tables --data d"
    assert next_steps(plan, "ablation", "d", None) == [tables]
    uri = "sqlite:///a.db"
    assert next_steps(plan, "smoke", "d", uri) == [f"{tables} --sweep smoke --tracking-uri {uri}"]
    for trial in trials[1:]:
        (tmp_path / "trials" / trial.id).mkdir(parents=True)
        (tmp_path / "trials" / trial.id / "student.json").touch()
    assert next_steps(plan, "smoke", "d", None)[1] == (
        f"classes of a video by both seed 0 fold 0: cmkd predict {trials[2].id} VIDEO"
    )


def test_the_summary_groups_failures():
    trials = expand(load_sweep("smoke"), data="d", data_id="i", folds=1, seeds=1)
    failures = tuple((trial.name, Failure("E", "why", "", 0)) for trial in trials[:2])
    ends: tuple[RunStatus, ...] = ("FAILED", "FAILED", "FINISHED")
    cause = {"failure_kind": "TrialFailed"}
    runs = [RunRecord("r", t.id, end, cause, {}) for t, end in zip(trials, ends, strict=True)]
    outcome = SweepResult(make_plan(trials, runs), 1, failures, 100.0)
    assert summary(outcome, "cmkd sweep smoke").splitlines() == [
        "1 of 3 done, 1 of them now, in 2 min",
        "2 failed:",
        "  2 x E: why [baseline seed 0 fold 0, control seed 0 fold 0]",
        "to try what failed again: cmkd sweep smoke --retry-failed",
    ]
    taken = replace(outcome, failures=(), taken={"git commit 0123456": 1})
    assert summary(taken, "cmkd sweep smoke").splitlines()[1] == (
        "1 taken from the cache, made by git commit 0123456"
    )
    later = replace(outcome, finished=0, failures=())
    assert summary(later, "cmkd sweep smoke").splitlines()[0] == "nothing to train: 1 of 3 done"
