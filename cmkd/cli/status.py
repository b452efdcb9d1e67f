"""Progress of sweeps: what `cmkd sweep` shows while it runs, and ``cmkd status``."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from typing import Annotated

import typer
from rich.console import Console, Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

from cmkd.cli.work import AsJson
from cmkd.config.paths import cache_root
from cmkd.machine import named
from cmkd.sweep.progress import (
    Progress,
    SweepStatus,
    SweepView,
    TrialProgress,
    duration,
    named_store,
    saved_statuses,
)

SCHEMA = 1
"""Raised when a key of the JSON goes or changes its meaning; new keys may come any time."""
REFRESH_SECONDS = 0.25
SHOWN_RUNNING = 8
STAGE_SECONDS = 5.0
"""Least time between two plain lines about one stage."""


def status(
    last: Annotated[
        int, typer.Option(metavar="NUMBER", min=1, help="Sweeps to show, the latest ones.")
    ] = 3,
    tracking_uri: Annotated[
        str | None, typer.Option(help="Only sweeps recorded in this store.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Show running and last sweeps: progress, time left, best per arm, failures."""
    store = named_store(tracking_uri) if tracking_uri else None
    found = [sweep for sweep in saved_statuses(cache_root()) if store in (None, sweep.store)]
    shown = found[:last]
    if as_json:
        document = {"schema": SCHEMA, "sweeps": [{**asdict(s), "state": s.state} for s in shown]}
        typer.echo(json.dumps(document, indent=2))
        return
    if not shown:
        typer.echo("no sweep yet in this cache; start one with: cmkd sweep smoke")
    console = Console()
    for number, sweep in enumerate(shown):
        head = [f"{sweep.sweep} on {sweep.data}: {_state(sweep)}"]
        # Before the first plan, as right after a resume, nothing is counted yet.
        head += [f"  {_counts(sweep)}"] if sweep.arms else []
        head += [f"  {sweep.stage}"] if sweep.stage else []
        running = [f"  {run.name}: epoch {run.epoch} of {run.epochs}" for run in sweep.training]
        failures = [f"  failed: {line}" for line in sweep.failures]
        tail = [*running, *failures, f"  store {sweep.store}"]
        if number:
            console.print()
        console.print(Text("\n".join(head)), soft_wrap=True)
        if sweep.arms:
            console.print(_table(sweep))
        console.print(Text("\n".join(tail)), soft_wrap=True)


def _state(sweep: SweepStatus) -> str:
    now = time.time()
    if sweep.state == "running":
        since = f"running for {duration(now - sweep.started)} now by {named(sweep.owner)}"
        if sweep.seconds_left is None:
            return since
        left = max(0.0, sweep.seconds_left - (now - sweep.updated))
        return f"{since}, about {duration(left)} left"
    moment = time.strftime("%Y-%m-%d %H:%M", time.localtime(sweep.updated))
    if sweep.state == "died":
        return f"{named(sweep.owner)} died, last seen {moment}; the same command goes on"
    return f"{sweep.ending} ({moment})"


def _counts(sweep: SweepStatus) -> str:
    pruned = [f"{sweep.pruned} pruned"] if sweep.pruned else []
    parts = [f"{sweep.done} done", *pruned, f"{sweep.running} running", f"{sweep.failed} failed"]
    return ", ".join([*parts, f"{sweep.to_go} to go"])


def _table(sweep: SweepStatus) -> Table:
    table = Table("  arm", box=None)
    for title in ("done", "running", "failed", "to go", "best val. acc."):
        table.add_column(title, justify="right")
    for arm in sweep.arms:
        counts = map(str, (arm.done, arm.running, arm.failed, arm.to_go))
        table.add_row(Text(f"  {arm.arm}"), *counts, _percent(arm.best_val_acc))
    return table


def _percent(value: float | None) -> str:
    return "-" if value is None else f"{value:.1f} %"


@contextmanager
def sweep_view(console: Console) -> Iterator[SweepView]:
    """View of a sweep that runs in the block: a live table on a terminal, else plain lines."""
    if not console.is_terminal or console.quiet:
        yield PlainView(console)
        return
    with Live(console=console, auto_refresh=False, transient=True) as live:
        yield LiveView(live)


