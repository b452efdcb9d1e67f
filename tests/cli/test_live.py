"""How a running sweep looks."""

from __future__ import annotations

import io
import sys

import pytest
from rich.console import Console

from cmkd.cli.status import LiveView, PlainView, sweep_view
from cmkd.sweep.progress import Progress, TrialProgress
from cmkd.tracking.store import EpochRecord


@pytest.fixture
def progress():
    names = ("control[tg=1+2]", "both")
    trials = {name: TrialProgress(name, f"{name} seed 0", 2) for name in names}
    return Progress(trials, clock=lambda: 0.0)


def test_without_a_terminal_there_is_one_line_per_event(progress):
    out = io.StringIO()
    with sweep_view(Console(file=out, width=40)) as view:
        assert isinstance(view, PlainView)
        view.stage("decoding clips", 0, 9)
        view.stage("decoding clips", 1, 9)
        view.stage("decoding clips", 9, 9)
        progress.started("control[tg=1+2]")
        view.show(progress)
        progress.advanced("control[tg=1+2]", 2, [EpochRecord(2, 0, {"val_acc": 50.0})])
        progress.finished("control[tg=1+2]", 62.5, 3.25)
        view.ended(progress.trials["control[tg=1+2]"], progress)
        progress.failed("both", "TrialFailed: why")
        view.ended(progress.trials["both"], progress)
    assert out.getvalue().splitlines() == [
        "decoding clips: 0/9",
        "decoding clips: 9/9",
        "[1/2] control[tg=1+2] seed 0: test 62.5 %, 3.2 s of training; "
        "1 done, 0 running, 0 failed, 1 to go",
        "[2/2] both seed 0: FAILED, TrialFailed: why; 1 done, 0 running, 1 failed, 0 to go",
    ]


def test_a_terminal_gets_a_table_with_the_best_of_each_arm(progress):
    out = io.StringIO()
    console = Console(file=out, force_terminal=True, width=100, color_system=None)
    with sweep_view(console) as view:
        assert isinstance(view, LiveView)
        progress.started("both")
        progress.advanced("both", 1, [EpochRecord(1, 0, {"val_acc": 41.5})])
        view.show(progress)
        progress.failed("control[tg=1+2]", "why")
        view.ended(progress.trials["control[tg=1+2]"], progress)
    text = out.getvalue()
    assert "control[tg=1+2] seed 0: FAILED, why" in text
    assert "41.5 %" in text
    assert "0 done, 1 running, 1 failed, 0 to go" in text


class Keyboard(io.StringIO):
    """Standard input with somebody at it."""

    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize(("answer", "agreed"), [("y\n", True), ("no\n", False), ("\n", False)])
def test_a_person_is_asked(monkeypatch, answer, agreed):
    out = io.StringIO()
    console = Console(file=out, force_terminal=True, width=100, color_system=None)
    monkeypatch.setattr(sys, "stdin", Keyboard(answer))
    with sweep_view(console) as view:
        assert view.confirm("201 trials; go on?") is agreed
    assert "201 trials; go on? [y/N]" in out.getvalue()


def test_where_nobody_is_there_the_answer_is_no(monkeypatch):
    monkeypatch.setattr(sys, "stdin", io.StringIO("y\n"))
    with sweep_view(Console(file=io.StringIO(), force_terminal=True)) as view:
        assert not view.confirm("go on?")
    with sweep_view(Console(file=io.StringIO())) as view:
        assert not view.confirm("go on?")
