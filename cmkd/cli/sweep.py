"""``cmkd sweep``: show or run what a sweep still lacks."""

from __future__ import annotations

import json
import shlex
from typing import TYPE_CHECKING, Annotated

import typer

from cmkd.tracking.location import redact

if TYPE_CHECKING:
    from cmkd.sweep.plan import Plan
    from cmkd.sweep.session import SweepOutcome


def sweep(
    name: Annotated[str, typer.Argument(help="A spec: its name, or a path to a YAML file.")],
    data: Annotated[
        str | None, typer.Option(help="Data set, by name or path; default: the spec's.")
    ] = None,
    seeds: Annotated[
        int | None, typer.Option(min=1, max=1000, help="Seeds per arm; default: the spec's.")
    ] = None,
    workers: Annotated[
        int | None, typer.Option(help="Trials trained at once; default: one per CPU.")
    ] = None,
    tracking_uri: Annotated[
        str | None,
        typer.Option(help="MLflow store; default: MLFLOW_TRACKING_URI, else ./mlflow.db."),
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only list the trials.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print the result as JSON.")] = False,
) -> None:
    """Train every trial of a sweep that has no successful run; the same command resumes."""
    from rich.console import Console

    from cmkd.cli.live import make_view
    from cmkd.config.paths import usable_cache
    from cmkd.config.sweep import load_sweep
    from cmkd.data.pool import usable_cpus
    from cmkd.errors import InfrastructureError
    from cmkd.sweep.session import SweepRequest, preview, run_sweep
    from cmkd.sweep.signals import Interrupted

    loaded = load_sweep(name)
    request = SweepRequest(
        sweep=loaded,
        data=data or loaded.spec.data,
        seeds=seeds or loaded.spec.seeds,
        workers=usable_cpus() if workers is None else workers,
        cache=usable_cache(),
        tracking_uri=tracking_uri,
    )
    command = _command(name, data, seeds, workers, tracking_uri)
    # What a program reads goes to stdout alone.
    with make_view(Console(stderr=as_json or dry_run)) as view:
        if dry_run:
            plan = preview(request, view)
        else:
            try:
                outcome = run_sweep(request, view)
            except InfrastructureError as error:
                raise InfrastructureError(f"{error}; to go on: {command}") from error
            except Interrupted:
                view.note(f"to go on: {command}")
                raise
    if dry_run:
        typer.echo(json.dumps(_plan_json(plan), indent=2) if as_json else _plan_text(plan))
        return
    typer.echo(
        json.dumps(_outcome_json(outcome), indent=2) if as_json else _summary(outcome, command)
    )
    if outcome.failures:
        raise typer.Exit(1)


def _command(
    name: str, data: str | None, seeds: int | None, workers: int | None, uri: str | None
) -> str:
    options = {"--data": data, "--seeds": seeds, "--workers": workers}
    words = ["cmkd", "sweep", name]
    words += [str(word) for key, value in options.items() if value for word in (key, value)]
    if uri and redact(uri) != uri:
        return f"{shlex.join(words)} (with MLFLOW_TRACKING_URI set)"
    return shlex.join([*words, "--tracking-uri", uri] if uri else words)


def _plan_text(plan: Plan) -> str:
    rows = [
        (plan.states[t.id], t.id, str(t.config.fold), str(t.config.seed), " = ".join(t.arms))
        for t in plan.trials
    ]
    table = [("state", "trial", "fold", "seed", "arm"), *rows]
    widths = [max(len(row[column]) for row in table) for column in range(4)]
    lines = [
        "  ".join([*(cell.ljust(w) for cell, w in zip(row, widths, strict=False)), row[4]])
        for row in table
    ]
    return "\n".join([*lines, plan.describe()])


def _plan_json(plan: Plan) -> dict[str, object]:
    trials = [
        {
            "id": trial.id,
            "arms": list(trial.arms),
            "fold": trial.config.fold,
            "seed": trial.config.seed,
            "state": plan.states[trial.id],
        }
        for trial in plan.trials
    ]
    return {"trials": trials, "done": plan.count("done"), "to_run": len(plan.to_run)}


def _outcome_json(outcome: SweepOutcome) -> dict[str, object]:
    return {
        "trials": len(outcome.plan.trials),
        "done_before": outcome.plan.count("done"),
        "finished": outcome.finished,
        "failures": [
            {"name": name, "cause": failure.cause, "epoch": failure.epoch}
            for name, failure in outcome.failures
        ],
        "seconds": round(outcome.seconds, 1),
    }


def _summary(outcome: SweepOutcome, command: str) -> str:
    from cmkd.cli.live import duration
    from cmkd.sweep.failures import digest

    plan = outcome.plan
    done = plan.count("done") + outcome.finished
    if not plan.to_run:
        return f"nothing to train: {done} of {len(plan.trials)} done"
    took = f"{done} of {len(plan.trials)} trials done, {outcome.finished} of them now"
    lines = [f"{took}, in {duration(outcome.seconds)}"]
    if outcome.failures:
        lines.append(f"{len(outcome.failures)} failed:")
        lines += [f"  {line}" for line in digest(outcome.failures)]
        lines.append(f"to try these again: {command}")
    return "\n".join(lines)
