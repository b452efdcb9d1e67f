"""``cmkd status``: how the sweeps stand, from any terminal and without touching them."""

from __future__ import annotations

import json
import time
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated

import typer

from cmkd.config.paths import cache_root
from cmkd.errors import InfrastructureError
from cmkd.machine import named
from cmkd.tracking.uri import default_uri, store_exists

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

    from cmkd.sweep.status import SweepStatus

SCHEMA = 1
"""Raised when a key of the JSON goes or changes its meaning; new keys may come any time."""


def status(
    last: Annotated[
        int, typer.Option(metavar="NUMBER", min=1, help="Sweeps to show, the latest ones.")
    ] = 3,
    tracking_uri: Annotated[
        str | None,
        typer.Option(help="MLflow store; default: MLFLOW_TRACKING_URI, else ./mlflow.db."),
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
        typer.echo("no sweep yet in this cache or store; start one with: cmkd sweep smoke")
        return
    console = Console()
    for number, status in enumerate(shown):
        if number:
            console.print()
        _print(console, status)


def _statuses(tracking_uri: str | None) -> list[SweepStatus]:
    """Those that drivers of this cache kept, then what else the store has."""
    from cmkd.sweep.status import named_store, saved_statuses, statuses_of_store

    kept = saved_statuses(cache_root())
    uri = tracking_uri or default_uri()
    if tracking_uri is not None:
        kept = [one for one in kept if one.store == named_store(uri)]
    if not store_exists(uri):
        return kept
    from cmkd.tracking.reader import open_reader

    known = {(one.sweep, one.data, one.store) for one in kept}
    try:
        runs = open_reader(uri).find({"kind": "trial"})
    except InfrastructureError as error:
        if not kept:
            raise
        typer.echo(f"cmkd: {error}; this is what the cache knows", err=True)
        return kept
    stored = statuses_of_store(runs, named_store(uri))
    return [*kept, *(one for one in stored if (one.sweep, one.data, one.store) not in known)]


def _print(console: Console, one: SweepStatus) -> None:
    from rich.text import Text

    lines = [f"{one.sweep} on {one.data}: {_state(one)}", f"  {_counts(one)}"]
    if one.stage:
        lines.append(f"  {one.stage}")
    console.print(Text("\n".join(lines)), soft_wrap=True)
    if one.arms:
        console.print(_table(one))
    running = [f"  {run.name}: epoch {run.epoch} of {run.epochs}" for run in one.training]
    failures = [f"  failed: {line}" for line in one.failures]
    console.print(Text("\n".join([*running, *failures, f"  store {one.store}"])), soft_wrap=True)


def _state(one: SweepStatus) -> str:
    from cmkd.sweep.forecast import duration

    if not one.owner:
        return "as the store has it"
    now = time.time()
    if one.state == "running":
        since = f"for {duration(now - one.started)} now by {named(one.owner)}"
        left = one.seconds_left
        ago = now - one.updated
        return f"running {since}" + (
            f", about {duration(max(0.0, left - ago))} left" if left is not None else ""
        )
    moment = time.strftime("%Y-%m-%d %H:%M", time.localtime(one.updated))
    if one.state == "died":
        return f"{named(one.owner)} died, last seen {moment}; the same command goes on"
    return f"{one.ending} ({moment})"


def _counts(one: SweepStatus) -> str:
    parts = [f"{one.done} done", f"{one.running} running", f"{one.failed} failed"]
    if one.pruned:
        parts.insert(1, f"{one.pruned} pruned")
    if one.to_go is not None:
        parts.append(f"{one.to_go} to go")
    return ", ".join(parts)


def _table(one: SweepStatus) -> Table:
    from rich.table import Table
    from rich.text import Text

    table = Table("  arm", box=None)
    for title in ("done", "running", "failed", "to go", "best val. acc."):
        table.add_column(title, justify="right")
    for arm in one.arms:
        to_go = "" if one.to_go is None else str(arm.to_go)
        best = "-" if arm.best_val_acc is None else f"{arm.best_val_acc:.1f} %"
        counts = (str(arm.done), str(arm.running), str(arm.failed), to_go)
        table.add_row(Text(f"  {arm.arm}"), *counts, best)
    return table
