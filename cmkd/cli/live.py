"""Views of a running sweep: a live table on a terminal, plain lines elsewhere."""

from __future__ import annotations

import sys
import time
from types import TracebackType
from typing import Self

from rich.console import Console, Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

from cmkd.sweep.progress import Progress, Status, SweepView, TrialProgress, duration

REFRESH_SECONDS = 0.25
SHOWN_RUNNING = 8
STAGE_SECONDS = 5.0
"""Least time between two plain lines about one stage."""


def make_view(console: Console) -> PlainView | LiveView:
    """The view that suits the console."""
    is_live = console.is_terminal and not console.quiet
    return LiveView(console) if is_live else PlainView(console)


class PlainView(SweepView):
    """One line per event, for logs and pipes."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._stage = ""
        self._said = 0.0

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        pass

    def confirm(self, question: str) -> bool:
        """False: nobody is there."""
        return False

    def note(self, text: str) -> None:
        """Print the line."""
        self._line(text)

    def stage(self, text: str, done: int, total: int) -> None:
        """Print the start, the end and, every few seconds, how far it is."""
        now = time.monotonic()
        line = f"{text}: {done}/{total}"
        soon = now - self._said < STAGE_SECONDS and self._stage.startswith(f"{text}:")
        if line != self._stage and (done == total or not soon):
            self._stage, self._said = line, now
            self._line(line)

    def show(self, progress: Progress) -> None:
        """Print how far the teachers are; of trials only the ends are printed."""
        if any(trial.status == "running" for trial in progress.teachers.values()):
            done = sum(trial.epoch for trial in progress.teachers.values())
            total = sum(trial.epochs for trial in progress.teachers.values())
            self.stage("training teachers", done, total)

    def ended(self, trial: TrialProgress, progress: Progress) -> None:
        """Print the result with the counts."""
        self._line(
            f"[{_over(progress)}/{len(progress.trials)}] {_result(trial)}; {_counts(progress)}"
        )

    def _line(self, text: str) -> None:
        self._console.print(Text(text), soft_wrap=True)


class LiveView(SweepView):
    """A table that is redrawn in place; notes and failures scroll above it."""

    def __init__(self, console: Console) -> None:
        self._live = Live(console=console, auto_refresh=False, transient=True)
        self._drawn = 0.0

    def __enter__(self) -> Self:
        self._live.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._live.stop()

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
        self._draw(Text(f"{text}: {done}/{total}"), force=done == total)

    def show(self, progress: Progress) -> None:
        """Redraw the table, a few times a second at most."""
        self._draw(_picture(progress))

    def ended(self, trial: TrialProgress, progress: Progress) -> None:
        """Redraw; a failure is also printed."""
        if trial.status == "failed":
            self.note(_result(trial))
        self._draw(_picture(progress), force=True)

    def _draw(self, picture: Text | Group, *, force: bool = False) -> None:
        now = time.monotonic()
        if force or now - self._drawn >= REFRESH_SECONDS:
            self._drawn = now
            self._live.update(picture, refresh=True)


def _over(progress: Progress) -> int:
    return sum(progress.count(status) for status in ("done", "pruned", "failed"))


def _result(trial: TrialProgress) -> str:
    if trial.status == "failed":
        return f"{trial.name}: FAILED, {trial.cause}"
    if trial.status == "pruned":
        return f"{trial.name}: {trial.cause}"
    return f"{trial.name}: test {_percent(trial.test_acc)}, {trial.seconds:.1f} s of training"


def _counts(progress: Progress) -> str:
    left = progress.seconds_left()
    shown: tuple[Status, ...] = ("done", "running", "failed", "to go")
    if progress.count("pruned"):
        shown = ("done", "pruned", *shown[1:])
    parts = [f"{progress.count(s)} {s}" for s in shown]
    return ", ".join(parts) + (f", about {duration(left)} left" if left else "")


def _picture(progress: Progress) -> Group:
    """Counts, running trials, table by arm; a low terminal cuts off the end."""
    everyone = [*progress.teachers.values(), *progress.trials.values()]
    running = [trial for trial in everyone if trial.status == "running"]
    lines = [
        f"{trial.name}: epoch {trial.epoch} of {trial.epochs}" for trial in running[:SHOWN_RUNNING]
    ]
    if len(running) > SHOWN_RUNNING:
        lines.append(f"and {len(running) - SHOWN_RUNNING} more")
    return Group(
        Text(_counts(progress)),
        *(Text(f"  {line}", style="dim", overflow="ellipsis", no_wrap=True) for line in lines),
        _table(progress),
    )


def _table(progress: Progress) -> Table:
    table = Table("arm", box=None)
    for title in ("done", "running", "failed", "to go", "best val. acc. so far"):
        table.add_column(title, justify="right")
    for arm in progress.arms():
        cells = [str(progress.count(s, arm)) for s in ("done", "running", "failed", "to go")]
        table.add_row(Text(arm), *cells, _percent(progress.best(arm)))
    return table


def _percent(value: float | None) -> str:
    return "-" if value is None else f"{value:.1f} %"
