"""A sweep as a flat list of trials; pure, and free of repeats."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from cmkd.config.sweep import Sweep
from cmkd.config.trial import Setting, TrialConfig


@dataclass(frozen=True)
class PlannedTrial:
    """A trial and all arms of the sweep that it stands for; the first gives it its name.

    `id` is `config.id`, computed once. `reason` is empty but for a seed beyond those of the sweep:
    there it is the order that it may decide.
    """

    id: str
    config: TrialConfig
    arms: tuple[str, ...]
    reason: str = ""

    @property
    def arm(self) -> str:
        """The arm it is shown under."""
        return self.arms[0]

    @property
    def name(self) -> str:
        """Short label: arm, seed and fold, of which the last changes least and may be cut off."""
        return f"{self.arm} seed {self.config.seed} fold {self.config.fold}"

    @property
    def needs_teacher(self) -> bool:
        """Whether a teacher must exist before it is trained."""
        setting = self.config.setting
        return setting.model == "student" and setting.method.needs_teacher


def expand(
    sweep: Sweep,
    *,
    data: str,
    data_id: str,
    folds: int,
    seeds: int,
    further: Mapping[str, int] | None = None,
) -> tuple[PlannedTrial, ...]:
    """Every arm in every fold with every seed; arms that are the same trial share one.

    Seeds vary slowest: however early a sweep is stopped, its arms have nearly equal numbers of
    seeds and stay comparable.

    Args:
        data: the name, or path, that `open_dataset` finds the data set by.
        folds: splits 0 .. folds - 1.
        seeds: paired seeds 0 .. seeds - 1.
        further: by the name of an arm, how many seeds it has where these are more.
    """
    counts = {arm.name: max(seeds, (further or {}).get(arm.name, 0)) for arm in sweep.arms}
    rows = [
        (arm.name, _replicates(arm.setting, data, data_id, fold, counts[arm.name]))
        for fold in range(folds)
        for arm in sweep.arms
    ]
    configs: dict[str, TrialConfig] = {}
    arms: dict[str, list[str]] = {}
    for _ in range(max(counts.values(), default=0)):
        for name, replicates in rows:
            for trial_id, config in itertools.islice(replicates, 1):
                configs[trial_id] = config
                arms.setdefault(trial_id, []).append(name)
    return tuple(PlannedTrial(key, configs[key], tuple(names)) for key, names in arms.items())


def _replicates(
    setting: Setting, data: str, data_id: str, fold: int, seeds: int
) -> Iterator[tuple[str, TrialConfig]]:
    first = TrialConfig(setting=setting, data=data, data_id=data_id, fold=fold, seed=0)
    return first.by_seed(range(seeds))


def teachers_of(trials: tuple[PlannedTrial, ...]) -> dict[str, TrialConfig]:
    """One trial config per teacher that `trials` need, by teacher id."""
    return {t.config.teacher_id: t.config for t in reversed(trials) if t.needs_teacher}


def epochs_of(setting: Setting) -> int:
    """Epochs that a trial of this setting reports."""
    return 1 if setting.model == "motion_svm" else setting.training.epochs
