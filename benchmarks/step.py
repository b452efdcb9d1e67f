"""Where one training step of a trial spends its time, and what cached teacher features save."""

from __future__ import annotations

import statistics
import time
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import nn

from cmkd.config.method import MethodConfig
from cmkd.config.trial import Setting, TeacherConfig, TeacherTrainingConfig, TrialConfig
from cmkd.data.dataset import open_dataset
from cmkd.data.decoded_cache import ensure_arrays
from cmkd.method.losses import total_loss
from cmkd.training.batches import view_rows
from cmkd.training.features import load_teacher
from cmkd.training.runtime import configure
from cmkd.training.student import StudentLearner
from cmkd.training.teacher import ensure_teacher
from cmkd.training.trial import TrialRun

DATA = "synthetic-smoke"
WARM_UP, COUNTED, BATCH = 4, 25, 32


@dataclass
class Clock:
    """Median seconds per named part."""

    laps: dict[str, list[float]] = field(default_factory=lambda: defaultdict(list))

    @contextmanager
    def part(self, name: str) -> Iterator[None]:
        """Time what runs inside."""
        started = time.perf_counter()
        yield
        self.laps[name].append(time.perf_counter() - started)

    def medians(self) -> dict[str, float]:
        """Without the warm-up laps."""
        return {name: statistics.median(laps[WARM_UP:]) for name, laps in self.laps.items()}


def measure_steps(cache: Path) -> dict[str, dict[str, float]]:
    """Seconds per part of a step: for the baseline, for both KD terms, and for a live teacher."""
    configure(threads=1)
    dataset = open_dataset(DATA, cache)
    kd = Setting(teacher=TeacherConfig(training=TeacherTrainingConfig(epochs=1)))
    baseline = MethodConfig(decoder=False, lambda_1=0.0, lambda_2=0.0)
    ensure_arrays(dataset, kd.reading, cache, workers=1)
    both = TrialConfig(setting=kd, data=DATA, data_id=dataset.id, fold=0, seed=0)
    plain = both.model_copy(update={"setting": kd.model_copy(update={"method": baseline})})
    ensure_teacher(both, cache)
    return {
        "baseline": _time_steps(plain, cache),
        "both KD terms": _time_steps(both, cache),
        "teacher": _time_teacher(both, cache),
    }


def _time_steps(config: TrialConfig, cache: Path) -> dict[str, float]:
    trial = TrialRun(config, cache)
    learner = trial.learner
    assert isinstance(learner, StudentLearner)
    student = learner.model.train()
    rows = view_rows(trial.reader.arrays, trial.split.train, 0)
    clock = Clock()
    for lap in range(WARM_UP + COUNTED):
        batch = rows[(lap % 3) * BATCH : (lap % 3 + 1) * BATCH]
        with clock.part("data"):
            loaded = learner.load(batch)
        with clock.part("forward"):
            output = student(*loaded.inputs)
        with clock.part("losses"):
            losses = total_loss(output, loaded.labels, loaded.targets, learner.method)
        with clock.part("backward"):
            learner.optimizer.zero_grad(set_to_none=True)
            losses.total.backward()
        with clock.part("optimiser"):
            nn.utils.clip_grad_norm_(student.parameters(), learner.config.clip_norm)
            learner.optimizer.step()
    return clock.medians()


def _time_teacher(config: TrialConfig, cache: Path) -> dict[str, float]:
    trial = TrialRun(config, cache)
    classes = len(trial.dataset.info.classes)
    teacher = load_teacher(config, cache, classes)
    rows = view_rows(trial.reader.arrays, trial.split.train, 0)[:BATCH]
    clock = Clock()
    for _ in range(WARM_UP + COUNTED):
        with clock.part("forward"), torch.inference_mode():
            teacher(trial.reader.frames(rows))
    return clock.medians()
