"""The trials of a sweep as Ray Tune's documentation writes them, to hold ours against.

An actor per trial, its logging callback for MLflow, the teacher asked in every step, and the videos
decoded by our reader in every epoch. Network, data, epochs, validation, checkpoints and test are
those of `cmkd`: the same learner runs on both sides, so that accuracies are equal but for rounding.
"""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.sweep import WORKERS, trial_wall
from cmkd.config.sweep import load_sweep
from cmkd.config.trial import TrialConfig
from cmkd.data.clip import read_clip
from cmkd.data.dataset import Dataset, open_dataset
from cmkd.data.decoded_cache import open_arrays
from cmkd.data.views import apply_view, view_index
from cmkd.sweep.trials import expand

SPEC = """\
name: against_naive
description: four short trials of two arms
data: synthetic-smoke
seeds: 2
base:
  training.epochs: 4
  teacher.training.epochs: 1
blocks:
  baseline:
    method.decoder: [false]
    method.lambda_1: [0.0]
    method.lambda_2: [0.0]
  both:
    method.lambda_1: [0.1]
    method.lambda_2: [1.0]
"""
MAPS = ("iframes", "gop", "motion", "residual", "frames")


@dataclass(frozen=True)
class NaiveFigures:
    """Seconds from the start of the first trial to the end of the last, by who trains them."""

    trials: int
    ours: float
    naive: float

    @property
    def ratio(self) -> float:
        """Trials that we finish while the naive sweep finishes one."""
        return self.naive / self.ours


def measure_naive(cache: Path, folder: Path) -> NaiveFigures:
    """Run the spec both ways, where data and teacher are there but none of its features."""
    spec = folder / "against_naive.yaml"
    spec.write_text(SPEC, encoding="utf-8")
    environment = {**os.environ, "CMKD_CACHE": str(cache)}
    walls = []
    for module in (["cmkd", "sweep", str(spec), "--workers", str(WORKERS)], ["benchmarks.naive"]):
        place = folder / module[0]
        place.mkdir()
        store = f"sqlite:///{place / 'mlflow.db'}"
        environment |= {"MLFLOW_TRACKING_URI": store, "PYTHONPATH": os.pathsep.join(sys.path)}
        command = [sys.executable, "-m", *module]
        if module == ["benchmarks.naive"]:
            command += [str(spec), str(cache), str(place)]
        subprocess.run(command, cwd=place, env=environment, check=True, stdout=subprocess.DEVNULL)
        walls.append(trial_wall(store))
    return NaiveFigures(len(trials_of(spec, cache)), *walls)


def trials_of(spec: Path, cache: Path) -> list[TrialConfig]:
    sweep = load_sweep(str(spec)).spec
    dataset = open_dataset(sweep.data, cache)
    planned = expand(
        load_sweep(str(spec)), data=sweep.data, data_id=dataset.id, folds=1, seeds=sweep.seeds
    )
    return [trial.config for trial in planned]


class Decoded:
    """What `ClipArrays` is, read from the videos whenever it is asked for."""

    def __init__(self, dataset: Dataset, config: TrialConfig) -> None:
        self._reading = config.setting.reading
        plan = view_index(dataset, self._reading.inputs)
        self.labels, self.index, self.test_index = plan.labels, plan.index, plan.test_index
        self._rows = [
            (dataset.root / clip.path, view)
            for clip, views in zip(dataset.clips, plan.views, strict=True)
            for view in views
        ]
        self._last: tuple[bytes, dict[str, NDArray[Any]]] = (b"", {})
        for name in MAPS:
            setattr(self, name, _Maps(self, name, self.read(name, np.array([0])).shape))

    def read(self, name: str, rows: NDArray[np.int64]) -> NDArray[Any]:
        """One of `MAPS` of these rows; all are read at once and kept for the next call."""
        if self._last[0] != rows.tobytes():
            parts: dict[str, list[NDArray[Any]]] = {name: [] for name in MAPS}
            for row in rows:
                path, view = self._rows[row]
                clip = apply_view(read_clip(path, self._reading, phase=view.phase), view)
                for part in MAPS:
                    parts[part].append(getattr(clip, part))
            stacked = {part: np.stack(values) for part, values in parts.items()}
            self._last = (rows.tobytes(), stacked)
        return self._last[1][name]


class _Maps:
    """One map of all rows."""

    def __init__(self, decoded: Decoded, name: str, shape: tuple[int, ...]) -> None:
        self._decoded, self._name, self.shape = decoded, name, shape

    def __getitem__(self, rows: NDArray[np.int64]) -> NDArray[Any]:
        return self._decoded.read(self._name, rows)


def train(config: dict[str, Any]) -> None:
    """One trial, as a function trainable of Ray Tune."""
    from ray import tune

    from cmkd.training.batches import ClipReader, first_rows, measure_scales
    from cmkd.training.features import online_features
    from cmkd.training.outcome import accuracy
    from cmkd.training.runtime import configure, pick_device
    from cmkd.training.student import StudentLearner

    configure(threads=1)
    trial: TrialConfig = config["trial"]
    cache, method = Path(config["cache"]), trial.setting.method
    dataset, device = open_dataset(trial.data, cache), pick_device("cpu")
    arrays = open_arrays(dataset, trial.setting.reading, cache)
    split, classes = dataset.split(trial.fold), len(dataset.info.classes)
    plain = first_rows(arrays, split.train)
    # Given: the scale of the inputs and that of the teacher's maps.
    reader = ClipReader(arrays, measure_scales(arrays, plain), device, trial.setting)
    features, mean_edges = None, {}
    if method.needs_teacher:
        features = online_features(trial, cache, dataset, reader)
        mean_edges = dict.fromkeys(method.tg, 1.0)
    reader.arrays = Decoded(dataset, trial)  # type: ignore[assignment]
    learner = StudentLearner(
        trial,
        reader,
        split,
        classes,
        Path(config["folder"]) / trial.id,
        cache,
        features=features,
        mean_edges=mean_edges,
    )
    while not learner.finished:
        tune.report(dict(learner.train_epoch().metrics))
    rows = reader.arrays.test_index[list(split.test)]
    selected = learner.predict(rows).selected
    tune.report({"test_acc": accuracy(selected, reader.arrays.labels[rows[:, 0]])})


def main(spec: Path, cache: Path, folder: Path) -> None:
    """The sweep, as the documentation has it."""
    os.environ.update({"RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0", "RAY_USAGE_STATS_ENABLED": "0"})
    import ray
    from ray import tune
    from ray.air.integrations.mlflow import MLflowLoggerCallback

    ray.init(address="local", num_cpus=WORKERS, include_dashboard=False, log_to_driver=False)
    store = os.environ["MLFLOW_TRACKING_URI"]
    tuner = tune.Tuner(
        tune.with_resources(train, {"cpu": 1}),
        param_space={
            "trial": tune.grid_search(trials_of(spec, cache)),
            "cache": str(cache),
            "folder": str(folder),
        },
        run_config=tune.RunConfig(
            storage_path=str(folder / "ray"),
            verbose=0,
            callbacks=[MLflowLoggerCallback(tracking_uri=store, experiment_name="naive")],
        ),
    )
    results = tuner.fit()
    if results.num_errors:
        raise RuntimeError(f"{results.num_errors} trials failed: {results.errors[0]}")


if __name__ == "__main__":
    main(*(Path(argument) for argument in sys.argv[1:]))
