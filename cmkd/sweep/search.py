"""Hyperparameter search: TPE proposals and pruning. Only module that imports optuna.

Both depend on stored results alone, so a killed search resumes. Optuna makes new proposals only;
another version of it changes no earlier one.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol, cast

from cmkd.config.paths import load_plugin
from cmkd.config.sweep import SearchSpec
from cmkd.errors import ConfigError

if TYPE_CHECKING:
    from optuna.trial import FrozenTrial

Values = Mapping[str, float]
"""Values by searched key."""
DIGITS = 3
"""Significant digits of a proposed value."""


@dataclass(frozen=True)
class SearchedTrial:
    """A trial of a search that has ended.

    Attributes:
        score: best validation accuracy in percent; None if it failed.
        epochs: cost in epochs of the budget.
        whole: True if it was trained to its end.
    """

    score: float | None
    epochs: int
    whole: bool


@dataclass(frozen=True)
class Proposals:
    """All proposals of a search so far.

    Attributes:
        values: in the order of proposing.
        ended: by position in `values`, the trials that have ended.
    """

    values: tuple[Values, ...]
    ended: Mapping[int, SearchedTrial]

    @property
    def spent(self) -> int:
        """Epochs of all ended trials."""
        return sum(trial.epochs for trial in self.ended.values())

    @property
    def best(self) -> int | None:
        """Position of the best whole trial; the first if tied."""
        scores = {at: trial.score for at, trial in self.ended.items() if trial.whole}
        return max(scores, key=lambda at: scores[at] or 0.0, default=None)


Ask = Callable[[SearchSpec, Sequence[tuple[Values, SearchedTrial]], int], Sequence[Values]]
"""(search, ended trials, count) -> new proposals."""


def propose(
    search: SearchSpec,
    epochs: int,
    known: Mapping[int, Values],
    ended: Callable[[Values], SearchedTrial | None],
    ask: Ask | None = None,
) -> Proposals:
    """All proposals of a search: stored ones and those to train now.

    The next `search.batch` proposals are made when the last ones have ended, so that they do not
    depend on the order of completion.

    Args:
        epochs: of one whole trial.
        known: stored proposals by position.
        ended: result for values; None if still to be trained.
        ask: source of new proposals; None: `ask_optuna`.
    """
    values: list[Values] = []
    results: dict[int, SearchedTrial] = {}
    while room := (search.epochs - sum(trial.epochs for trial in results.values())) // epochs:
        places = range(len(values), len(values) + min(search.batch, room))
        fresh: Sequence[Values] = ()
        if not known.keys() >= set(places):
            done = [(values[at], results[at]) for at in sorted(results)]
            fresh = (ask or ask_optuna)(search, done, len(places))
        for number, place in enumerate(places):
            values.append(known[place] if place in known else fresh[number])
            result = ended(values[place])
            if result is not None:
                results[place] = result
        if len(results) < len(values):
            break
    return Proposals(tuple(values), results)


def ask_optuna(
    search: SearchSpec, done: Sequence[tuple[Values, SearchedTrial]], count: int
) -> list[Values]:
    """`count` proposals of Optuna's TPE sampler after the trials that are `done`."""
    import optuna
    from optuna.distributions import BaseDistribution, FloatDistribution

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    # One sampler per batch, seeded by the number of results, so that a resumed search agrees.
    sampler = optuna.samplers.TPESampler(seed=search.seed + len(done))
    study = optuna.create_study(direction="maximize", sampler=sampler)
    space: dict[str, BaseDistribution] = {
        key: FloatDistribution(limits.low, limits.high, log=True)
        for key, limits in search.ranges.items()
    }
    for values, result in done:
        study.add_trial(_frozen(values, result, space))
    asked = [study.ask(space) for _ in range(count)]
    return [
        {
            key: min(max(float(f"{trial.params[key]:.{DIGITS}g}"), limits.low), limits.high)
            for key, limits in search.ranges.items()
        }
        for trial in asked
    ]


def _frozen(values: Values, result: SearchedTrial, space: Mapping[str, object]) -> FrozenTrial:
    import optuna
    from optuna.distributions import BaseDistribution

    states = optuna.trial.TrialState
    if result.score is None:
        state = states.FAIL
    else:
        state = states.COMPLETE if result.whole else states.PRUNED
    return optuna.trial.create_trial(
        state=state,
        value=result.score if result.whole else None,
        params=dict(values),
        distributions=cast("dict[str, BaseDistribution]", dict(space)),
        intermediate_values={} if result.score is None else {result.epochs: result.score},
    )


class Pruner(Protocol):
    """Early stopping at the rungs of a search; built from its `SearchSpec`.

    The decision must depend on the arguments alone.
    """

    def prune(self, trial_id: str, epoch: int, scores: Mapping[str, float]) -> str:
        """Reason to stop the trial after `epoch`; empty to continue.

        Args:
            scores: best validation accuracies up to `epoch` of all trials that reached it.
        """


class SuccessiveHalving:
    """Asynchronous successive halving (Li et al. 2020)."""

    def __init__(self, search: SearchSpec) -> None:
        self._reduction = search.reduction

    def prune(self, trial_id: str, epoch: int, scores: Mapping[str, float]) -> str:
        """Stop a trial outside the best ``1 / reduction`` of its rung."""
        better = sum(score > scores[trial_id] for score in scores.values())
        if better < max(1, len(scores) // self._reduction):
            return ""
        return (
            f"pruned after epoch {epoch}: {better} of {len(scores) - 1} others were better than "
            f"its {scores[trial_id]:.2f} %, and one in {self._reduction} goes on"
        )


PRUNERS: Mapping[str, Callable[[SearchSpec], Pruner]] = {"halving": SuccessiveHalving}


def pruner_of(search: SearchSpec) -> Pruner:
    """Pruner of a spec: a name in `PRUNERS`, an entry point, or ``module:Class``.

    Raises:
        ConfigError: there is none of that name, or it cannot be imported.
    """
    if search.pruner in PRUNERS:
        return PRUNERS[search.pruner](search)
    try:
        return cast("Pruner", load_plugin("pruner", search.pruner, PRUNERS)(search))
    except ValueError as error:
        raise ConfigError(f"search.pruner: {error}") from None


@dataclass
class RungScores:
    """Scores of the trials of a search at its rungs, judged by a pruner.

    Attributes:
        rungs: epochs after which a trial is judged.
        reached: by rung, best validation accuracies so far of the trials that reached it.
    """

    rungs: Sequence[int]
    pruner: Pruner
    reached: dict[int, dict[str, float]] = field(default_factory=dict)

    def add(self, trial_id: str, scores: Iterable[tuple[int, float]]) -> None:
        """Record the best scores of a trial up to these epochs."""
        for epoch, score in scores:
            if epoch in self.rungs:
                self.reached.setdefault(epoch, {})[trial_id] = score

    def stop_reason(self, trial_id: str, epoch: int) -> str:
        """Reason to stop the trial after `epoch`; empty to continue."""
        scores = self.reached.get(epoch, {})
        return self.pruner.prune(trial_id, epoch, scores) if trial_id in scores else ""

    def of_trial(self, trial_id: str) -> dict[int, float]:
        """Scores of a trial by rung."""
        return {
            rung: scores[trial_id] for rung, scores in self.reached.items() if trial_id in scores
        }
