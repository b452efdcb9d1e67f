"""``cmkd status``: progress of the sweeps of this cache, from any terminal."""

from __future__ import annotations

import json
import time
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated

import typer

from cmkd.config.paths import cache_root
from cmkd.machine import named

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

    from cmkd.sweep.progress import SweepStatus

SCHEMA = 1
"""Raised when a key of the JSON goes or changes its meaning; new keys may come any time."""


def status(
    last: Annotated[
        int, typer.Option(metavar="NUMBER", min=1, help="Sweeps to show, the latest ones.")
    ] = 3,
    tracking_uri: Annotated[
        str | None,
        typer.Option(help="Only sweeps recorded in this store."),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print it as JSON.")] = False,
) -> None:
    """Show running and last sweeps: progress, time left, best per arm, failures."""
    from rich.console import Console

    shown = _statuses(tracking_uri)[:last]
    if as_json:
        document = {"schema": SCHEMA, "sweeps": [{**asdict(s), "state": s.state} for s in shown]}
        typer.echo(json.dumps(document, indent=2))
        return
    if not shown:
        typer.echo("no sweep yet in this cache; start one with: cmkd sweep smoke")
        return
    console = Console()
    for number, status in enumerate(shown):
        if number:
            console.print()
        _print(console, status)


def _statuses(tracking_uri: str | None) -> list[SweepStatus]:
    from cmkd.sweep.progress import named_store, saved_statuses

    found = saved_statuses(cache_root())
    if tracking_uri is None:
        return found
    return [sweep for sweep in found if sweep.store == named_store(tracking_uri)]


def _print(console: Console, sweep: SweepStatus) -> None:
    from rich.text import Text

    lines = [f"{sweep.sweep} on {sweep.data}: {_state(sweep)}", f"  {_counts(sweep)}"]
    if sweep.stage:
        lines.append(f"  {sweep.stage}")
    console.print(Text("\n".join(lines)), soft_wrap=True)
    if sweep.arms:
        console.print(_table(sweep))
    running = [f"  {run.name}: epoch {run.epoch} of {run.epochs}" for run in sweep.training]
    failures = [f"  failed: {line}" for line in sweep.failures]
    console.print(Text("\n".join([*running, *failures, f"  store {sweep.store}"])), soft_wrap=True)


def _state(sweep: SweepStatus) -> str:
    from cmkd.sweep.progress import duration

    now = time.time()
    if sweep.state == "running":
        since = f"for {duration(now - sweep.started)} now by {named(sweep.owner)}"
        left = sweep.seconds_left
        ago = now - sweep.updated
        return f"running {since}" + (
            f", about {duration(max(0.0, left - ago))} left" if left is not None else ""
        )
    moment = time.strftime("%Y-%m-%d %H:%M", time.localtime(sweep.updated))
    if sweep.state == "died":
        return f"{named(sweep.owner)} died, last seen {moment}; the same command goes on"
    return f"{sweep.ending} ({moment})"


def _counts(sweep: SweepStatus) -> str:
    parts = [f"{sweep.done} done", f"{sweep.running} running", f"{sweep.failed} failed"]
    if sweep.pruned:
        parts.insert(1, f"{sweep.pruned} pruned")
    parts.append(f"{sweep.to_go} to go")
    return ", ".join(parts)


def _table(sweep: SweepStatus) -> Table:
    from rich.table import Table
    from rich.text import Text

    table = Table("  arm", box=None)
    for title in ("done", "running", "failed", "to go", "best val. acc."):
        table.add_column(title, justify="right")
    for arm in sweep.arms:
        best = "-" if arm.best_val_acc is None else f"{arm.best_val_acc:.1f} %"
        counts = (str(arm.done), str(arm.running), str(arm.failed), str(arm.to_go))
        table.add_row(Text(f"  {arm.arm}"), *counts, best)
    return table
