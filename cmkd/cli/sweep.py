"""``cmkd sweep``: show or run what a sweep still lacks."""

from __future__ import annotations

import json
import shlex
from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from cmkd.errors import InputError
from cmkd.sweep.plan import Plan, TrialState, axes_of
from cmkd.sweep.preflight import Preflight
from cmkd.sweep.survey import SweepRequest
from cmkd.tracking.uri import redact

if TYPE_CHECKING:
    from cmkd.sweep.run import SweepResult


SCHEMA = 1
"""Raised when a key of the JSON goes or changes its meaning; new keys may come any time."""
STATES: tuple[TrialState, ...] = ("done", "pruned", "failed", "interrupted", "new")


def plan_text(plan: Plan, expected: Preflight) -> str:
    """A line per trial, then what is to know of all of them."""
    settings = plan.settings
    axes, ids = axes_of(settings.values()), {arm: setting.id for arm, setting in settings.items()}
    short = _short({key for values in axes.values() for key in values})
    rows = [("state", "trial", "fold", "seed", "arm", "axes")]
    for trial in plan.trials:
        config = trial.config
        values = axes[ids[trial.arm]]
        rows.append(
            (
                plan.states[trial.id],
                trial.id,
                str(config.fold),
                str(config.seed),
                " = ".join(trial.arms),
                " ".join(f"{short[key]}={value}" for key, value in values.items()),
            )
        )
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    lines = [
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in rows
    ]
    lines += plan.lines()
    lines += [f"{name} waits for {', '.join(needs)}" for name, needs in plan.waiting.items()]
    if plan.to_run:
        lines += expected.lines()
    return "\n".join(lines)


def _short(keys: Collection[str]) -> dict[str, str]:
    """The last words of dotted keys, as few as tell each from the others."""
    found = {}
    for key in keys:
        words, count = key.split("."), 1
        while count < len(words) and any(
            other != key and other.split(".")[-count:] == words[-count:] for other in keys
        ):
            count += 1
        found[key] = ".".join(words[-count:])
    return found


def plan_json(request: SweepRequest, plan: Plan, expected: Preflight) -> dict[str, Any]:
    """The plan as JSON; times in seconds."""
    settings = plan.settings
    axes, ids = axes_of(settings.values()), {arm: setting.id for arm, setting in settings.items()}
    to_run = {trial.id for trial in plan.to_run}
    return {
        "schema": SCHEMA,
        "sweep": request.sweep.spec.name,
        "data": request.data,
        "seeds": request.seeds,
        "resources": {
            "workers": expected.forecast.workers,
            "cpus_per_worker": 1,
            "bytes_per_worker": expected.room.need,
            "bytes_free": list(expected.room.free),
        },
        "trials": [
            {
                "id": trial.id,
                "setting": ids[trial.arm],
                "arms": list(trial.arms),
                "axes": axes[ids[trial.arm]],
                "fold": trial.config.fold,
                "seed": trial.config.seed,
                "state": plan.states[trial.id],
                "to_run": trial.id in to_run,
            }
            for trial in plan.trials
        ],
        "counts": {
            **{state: plan.count(state) for state in STATES},
            "to_run": len(to_run),
            "merged": plan.merged,
            "by_other_code": len(plan.other_code),
            "not_in_spec": plan.unlisted,
        },
        "selected": {
            choice.name: {
                "key": choice.key,
                "value": choice.value,
                "candidates": _candidates(choice.means),
            }
            for choice in plan.choices
        },
        "orders": [asdict(order) for order in plan.comparisons],
        "waiting": {name: list(needs) for name, needs in plan.waiting.items()},
        "forecast": {
            "wall_seconds": expected.forecast.wall._asdict(),
            "device_seconds": expected.forecast.device._asdict(),
            "trials_by_source": dict(expected.forecast.sources),
        },
    }


def _candidates(means: Any) -> list[dict[str, float]]:
    return [{"value": value, "mean_val_acc": mean} for value, mean in means.items()]


