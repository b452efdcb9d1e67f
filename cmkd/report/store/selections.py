"""Selections between the stages of a sweep, made from its finished trials as it made them."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import count, takewhile
from math import isfinite, nan

from cmkd.config.stages import Choice, Scores, resolve
from cmkd.config.sweep import Sweep
from cmkd.report.store.runs import number, place, tag
from cmkd.tracking.records import RunRecord


def make_selections(sweep: Sweep, runs: Sequence[RunRecord]) -> tuple[Sweep, tuple[Choice, ...]]:
    """The arms that are known after the selections that the finished trials in `runs` allow.

    They are made with as many seeds as have finished for all candidates of the first: a search
    with three seeds was decided by three, whatever the spec asks for.
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
        return all((one, fold, seed) in scores for one in candidates for fold in range(folds))

    return sum(1 for _ in takewhile(is_complete, count()))
