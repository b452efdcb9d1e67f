"""A small embedded data set with its arrays, made once for all tests of this folder."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from cmkd.config.data import ReaderConfig
from cmkd.config.method import MethodConfig
from cmkd.config.trial import (
    Setting,
    StudentConfig,
    TeacherConfig,
    TeacherTrainingConfig,
    TrainingConfig,
    TrialConfig,
)
from cmkd.data.dataset import ensure_synthetic, open_dataset
from cmkd.data.decoded_cache import ensure_arrays
from cmkd.data.synthetic import SyntheticRecipe
from cmkd.training import loop
from cmkd.training.runtime import configure
from tests.conftest import share_data

DATA = "mini"
MakeTrial = Callable[..., TrialConfig]


@pytest.fixture(scope="session")
def mini_cache(make_once: Callable[..., Path]) -> Path:
    """Cache folder that holds the data set and its arrays."""

    def fill(cache: Path) -> None:
        recipe = SyntheticRecipe(name=DATA, train=36, val=12, test=12)
        ensure_synthetic(recipe, cache, workers=1).rename(cache / "data" / DATA)
        ensure_arrays(open_dataset(DATA, cache), ReaderConfig(), cache, workers=1)

    configure(threads=1)
    return make_once(DATA, fill)


@pytest.fixture
def own_cache(mini_cache: Path, tmp_path: Path) -> Path:
    """A cache with the shared data and arrays, but teachers and trials of its own."""
    return share_data(mini_cache, tmp_path / "own")


@pytest.fixture
def make_trial(mini_cache: Path) -> MakeTrial:
    """Trials of a student of width 4 on the small data set."""
    data_id = open_dataset(DATA, mini_cache).id

    def make(
        *, seed: int = 0, model: str = "student", epochs: int = 2, lr: float = 3e-3, **method: Any
    ) -> TrialConfig:
        training = TrainingConfig(epochs=epochs, lr=lr)
        setting = Setting.model_validate(
            {
                "model": model,
                "method": MethodConfig.model_validate({"heads": 2, "hidden": 4} | method),
                "student": StudentConfig(width=4),
                "training": training,
                "teacher": TeacherConfig(width=4, training=TeacherTrainingConfig(epochs=2)),
            }
        )
        return TrialConfig(setting=setting, data=DATA, data_id=data_id, fold=0, seed=seed)

    return make


@pytest.fixture(autouse=True)
def _checkpoint_after_every_epoch(monkeypatch: pytest.MonkeyPatch) -> None:
    """Epochs of these tests take milliseconds, far less than checkpoints are apart."""
    monkeypatch.setattr(loop, "CHECKPOINT_SECONDS", 0.0)