def sweep(
    name: Annotated[
        str | None,
        typer.Argument(help="A spec: its name, or a path to a YAML file.", show_default=False),
    ] = None,
    table: Annotated[
        int | None,
        typer.Option(metavar="NUMBER", help="Instead of a spec: a table of the paper."),
    ] = None,
    only: Annotated[
        list[str] | None,
        typer.Option(metavar="GLOB", help="Only arms whose name matches; can be repeated."),
    ] = None,
    data: Annotated[
        str | None, typer.Option(help="Data set, by name or path; default: the spec's.")
    ] = None,
    seeds: Annotated[
        int | None, typer.Option(min=1, max=1000, help="Seeds per arm; default: the spec's.")
    ] = None,
    workers: Annotated[
        int | None,
        typer.Option(help="Trials trained at once; default: one per CPU, on a cluster per GPU."),
    ] = None,
    processes: Annotated[
        int,
        typer.Option(
            help="Processes that train one trial together, each with a GPU where there are any."
        ),
    ] = 1,
    address: Annotated[
        str | None,
        typer.Option(
            metavar="HOST:PORT",
            help="Train on this running Ray cluster, or 'auto' for that of this machine.",
            show_default=False,
        ),
    ] = None,
    tracking_uri: Annotated[
        str | None,
        typer.Option(help="MLflow store; default: MLFLOW_TRACKING_URI, else ./mlflow.db."),
    ] = None,
    until_decided: Annotated[
        int | None,
        typer.Option(
            metavar="SEEDS",
            help="Further seeds, up to so many, for arms whose order is still open.",
            show_default=False,
        ),
    ] = None,
    retry_failed: Annotated[
        bool, typer.Option("--retry-failed", help="Run again what failed before, too.")
    ] = False,
    fresh: Annotated[
        bool, typer.Option("--fresh", help="Train what the store lacks, whatever the cache has.")
    ] = False,
    yes: Annotated[
        bool, typer.Option("--yes", help="Run a large sweep without being asked.")
    ] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Only list the trials, and forecast their time.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print the result as JSON.")] = False,
) -> None:
    """Train every trial of a sweep that has no run yet; the same command resumes."""
    from cmkd.cli.live import make_view
    from cmkd.cli.work import progress_console
    from cmkd.config.paths import usable_cache
    from cmkd.config.sweep import load_sweep, spec_of_table
    from cmkd.errors import InfrastructureError
    from cmkd.sweep.run import preview, run_sweep
    from cmkd.sweep.signals import Interrupted
    from cmkd.sweep.survey import SweepRequest

    if (name is None) == (table is None):
        raise InputError("give a spec or --table NUMBER, and not both: cmkd sweep ablation")
    loaded = load_sweep(name or spec_of_table(table or 0), unlimited=yes)
    # A pattern that matches nothing is refused before anything is made.
    loaded.only(only or ())
    request = SweepRequest(
        sweep=loaded,
        data=data or loaded.spec.data,
        seeds=seeds or loaded.spec.seeds,
        workers=_default_workers(address) if workers is None else workers,
        cache=usable_cache(),
        tracking_uri=tracking_uri,
        only=tuple(only or ()),
        retry_failed=retry_failed,
        approved=yes,
        processes=processes,
        until_decided=until_decided,
        address=address,
        fresh=fresh,
    )
    # So is a number of seeds that decides nothing.
    _ = request.looks
    spec = [name] if name is not None else ["--table", str(table)]
    options: dict[str, str | int | None] = {"--data": data, "--seeds": seeds}
    options |= {"--workers": workers, "--processes": processes if processes > 1 else None}
    options |= {"--until-decided": until_decided, "--address": address}
    command = _command(spec, only or (), options, tracking_uri)
    # stdout holds machine-readable output alone.
    with make_view(progress_console(stderr=as_json or dry_run)) as view:
        if dry_run:
            plan, expected = preview(request, view)
        else:
            try:
                outcome = run_sweep(request, view, _pictures)
            except InfrastructureError as error:
                raise InfrastructureError(str(error), f"to go on: {command}") from error
            except Interrupted:
                view.note(f"to go on: {command}")
                raise
    if dry_run:
        document = plan_json(request, plan, expected)
        typer.echo(json.dumps(document, indent=2) if as_json else plan_text(plan, expected))
        return
    typer.echo(
        json.dumps(_outcome_json(outcome), indent=2) if as_json else _summary(outcome, command)
    )
    if outcome.failures or not outcome.plan.complete:
        raise typer.Exit(1)


def _pictures(files: Sequence[Path], folder: Path) -> Sequence[Path]:
    # Imported with the first trial that ends: it takes a second.
    from cmkd.report.figures.pictures import pictures_of

    return pictures_of(files, folder)


def _default_workers(address: str | None) -> int:
    if address is None:
        from cmkd.machine import usable_cpus

        return usable_cpus()
    from cmkd.sweep.ray_engine import default_workers

    return default_workers(address)


def _command(
    spec: Sequence[str],
    only: Sequence[str],
    options: Mapping[str, str | int | None],
    uri: str | None,
) -> str:
    words = ["cmkd", "sweep", *spec, *(word for glob in only for word in ("--only", glob))]
    words += [str(word) for key, value in options.items() if value for word in (key, value)]
    if uri and redact(uri) != uri:
        return f"{shlex.join(words)} (with MLFLOW_TRACKING_URI set)"
    return shlex.join([*words, "--tracking-uri", uri] if uri else words)


def _outcome_json(outcome: SweepResult) -> dict[str, object]:
    plan = outcome.plan
    return {
        "trials": len(plan.trials),
        "done": plan.count("done"),
        "finished": outcome.finished,
        "failures": [
            {"name": name, "cause": failure.cause, "epoch": failure.epoch}
            for name, failure in outcome.failures
        ],
        "failed": plan.count("failed"),
        "waiting": len(plan.waiting),
        "selected": {choice.name: choice.value for choice in plan.choices},
        "seconds": round(outcome.seconds, 1),
    }


def _summary(outcome: SweepResult, command: str) -> str:
    from cmkd.sweep.failures import digest
    from cmkd.sweep.forecast import duration

    plan = outcome.plan
    done = f"{plan.count('done')} of {len(plan.trials)} done"
    if not outcome.finished and not outcome.failures:
        lines = [f"nothing to train: {done}"]
    else:
        lines = [f"{done}, {outcome.finished} of them now, in {duration(outcome.seconds)}"]
    if outcome.failures:
        lines.append(f"{len(outcome.failures)} failed:")
        causes = [(name, failure.cause) for name, failure in outcome.failures]
        lines += [f"  {line}" for line in digest(causes)]
    if plan.count("failed") and plan.rungs is None:
        lines.append(f"to try what failed again: {command} --retry-failed")
    lines += [f"{name} still waits for {', '.join(needs)}" for name, needs in plan.waiting.items()]
    return "\n".join(lines)
