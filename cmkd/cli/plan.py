"""What ``cmkd sweep --dry-run`` prints: a plan as text for people and as JSON for programs."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import asdict
from typing import Any

from cmkd.sweep.axes import axes_of
from cmkd.sweep.outlook import Outlook
from cmkd.sweep.plan import Plan, TrialState
from cmkd.sweep.survey import SweepRequest

SCHEMA = 1
"""Raised when a key of the JSON goes or changes its meaning; new keys may come any time."""
STATES: tuple[TrialState, ...] = ("done", "pruned", "failed", "interrupted", "new")


def plan_text(plan: Plan, expected: Outlook) -> str:
    """A line per trial, then what is to know of all of them."""
    settings = plan.settings
    axes, ids = axes_of(settings.values()), {arm: one.id for arm, one in settings.items()}
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


def plan_json(request: SweepRequest, plan: Plan, expected: Outlook) -> dict[str, Any]:
    """The same for programs; times are in seconds."""
    settings = plan.settings
    axes, ids = axes_of(settings.values()), {arm: one.id for arm, one in settings.items()}
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
            one.name: {"key": one.key, "value": one.value, "candidates": _candidates(one.means)}
            for one in plan.choices
        },
        "orders": [asdict(order) for order in plan.orders],
        "waiting": {name: list(needs) for name, needs in plan.waiting.items()},
        "forecast": {
            "wall_seconds": expected.forecast.wall._asdict(),
            "device_seconds": expected.forecast.device._asdict(),
            "trials_by_source": dict(expected.forecast.sources),
        },
    }


def _candidates(means: Any) -> list[dict[str, float]]:
    return [{"value": value, "mean_val_acc": mean} for value, mean in means.items()]