class PlainView(SweepView):
    """One line per event, for logs and pipes."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._stage = ""
        self._said = 0.0

    def confirm(self, question: str) -> bool:
        """False: nobody is there."""
        return False

    def note(self, text: str) -> None:
        """Print the line."""
        self._console.print(Text(text), soft_wrap=True)

    def stage(self, text: str, done: int, total: int) -> None:
        """Print the start, the end and, every few seconds, how far it is."""
        now = time.monotonic()
        line = f"{text}: {done}/{total}"
        soon = now - self._said < STAGE_SECONDS and self._stage.startswith(f"{text}:")
        if line != self._stage and (done == total or not soon):
            self._stage, self._said = line, now
            self.note(line)

    def show(self, progress: Progress) -> None:
        """Print how far the teachers are; of trials only the ends are printed."""
        if any(trial.status == "running" for trial in progress.teachers.values()):
            done = sum(trial.epoch for trial in progress.teachers.values())
            total = sum(trial.epochs for trial in progress.teachers.values())
            self.stage("epochs of teachers", done, total)

    def ended(self, trial: TrialProgress, progress: Progress) -> None:
        """Print the result with the counts."""
        now = _now(progress)
        over = now.done + now.pruned + now.failed
        counts = _counts_and_time(now)
        self.note(f"[{over}/{len(progress.trials)}] {_result(trial)}; {counts}")


class LiveView(SweepView):
    """A table that is redrawn in place; notes and failures scroll above it."""

    def __init__(self, live: Live) -> None:
        self._live = live
        self._drawn = 0.0

    def confirm(self, question: str) -> bool:
        """Ask, where there is a keyboard too."""
        if not sys.stdin.isatty():
            return False
        self._live.stop()
        answer = self._live.console.input(Text(f"{question} [y/N] "))
        self._live.start()
        return answer.strip().lower() in ("y", "yes")

    def note(self, text: str) -> None:
        """Print the line above the table."""
        self._live.console.print(Text(text))

    def stage(self, text: str, done: int, total: int) -> None:
        """Show how far the stage is."""
        if done == total or self._is_due():
            self._live.update(Text(f"{text}: {done}/{total}"), refresh=True)

    def show(self, progress: Progress) -> None:
        """Redraw the table, a few times a second at most."""
        if self._is_due():
            self._live.update(_picture(progress), refresh=True)

    def ended(self, trial: TrialProgress, progress: Progress) -> None:
        """Redraw; a failure is also printed."""
        if trial.status == "failed":
            self.note(_result(trial))
        self._live.update(_picture(progress), refresh=True)

    def _is_due(self) -> bool:
        """True a few times a second."""
        if time.monotonic() - self._drawn < REFRESH_SECONDS:
            return False
        self._drawn = time.monotonic()
        return True


def _now(progress: Progress) -> SweepStatus:
    return SweepStatus("", "", "", "").at(progress)


def _result(trial: TrialProgress) -> str:
    if trial.status == "failed":
        return f"{trial.name}: FAILED, {trial.cause}"
    if trial.status == "pruned":
        return f"{trial.name}: {trial.cause}"
    return f"{trial.name}: test {_percent(trial.test_acc)}, {trial.seconds:.1f} s of training"


def _counts_and_time(now: SweepStatus) -> str:
    left = f", about {duration(now.seconds_left)} left" if now.seconds_left else ""
    return f"{_counts(now)}{left}"


def _picture(progress: Progress) -> Group:
    """Counts, running trials, table by arm; a low terminal cuts off the end."""
    now = _now(progress)
    lines = [
        f"{trial.name}: epoch {trial.epoch} of {trial.epochs}"
        for trial in now.training[:SHOWN_RUNNING]
    ]
    if len(now.training) > SHOWN_RUNNING:
        lines.append(f"and {len(now.training) - SHOWN_RUNNING} more")
    return Group(
        Text(_counts_and_time(now)),
        *(Text(f"  {line}", style="dim", overflow="ellipsis", no_wrap=True) for line in lines),
        _table(now),
    )
