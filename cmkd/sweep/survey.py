"""Build the plan of a sweep from its spec, the data set and the store."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from cmkd.config.sweep import Sweep, resolve
from cmkd.errors import ConfigError, InputError
from cmkd.sweep.interim_looks import (
    LEAST_SEEDS,
    Comparison,
    TestScores,
    compared_arms,
    comparisons,
    interim_looks,
    seeds_needed,
)
from cmkd.sweep.plan import Plan, PlannedTrial, epochs_of, expand, make_plan
from cmkd.sweep.search import (
    Proposals,
    RungScores,
    SearchedTrial,
    Values,
    propose,
    pruner_of,
)
from cmkd.tracking.store import RunRecord

if TYPE_CHECKING:
    from cmkd.data.dataset import Dataset


@dataclass(frozen=True)
class SweepRequest:
    """Request of a sweep: spec, data set and options.

    Attributes:
        data: name or path of the data set.
        seeds: seeds per arm and fold.
        workers: processes that train at once.
        tracking_uri: of the store; None: `default_uri`.
        only: patterns of the arms to train, see `Sweep.only`; empty: all.
        retry_failed: train again what failed before.
        approved: a large sweep needs no question.
        processes: of the `workers`, that train one trial together; no part of its id.
        until_decided: most seeds of undecided arms; None: no further seeds.
        fresh: ignore cached results that the store lacks.
        address: of the Ray cluster to join; None: Ray on this machine.
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
    fresh: bool = False

    @property
    def looks(self) -> tuple[int, ...]:
        """Numbers of seeds of the interim analyses; empty without `until_decided`.

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
        return interim_looks(self.seeds, self.until_decided)


def build_plan(
    request: SweepRequest, dataset: Dataset, runs: Sequence[RunRecord], code: str = ""
) -> Plan:
    """Plan of a sweep with the selections and finished trials of the store.

    Args:
        runs: all runs on this data set.
        code: the code that runs now, see `Provenance.commit`.
    """
    trials = [run for run in runs if run.tags.get("kind") == "trial"]
    if request.sweep.spec.search is not None:
        return _build_search_plan(request, dataset, trials, code)
    finished = [run for run in trials if run.status == "FINISHED"]
    folds, seeds = dataset.num_folds, request.seeds
    scores = _scores(finished, "best_val_acc")
    sweep, choices = resolve(request.sweep, scores, folds=folds, seeds=seeds)
    wanted = sweep.only(request.only)
    found = _comparisons(request, wanted, _scores(finished, "test_acc"), folds)
    planned = expand(
        wanted,
        data=_address(request, dataset),
        data_id=dataset.id,
        folds=folds,
        seeds=seeds,
        further=_further(wanted, seeds_needed(found, request.looks)),
    )
    reasoned = tuple(
        _with_reason(trial, found) if trial.config.seed >= seeds else trial for trial in planned
    )
    return replace(
        make_plan(reasoned, trials, code, retry_failed=request.retry_failed),
        choices=choices,
        waiting=wanted.waiting,
        replicates=folds * seeds,
        unlisted=_unlisted(sweep, finished),
        comparisons=found,
    )


def _build_search_plan(
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
    epochs = epochs_of(request.sweep.with_values([{}]).arms[0].setting)

    def ended(values: Values) -> SearchedTrial | None:
        (trial,) = planned([values])
        state = make_plan((trial,), by_trial.get(trial.id, ()), prunes=True).states[trial.id]
        tags = {name: text for run in by_trial.get(trial.id, ()) for name, text in run.tags.items()}
        if state == "done":
            (score, *_) = (
                run.metrics["best_val_acc"]
                for run in by_trial[trial.id]
                if run.status == "FINISHED"
            )
            return SearchedTrial(score, epochs, whole=True)
        if state == "pruned":
            return SearchedTrial(
                float(tags["pruned_score"]), int(tags["pruned_epoch"]), whole=False
            )
        # A failed trial uses up its budget, so that the search ends.
        return SearchedTrial(None, epochs, whole=False) if state == "failed" else None

    proposed = _known_proposals(request, runs, lambda values: planned([values])[0].id)
    found = propose(search, epochs, proposed, ended)
    trials = tuple(
        replace(trial, proposal=json.dumps({"number": number, "values": dict(values)}))
        for number, (values, trial) in enumerate(
            zip(found.values, planned(found.values), strict=True)
        )
    )
    rungs = RungScores(search.rungs, pruner_of(search))
    for trial in trials:
        for run in by_trial.get(trial.id, ()):
            scores: dict[str, float] = json.loads(run.tags.get("rungs", "{}"))
            rungs.add(trial.id, ((int(epoch), score) for epoch, score in scores.items()))
    plan = make_plan(trials, runs, code, prunes=True)
    return replace(plan, rungs=rungs, searched=_searched(found, search.epochs))


def _known_proposals(
    request: SweepRequest, runs: Sequence[RunRecord], id_of: Callable[[Values], str]
) -> dict[int, Values]:
    """Stored proposals by position; those of an edited spec are left out."""
    search = request.sweep.spec.search
    assert search is not None
    found: dict[int, Values] = {}
    for run in runs:
        if run.tags.get("sweep") == request.sweep.spec.name and "proposal" in run.tags:
            proposal = json.loads(run.tags["proposal"])
            values = proposal["values"]
            same = values.keys() == search.ranges.keys()
            if same and id_of(values) == run.trial_id:
                found.setdefault(proposal["number"], values)
    return found


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


def _comparisons(
    request: SweepRequest, sweep: Sweep, scores: TestScores, folds: int
) -> tuple[Comparison, ...]:
    at = request.looks
    if not at:
        return ()
    pairs = compared_arms(sweep)
    if not pairs and not sweep.waiting:
        raise ConfigError(
            f"{sweep.path}: --until-decided has nothing to decide, as no arm has its control, its "
            "baseline or a rival beside it"
        )
    return comparisons(pairs, scores, folds=folds, at=at)


def _further(sweep: Sweep, wanted: Mapping[str, int]) -> dict[str, int]:
    """Seeds by arm; arms of one setting have as many."""
    if not wanted:
        return {}
    settings = {arm.name: arm.setting.id for arm in sweep.arms}
    counts = {settings[name]: count for name, count in wanted.items()}
    return {name: counts[key] for name, key in settings.items() if key in counts}


def _with_reason(trial: PlannedTrial, found: Sequence[Comparison]) -> PlannedTrial:
    reasons = [
        comparison.describe()
        for comparison in found
        if not comparison.decided and trial.arm in (comparison.arm, comparison.other)
    ]
    return replace(trial, reason="; ".join(reasons))


def _address(request: SweepRequest, dataset: Dataset) -> str:
    """Name or path by which workers open the data set from any folder."""
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
