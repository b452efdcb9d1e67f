"""``cmkd sweep run``, or ``cmkd sweep SPEC``: show or run what a sweep still lacks."""

from __future__ import annotations

import json
import shlex
import sys
from collections import Counter
from collections.abc import Collection, Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated, Any, get_args

import typer

from cmkd.cli.work import AsJson, TrackingUri, aligned, grouped
from cmkd.config.trial import Setting
from cmkd.errors import InputError
from cmkd.sweep.plan import Plan
from cmkd.sweep.trials import TrialState, axes_of, flat
from cmkd.tracking.store import redact

if TYPE_CHECKING:
    from cmkd.sweep.preflight import Preflight
    from cmkd.sweep.run import SweepResult

SCHEMA = 1
"""Raised when a key of the JSON goes or changes its meaning; new keys may come any time."""
MOST_AXES = 6
"""Swept keys of which a plan shows every value."""

app = typer.Typer(
    help="Train what a sweep lacks; list, show and write sweep files.\n\n"
    "cmkd sweep NAME is cmkd sweep run NAME; its options: cmkd sweep run --help."
)

RUN = {
    "Which trials": "table only data seeds until_decided retry_failed fresh",
    "Where they are trained": "workers processes address",
}


@app.command(cls=grouped(RUN))
def run(
    name: Annotated[
        str | None,
        typer.Argument(help="A spec: its name, or a path to a YAML file.", show_default=False),
    ] = None,
    table: Annotated[
        int | None, typer.Option(metavar="NUMBER", help="Instead of a spec: a table of the paper.")
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
        int, typer.Option(help="Processes that train one trial together, each with its GPU if any.")
    ] = 1,
    address: Annotated[
        str | None,
        typer.Option(
            metavar="HOST:PORT",
            help="Train on this running Ray cluster, or 'auto' for that of this machine.",
        ),
    ] = None,
    tracking_uri: TrackingUri = None,
    until_decided: Annotated[
        int | None,
        typer.Option(
            metavar="SEEDS",
            help="Further seeds, up to so many, for arms whose order is still open.",
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
    as_json: AsJson = False,
) -> None:
    """Train every trial of a sweep that has no run yet; the same command resumes."""
    from cmkd.api import run_sweep
    from cmkd.cli.status import sweep_view
    from cmkd.cli.work import progress_console
    from cmkd.config.sweep import TABLES, load_sweep
    from cmkd.errors import InfrastructureError
    from cmkd.sweep.failures import Interrupted

    if (name is None) == (table is None):
        raise InputError("give a spec or --table NUMBER, and not both: cmkd sweep ablation")
    if table is not None and table not in TABLES:
        known = ", ".join(map(str, TABLES))
        raise InputError(f"the paper has no table {table} that is swept; known: {known}")
    loaded = load_sweep(name or TABLES[table or 0], unlimited=yes)
    data, seeds = data or loaded.spec.data, seeds or loaded.spec.seeds
    command = same_command(sys.argv[1:], tracking_uri)
    # stdout holds machine-readable output alone.
    with sweep_view(progress_console(stderr=as_json or dry_run)) as view:
        try:
            result = run_sweep(
                loaded,
                data=data,
                seeds=seeds,
                only=only or (),
                workers=workers,
                processes=processes,
                address=address,
                tracking_uri=tracking_uri,
                until_decided=until_decided,
                retry_failed=retry_failed,
                fresh=fresh,
                approved=yes,
                dry_run=dry_run,
                view=view,
            )
        except InfrastructureError as error:
            raise InfrastructureError(str(error), f"to go on: {command}") from error
        except Interrupted:
            view.note(f"to go on: {command}")
            raise
    document: dict[str, Any]
    if result.expected is not None:
        shown = plan_text(result.plan, result.expected)
        document = {"schema": SCHEMA, "sweep": loaded.spec.name, "data": data, "seeds": seeds}
        document |= plan_json(result.plan, result.expected)
    else:
        shown = summary(result, command)
        if result.finished and result.plan.complete:
            steps = next_steps(result.plan, name or loaded.spec.name, data, tracking_uri)
            shown = "\n".join([shown, *steps])
        document = result_json(result)
    typer.echo(json.dumps(document, indent=2) if as_json else shown)
    if not dry_run and (result.failures or not result.plan.complete):
        raise typer.Exit(1)


def same_command(words: Sequence[str], uri: str | None) -> str:
    """The command line `words` once more, without --fresh, --retry-failed and secrets."""
    kept = [word for word in words if word not in ("--fresh", "--retry-failed")]
    if uri is None or redact(uri) == uri:
        return shlex.join(["cmkd", *kept])
    kept = [word for word in kept if word not in ("--tracking-uri", uri, f"--tracking-uri={uri}")]
    return f"{shlex.join(['cmkd', *kept])} (with MLFLOW_TRACKING_URI set)"


def plan_text(plan: Plan, expected: Preflight) -> str:
    """A line per trial with its values of the swept keys, then what is to know of all of them.

    Of more than `MOST_AXES` keys, values at their default are left out.
    """
    axes, ids = axes_of(plan.settings.values()), {a: s.id for a, s in plan.settings.items()}
    defaults = flat(Setting().as_json())
    short = short_keys({key for values in axes.values() for key in values})
    rows = [("state", "trial", "fold", "seed", "arm", "axes")]
    for trial in plan.trials:
        config = trial.config
        words = [
            f"{short[key]}={value}"
            for key, value in axes[ids[trial.arm]].items()
            if len(short) <= MOST_AXES or value != defaults.get(key, "0.0")
        ]
        arm = " = ".join(trial.arms)
        state = plan.states[trial.id]
        rows.append((state, trial.id, str(config.fold), str(config.seed), arm, " ".join(words)))
    lines = [*aligned(rows), *plan.lines()]
    lines += [f"{name} waits for {', '.join(needs)}" for name, needs in plan.waiting.items()]
    return "\n".join([*lines, *(expected.lines() if plan.to_run else ())])


def next_steps(plan: Plan, spec: str, data: str, uri: str | None) -> list[str]:
    """Commands that show what is done: tables, and a prediction by a student, taught if any is."""
    from cmkd.config.paths import cache_root
    from cmkd.report.paper import TABLES
    from cmkd.training.outcome import STUDENT_CONFIG_FILE

    done = [trial for trial in plan.trials if plan.states[trial.id] == "done"]
    words = ["report", "tables", "--data", data]
    words += ["--sweep", spec] if spec not in {table.sweep for table in TABLES.values()} else []
    words += ["--tracking-uri", uri] if uri else []
    lines = [f"tables and figures: {same_command(words, uri)}"]
    folder = cache_root() / "trials"
    here = [trial for trial in done if (folder / trial.id / STUDENT_CONFIG_FILE).is_file()]
    here.sort(key=lambda trial: not trial.config.setting.needs_teacher)
    return lines + [
        f"classes of a video by {trial.name}: cmkd predict {trial.id} VIDEO" for trial in here[:1]
    ]


def short_keys(keys: Collection[str]) -> dict[str, str]:
    """The last words of dotted keys, as few as tell each from the others."""
    ends = {key: [key.split(".", n)[-1] for n in range(key.count("."), -1, -1)] for key in keys}
    taken = Counter(end for found in ends.values() for end in found)
    return {key: next((e for e in found if taken[e] == 1), key) for key, found in ends.items()}


def plan_json(plan: Plan, expected: Preflight) -> dict[str, Any]:
    """The plan as JSON; times in seconds."""
    axes, ids = axes_of(plan.settings.values()), {a: s.id for a, s in plan.settings.items()}
    to_run = {trial.id for trial in plan.to_run}
    states: tuple[TrialState, ...] = get_args(TrialState)
    return {
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
            **{state: plan.count(state) for state in states},
            "to_run": len(to_run),
            "merged": plan.merged,
            "by_other_code": len(plan.other_code),
            "not_in_spec": plan.unlisted,
        },
        "selected": {
            choice.name: {
                "key": choice.key,
                "value": choice.value,
                "candidates": [{"value": v, "mean_val_acc": m} for v, m in choice.means.items()],
            }
            for choice in plan.choices
        },
        "orders": [asdict(order) for order in plan.comparisons],
        "waiting": {name: list(needs) for name, needs in plan.waiting.items()},
        "warnings": list(expected.warnings),
        "forecast": expected.forecast.as_json(),
    }


def result_json(result: SweepResult) -> dict[str, Any]:
    """The result as JSON."""
    plan = result.plan
    return {
        "trials": len(plan.trials),
        "done": plan.count("done"),
        "finished": result.finished,
        "taken_from_cache": dict(result.taken),
        "failures": [
            {"name": name, "cause": failure.cause, "epoch": failure.epoch}
            for name, failure in result.failures
        ],
        "failed": plan.count("failed"),
        "waiting": len(plan.waiting),
        "selected": {choice.name: choice.value for choice in plan.choices},
        "seconds": round(result.seconds, 1),
    }


def summary(result: SweepResult, command: str) -> str:
    """Lines on what is done, what failed and why; `command` would go on."""
    from cmkd.sweep.failures import digest
    from cmkd.sweep.progress import duration

    plan = result.plan
    done = f"{plan.count('done')} of {len(plan.trials)} done"
    if not result.finished and not result.failures:
        lines = [f"nothing to train: {done}"]
    else:
        lines = [f"{done}, {result.finished} of them now, in {duration(result.seconds)}"]
    lines += [f"{n} taken from the cache, made by {by}" for by, n in result.taken.items()]
    if result.failures:
        lines.append(f"{len(result.failures)} failed:")
        causes = [(name, failure.cause) for name, failure in result.failures]
        lines += [f"  {line}" for line in digest(causes)]
    if plan.count("failed") and plan.rungs is None:
        lines.append(f"to try what failed again: {command} --retry-failed")
    lines += [f"{name} still waits for {', '.join(needs)}" for name, needs in plan.waiting.items()]
    return "\n".join(lines)
