"""Stored runs: tags, selections between stages, teachers."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import count, takewhile
from math import isfinite, nan
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from cmkd.config.spec import SweepSpec
from cmkd.config.sweep import Arm, Choice, Scores, Sweep, resolve
from cmkd.config.trial import Setting
from cmkd.config.yaml_loader import Document
from cmkd.errors import InputError
from cmkd.report.arms import Family, distils, family_of_arm
from cmkd.tracking.reader import RunReader
from cmkd.tracking.store import RunRecord


def tag(run: RunRecord, name: str) -> str:
    """The tag `name` of `run`; InputError when it has none."""
    value = run.tags.get(name)
    if not value:
        raise InputError(
            f"run {run.run_id} has no tag {name!r}, so it was not written by cmkd sweep; delete it"
        )
    return value


def number(run: RunRecord, name: str) -> int:
    """The tag `name` of `run` as a whole number >= 0; InputError when it is none."""
    value = tag(run, name)
    if not value.isdecimal():
        raise InputError(f"run {run.run_id}: tag {name!r} is {value!r}, not a number; delete it")
    return int(value)


def metric(run: RunRecord, name: str) -> float:
    """The accuracy `name` of `run`; InputError when it is missing or outside [0, 100]."""
    value = run.metrics.get(name)
    if value is None or not math.isfinite(value) or not 0 <= value <= 100:
        raise InputError(
            f"run {run.run_id}: metric {name} is {value}, not an accuracy in [0, 100]; "
            "delete that run and sweep again"
        )
    return value


def place(run: RunRecord) -> tuple[int, int]:
    """Seed and fold of a trial."""
    return number(run, "seed"), number(run, "fold")


def one_value(runs: Sequence[RunRecord], name: str, remedy: str) -> str:
    """The value of tag `name` that all `runs` share; InputError naming the runs otherwise."""
    holders: dict[str, list[str]] = {}
    for run in runs:
        holders.setdefault(tag(run, name), []).append(run.run_id)
    if len(holders) > 1:
        raise InputError(f"these runs mix values of {name}: {_listed(holders)}; {remedy}")
    return next(iter(holders))


def _listed(holders: Mapping[str, Sequence[str]]) -> str:
    def some(run_ids: Sequence[str]) -> str:
        more = f" and {len(run_ids) - 3} more" if len(run_ids) > 3 else ""
        return ", ".join(run_ids[:3]) + more

    return "; ".join(f"{value!r} in {some(ids)}" for value, ids in sorted(holders.items()))


def make_selections(sweep: Sweep, runs: Sequence[RunRecord]) -> tuple[Sweep, tuple[Choice, ...]]:
    """Sweep and choices after the selections that the finished `runs` allow.

    The number of seeds is that finished by all candidates of the first selection.
    """
    if not sweep.spec.select:
        return sweep, ()
    scores = {
        (tag(run, "setting_id"), fold, seed): accuracy
        for run in runs
        if isfinite(accuracy := run.metrics.get("best_val_acc", nan))
        for seed, fold in [place(run)]
    }
    folds = max((number(run, "folds") for run in runs if "folds" in run.tags), default=1)
    seeds = _complete_seeds(sweep, scores, folds)
    return resolve(sweep, scores, folds=folds, seeds=seeds) if seeds else (sweep, ())


def _complete_seeds(sweep: Sweep, scores: Scores, folds: int) -> int:
    first = next(iter(sweep.spec.select.values()))
    candidates = [arm.setting.id for arm in sweep.arms if arm.block in first.among]

    def is_complete(seed: int) -> bool:
        return all(
            (setting_id, fold, seed) in scores for setting_id in candidates for fold in range(folds)
        )

    return sum(1 for _ in takewhile(is_complete, count()))


def stored_sweep(store: RunReader, name: str, data: str | None) -> Sweep | None:
    """Sweep `name` rebuilt from its finished trials on `data`; None without any.

    Trials of an earlier protocol have other setting ids and are left out.
    """
    runs = [run for run in store.find({"kind": "trial", "sweep": name}) if run.status == "FINISHED"]
    if data:
        runs = [run for run in runs if data in (run.tags.get("data"), run.tags.get("data_id"))]
    lacking = [run.run_id for run in runs if not run.params]
    params = {run.run_id: run.params for run in runs} | dict(store.params(lacking))
    arms: dict[str, Arm] = {}
    for run in runs:
        setting_id = tag(run, "setting_id")
        if setting_id in arms:
            continue
        setting = _setting(params[run.run_id])
        if setting is not None and setting.id == setting_id:
            own = tag(run, "arm")
            names = {arm.name for arm in arms.values()}
            arms[setting_id] = Arm(own if own not in names else f"{own} {setting_id}", setting)
    if not arms:
        return None
    spec = SweepSpec(
        name=name,
        description="",
        data=tag(runs[-1], "data"),
        seeds=1 + max(number(run, "seed") for run in runs),
        blocks={"stored": {}},
    )
    return Sweep(spec, Document(Path(name), {}, {}), tuple(arms.values()), {}, {})


def _setting(params: Mapping[str, str]) -> Setting | None:
    """Setting of logged parameters; None if it is invalid now."""
    nested: dict[str, Any] = {}
    for key, text in params.items():
        *parents, leaf = key.split(".")
        level = nested
        for parent in parents:
            level = level.setdefault(parent, {})
        try:
            level[leaf] = json.loads(text)
        except ValueError:
            level[leaf] = text
    try:
        return Setting.model_validate_json(json.dumps(nested))
    except ValidationError:
        return None


@dataclass(frozen=True)
class Teacher:
    """RGB teacher of one fold; accuracies in [0, 100]. Fields of a missing run are None."""

    teacher_id: str
    backbone: str
    run_id: str | None
    experiment_id: str | None
    commit: str | None
    selected: float | None
    last: float | None


def teachers_of(
    store: RunReader, runs: Sequence[RunRecord], arms: Mapping[str, Arm]
) -> dict[Family, dict[int, dict[int, Teacher]]]:
    """Teachers of the students among `runs`, by family, seed and fold.

    Args:
        arms: by setting id.

    Raises:
        InputError: students of one family, seed and fold had different teachers, or a teacher has
            two runs; the message names them and the remedy.
    """
    groups: dict[tuple[Family, int, int], list[RunRecord]] = {}
    for run in runs:
        setting = arms[tag(run, "setting_id")].setting
        if distils(setting):
            groups.setdefault((family_of_arm(setting), *place(run)), []).append(run)
    finished = [run for run in store.find({"kind": "teacher"}) if run.status == "FINISHED"]
    known: dict[tuple[str, str], Teacher] = {}
    teachers: dict[Family, dict[int, dict[int, Teacher]]] = {}
    for (family, seed, fold), group in sorted(groups.items()):
        remedy = (
            f"arms of the {family} family are compared under one teacher for each seed and fold: "
            "delete the older runs, or split the sweep"
        )
        teacher_id = one_value(group, "teacher", remedy)
        backbone = arms[tag(group[0], "setting_id")].setting.teacher.backbone
        if (teacher_id, backbone) not in known:
            known[teacher_id, backbone] = _teacher(finished, teacher_id, backbone)
        by_seed = teachers.setdefault(family, {}).setdefault(seed, {})
        by_seed[fold] = known[teacher_id, backbone]
    return teachers


def _teacher(runs: Sequence[RunRecord], teacher_id: str, backbone: str) -> Teacher:
    found = [run for run in runs if teacher_id in (run.trial_id, run.tags.get("teacher"))]
    if not found:
        return Teacher(teacher_id, backbone, None, None, None, None, None)
    if len(found) > 1:
        ids = ", ".join(sorted(run.run_id for run in found))
        raise InputError(f"teacher {teacher_id} has several runs: {ids}; delete all but one")
    run = found[0]
    return Teacher(
        teacher_id,
        backbone,
        run.run_id,
        run.experiment_id,
        run.tags.get("git_commit", "unknown"),
        metric(run, "test_acc"),
        metric(run, "test_acc_last") if "test_acc_last" in run.metrics else None,
    )
