"""Optuna: the only door to `optuna`. What a search tries next, and when it gives a trial up.

Both depend on results alone, which the store has: after a kill the same calls go on from there.
Ray Tune's own schedulers forget what they have seen with every start, so the rule of asynchronous
successive halving (Li et al. 2020, ASHA) is written out here; it is five lines.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from cmkd.config.spec import SearchSpec

Values = Mapping[str, float]
"""A value per searched key."""
DIGITS = 3
"""Significant digits of a proposed value."""


@dataclass(frozen=True)
class Ended:
    """How a trial of a search ended.

    Attributes:
        score: best validation accuracy in percent; None of one that failed.
        epochs: what it cost of the budget.
        whole: whether it was trained to its end.
    """

    score: float | None
    epochs: int
    whole: bool


@dataclass(frozen=True)
class Proposals:
    """What a search has proposed so far.

    Attributes:
        values: in the order of proposing.
        ended: by position in `values`, how those that are over ended.
    """

    values: tuple[Values, ...]
    ended: Mapping[int, Ended]

    @property
    def spent(self) -> int:
        """Epochs of all that ended."""
        return sum(one.epochs for one in self.ended.values())

    @property
    def best(self) -> int | None:
        """Position of the best score of a whole trial, of equal ones the first."""
        scores = {at: one.score for at, one in self.ended.items() if one.whole}
        return max(scores, key=lambda at: scores[at] or 0.0, default=None)


def propose(search: SearchSpec, epochs: int, ended: Callable[[Values], Ended | None]) -> Proposals:
    """Everything that was tried, and what is to be tried now, by Optuna's TPE.

    `search.batch` settings are proposed at once, and the next when all of these have ended, so
    that proposals do not depend on who was first.

    Args:
        epochs: of one whole trial; trials are proposed while the budget holds one more.
        ended: how the trial with these values ended; None of one that is still to be trained.
    """
    import optuna
    from optuna.distributions import BaseDistribution, FloatDistribution

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    sampler = optuna.samplers.TPESampler(seed=search.seed)
    study = optuna.create_study(direction="maximize", sampler=sampler)
    space: dict[str, BaseDistribution] = {
        key: FloatDistribution(limits.low, limits.high, log=True)
        for key, limits in search.ranges.items()
    }
    values: list[Values] = []
    results: dict[int, Ended] = {}
    while room := (search.epochs - sum(one.epochs for one in results.values())) // epochs:
        asked = [study.ask(space) for _ in range(min(search.batch, room))]
        first = len(values)
        for place, trial in enumerate(asked, first):
            values.append({key: float(f"{trial.params[key]:.{DIGITS}g}") for key in space})
            result = ended(values[place])
            if result is not None:
                results[place] = result
        if len(results) < len(values):
            break
        for place, trial in enumerate(asked, first):
            _tell(study, trial, results[place])
    return Proposals(tuple(values), results)


def _tell(study: object, trial: object, result: Ended) -> None:
    import optuna

    assert isinstance(study, optuna.Study) and isinstance(trial, optuna.Trial)
    if result.score is None:
        study.tell(trial, state=optuna.trial.TrialState.FAIL)
        return
    trial.report(result.score, result.epochs)
    if result.whole:
        study.tell(trial, result.score)
    else:
        study.tell(trial, state=optuna.trial.TrialState.PRUNED)


@dataclass
class Halving:
    """Which trials of a search are given up: at each rung the better ones go on.

    Attributes:
        rungs: epochs after which a trial is judged.
        reduction: one in so many goes on.
        reached: by rung, best validation accuracies so far of the trials that reached it.
    """

    rungs: Sequence[int]
    reduction: int
    reached: dict[int, dict[str, float]] = field(default_factory=dict)

    def seen(self, trial_id: str, epoch: int, score: float) -> None:
        """Note the best score of a trial up to this epoch."""
        if epoch in self.rungs:
            self.reached.setdefault(epoch, {})[trial_id] = score

    def gives_up(self, trial_id: str, epoch: int) -> str:
        """Why the trial is not to go on after `epoch`, which it was `seen` at; empty if it is."""
        scores = self.reached.get(epoch, {})
        if trial_id not in scores:
            return ""
        better = sum(one > scores[trial_id] for one in scores.values())
        going_on = max(1, len(scores) // self.reduction)
        if better < going_on:
            return ""
        return (
            f"pruned after epoch {epoch}: {better} of {len(scores) - 1} others were better than "
            f"its {scores[trial_id]:.2f} %, and one in {self.reduction} goes on"
        )

    def of_trial(self, trial_id: str) -> dict[int, float]:
        """The scores of a trial by rung."""
        return {
            rung: scores[trial_id] for rung, scores in self.reached.items() if trial_id in scores
        }
