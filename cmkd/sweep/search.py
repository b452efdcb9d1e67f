"""Hyperparameter search: TPE proposals and pruning. Only module that imports optuna.

Both depend on results alone, which the store has: after a kill the same calls go on from there.
Optuna is asked for new proposals only, and told of the others, so that another version of it
changes nothing that is done.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol, cast

from cmkd.config.paths import load_plugin
from cmkd.config.spec import SearchSpec
from cmkd.errors import ConfigError

if TYPE_CHECKING:
    from optuna.trial import FrozenTrial

Values = Mapping[str, float]
"""A value per searched key."""
DIGITS = 3
"""Significant digits of a proposed value."""


@dataclass(frozen=True)
class SearchedTrial:
    """A trial of a search that has ended.

    Attributes:
        score: best validation accuracy in percent; None of one that failed.
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
        """Epochs of all that ended."""
        return sum(trial.epochs for trial in self.ended.values())

    @property
    def best(self) -> int | None:
        """Position of the best score of a whole trial, of equal ones the first."""
        scores = {at: trial.score for at, trial in self.ended.items() if trial.whole}
        return max(scores, key=lambda at: scores[at] or 0.0, default=None)


Ask = Callable[[SearchSpec, Sequence[tuple[Values, SearchedTrial]], int], Sequence[Values]]
"""Gives so many new proposals, from the trials that have ended."""


def propose(
    search: SearchSpec,
    epochs: int,
    known: Mapping[int, Values],
    ended: Callable[[Values], SearchedTrial | None],
    ask: Ask | None = None,
) -> Proposals:
    """All proposals that were tried, and those to try now.

    `search.batch` settings are proposed at once, and the next when all of these have ended, so
    that proposals do not depend on who was first.

    Args:
        epochs: of one whole trial; trials are proposed while the budget holds one more.
        known: proposals of the store by position.
        ended: the trial with these values; None of one that is still to be trained.
        ask: `ask_optuna` when None.
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
    # A sampler of its own per batch: its random numbers depend on what is done, not on history.
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
    """Decides at a rung whether a trial of a search ends there.

    Made with the `SearchSpec`. The decision has to depend on the arguments alone.
    """

    def prune(self, trial_id: str, epoch: int, scores: Mapping[str, float]) -> str:
        """The reason why a trial ends after `epoch`; empty if it goes on.

        Args:
            scores: best validation accuracies up to `epoch` of all trials that reached it.
        """


class SuccessiveHalving:
    """Asynchronous successive halving (Li et al. 2020): at each rung the better ones go on."""

    def __init__(self, search: SearchSpec) -> None:
        self._reduction = search.reduction

    def prune(self, trial_id: str, epoch: int, scores: Mapping[str, float]) -> str:
        """End a trial that is not among the best ``1 / reduction`` of its rung."""
        better = sum(score > scores[trial_id] for score in scores.values())
        if better < max(1, len(scores) // self._reduction):
            return ""
        return (
            f"pruned after epoch {epoch}: {better} of {len(scores) - 1} others were better than "
            f"its {scores[trial_id]:.2f} %, and one in {self._reduction} goes on"
        )


PRUNERS: Mapping[str, Callable[[SearchSpec], Pruner]] = {"halving": SuccessiveHalving}


def pruner_of(search: SearchSpec) -> Pruner:
    """The pruner that a spec names: of `PRUNERS`, of an entry point, or ``module:Class``.

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
        """Note the best scores of a trial up to these epochs."""
        for epoch, score in scores:
            if epoch in self.rungs:
                self.reached.setdefault(epoch, {})[trial_id] = score

    def stop_reason(self, trial_id: str, epoch: int) -> str:
        """Why the trial ends after `epoch`; empty if it goes on."""
        scores = self.reached.get(epoch, {})
        return self.pruner.prune(trial_id, epoch, scores) if trial_id in scores else ""

    def of_trial(self, trial_id: str) -> dict[int, float]:
        """The scores of a trial by rung."""
        return {
            rung: scores[trial_id] for rung, scores in self.reached.items() if trial_id in scores
        }
