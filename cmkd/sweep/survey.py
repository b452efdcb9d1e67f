"""What a sweep lacks: its spec, the data set and the store put together."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from cmkd.config.sweep import Sweep, resolve
from cmkd.errors import ConfigError, InputError
from cmkd.sweep.interim_looks import (
    LEAST_SEEDS,
    Order,
    TestScores,
    comparisons,
    looks,
    orders,
    wanted_seeds,
)
from cmkd.sweep.plan import Plan, PlannedTrial, epochs_of, expand, make_plan
from cmkd.sweep.search import Ended, Halving, Proposals, Values, propose
from cmkd.tracking.store import RunRecord

if TYPE_CHECKING:
    from cmkd.data.dataset import Dataset


@dataclass(frozen=True)
class SweepRequest:
    """What to sweep and how to run it.

    Attributes:
        data: name or path of the data set.
        seeds: seeds per arm and fold.
        workers: processes that train at once.
        tracking_uri: of the store; None is `default_uri`.
        only: patterns of the arms to train, see `Sweep.only`; all where there is none.
        retry_failed: train again what failed before.
        approved: a large sweep needs no question.
        processes: that train one trial together, of the `workers`; no part of a trial's id.
        until_decided: arms whose order is open get further seeds, up to so many; None: no arm.
        address: of the Ray cluster to join; None: an engine of our own on this machine.
        storage: URI by which nodes with caches of their own share; None: they share `cache`.
    """

    sweep: Sweep
    data: str
    seeds: int
    workers: int
    cache: Path
    tracking_uri: str | None = None
    only: tuple[str, ...] = ()
    retry_failed: bool = False
    approved: bool = False
    processes: int = 1
    until_decided: int | None = None
    address: str | None = None
    storage: str | None = None

    @property
    def looks(self) -> tuple[int, ...]:
        """Numbers of seeds at which orders are looked at; none where they are not asked for.

        Raises:
            InputError: the first number is too small to decide anything, or not below the last.
        """
        if self.until_decided is None:
            return ()
        if not LEAST_SEEDS <= self.seeds < self.until_decided:
            raise InputError(
                f"--until-decided {self.until_decided}: it goes on from {self.seeds} seeds per "
                f"arm; give --seeds {LEAST_SEEDS} or more, and a larger number here"
            )
        return looks(self.seeds, self.until_decided)


def survey(
    request: SweepRequest, dataset: Dataset, runs: Sequence[RunRecord], code: str = ""
) -> Plan:
    """The plan of a sweep as the store has it: selections are made, finished trials are done.

    Args:
        runs: all runs on this data set.
        code: the code that runs now, see `code_version`.
    """
    trials = [run for run in runs if run.tags.get("kind") == "trial"]
    if request.sweep.spec.search is not None:
        return _survey_search(request, dataset, trials, code)
    finished = [run for run in trials if run.status == "FINISHED"]
    folds, seeds = dataset.num_folds, request.seeds
    scores = _scores(finished, "best_val_acc")
    sweep, choices = resolve(request.sweep, scores, folds=folds, seeds=seeds)
    wanted = sweep.only(request.only)
    found = _orders(request, wanted, _scores(finished, "test_acc"), folds)
    planned = expand(
        wanted,
        data=_address(request, dataset),
        data_id=dataset.id,
        folds=folds,
        seeds=seeds,
        further=_further(wanted, wanted_seeds(found, request.looks)),
    )
    reasoned = tuple(
        _with_reason(one, found) if one.config.seed >= seeds else one for one in planned
    )
    return replace(
        make_plan(reasoned, trials, code, retry_failed=request.retry_failed),
        choices=choices,
        waiting=wanted.waiting,
        replicates=folds * seeds,
        unlisted=_unlisted(sweep, finished),
        orders=found,
    )


def _survey_search(
    request: SweepRequest, dataset: Dataset, runs: Sequence[RunRecord], code: str
) -> Plan:
    search = request.sweep.spec.search
    assert search is not None
    if request.seeds != 1:
        raise InputError(f"{request.sweep.path}: --seeds {request.seeds}: a search trains with one")
    if request.retry_failed:
        raise InputError(
            f"{request.sweep.path}: --retry-failed: what a search proposed later rests on what "
            "failed before; leave it out, or search anew under another name"
        )

    def planned(values: Sequence[Values]) -> tuple[PlannedTrial, ...]:
        data = _address(request, dataset)
        arms = request.sweep.with_values(values)
        return expand(arms, data=data, data_id=dataset.id, folds=1, seeds=1)

    by_trial: dict[str, list[RunRecord]] = {}
    for run in runs:
        by_trial.setdefault(run.trial_id, []).append(run)
    epochs = epochs_of(request.sweep.with_values([search.lowest]).arms[0].setting)

    def ended(values: Values) -> Ended | None:
        (trial,) = planned([values])
        state = make_plan((trial,), by_trial.get(trial.id, ()), prunes=True).states[trial.id]
        tags = {name: text for run in by_trial.get(trial.id, ()) for name, text in run.tags.items()}
        if state == "done":
            (score, *_) = (
                run.metrics["best_val_acc"]
                for run in by_trial[trial.id]
                if run.status == "FINISHED"
            )
            return Ended(score, epochs, whole=True)
        if state == "pruned":
            return Ended(float(tags["pruned_score"]), int(tags["pruned_epoch"]), whole=False)
        # What failed costs as much as if it had not, so that a search comes to its end.
        return Ended(None, epochs, whole=False) if state == "failed" else None

    found = propose(search, epochs, ended)
    trials = planned(found.values)
    halving = Halving(search.rungs, search.reduction)
    for trial in trials:
        for run in by_trial.get(trial.id, ()):
            for epoch, score in json.loads(run.tags.get("rungs", "{}")).items():
                halving.seen(trial.id, int(epoch), score)
    plan = make_plan(trials, runs, code, prunes=True)
    return replace(plan, halving=halving, searched=_searched(found, search.epochs))


def _searched(found: Proposals, budget: int) -> str:
    text = f"search: {found.spent} of {budget} epochs spent on {len(found.ended)} trials"
    if found.best is None:
        return text
    best = ", ".join(f"{key} = {value}" for key, value in found.values[found.best].items())
    return f"{text}; best validation accuracy {found.ended[found.best].score:.2f} % at {best}"


def _scores(finished: Sequence[RunRecord], metric: str) -> dict[tuple[str, int, int], float]:
    return {
        (run.tags["setting_id"], int(run.tags["fold"]), int(run.tags["seed"])): run.metrics[metric]
        for run in finished
        if metric in run.metrics
    }


def _orders(
    request: SweepRequest, sweep: Sweep, scores: TestScores, folds: int
) -> tuple[Order, ...]:
    at = request.looks
    if not at:
        return ()
    pairs = comparisons(sweep)
    if not pairs and not sweep.waiting:
        raise ConfigError(
            f"{sweep.path}: --until-decided has nothing to decide, as no arm has its control, its "
            "baseline or a rival beside it"
        )
    return orders(pairs, scores, folds=folds, at=at)


def _further(sweep: Sweep, wanted: Mapping[str, int]) -> dict[str, int]:
    """Seeds by arm; arms of one setting have as many."""
    if not wanted:
        return {}
    settings = {arm.name: arm.setting.id for arm in sweep.arms}
    counts = {settings[name]: count for name, count in wanted.items()}
    return {name: counts[key] for name, key in settings.items() if key in counts}


def _with_reason(trial: PlannedTrial, found: Sequence[Order]) -> PlannedTrial:
    open_ones = [one for one in found if not one.decided and trial.arm in (one.arm, one.other)]
    return replace(trial, reason="; ".join(one.describe() for one in open_ones))


def _address(request: SweepRequest, dataset: Dataset) -> str:
    """What workers open the data set by, from whatever folder: a name of the cache, or a path."""
    in_cache = request.cache / "data" / request.data == dataset.root
    embedded = dataset.info.kind == "embedded" and request.data == dataset.info.name
    return request.data if in_cache or embedded else str(dataset.root)


def _unlisted(sweep: Sweep, finished: Sequence[RunRecord]) -> int:
    listed = {arm.setting.id for arm in sweep.arms}
    own = [run for run in finished if run.tags.get("sweep") == sweep.spec.name]
    return sum(
        run.tags["setting_id"] not in listed and run.tags.get("arm") not in sweep.waiting
        for run in own
    )
