"""What it costs to write one trial to an MLflow store in SQLite, epoch by epoch."""

from __future__ import annotations

import statistics
import time
from pathlib import Path

from cmkd.tracking.mlflow_store import open_store
from cmkd.tracking.records import EpochRecord, RunIdentity

TRIALS, EPOCHS = 5, 20
METRICS = (
    *("train_loss", "train_acc", "loss_ce", "loss_spatial", "loss_temporal"),
    *("alpha_entropy", "val_acc", "lr", "step_seconds", "seconds"),
)


def measure_tracking(folder: Path) -> float:
    """Median seconds per trial: run, parameters, tags, metrics of 20 epochs, end."""
    store = open_store(f"sqlite:///{folder / 'tracking.db'}")
    laps = []
    for trial in range(TRIALS):
        names = [f"key_{number}" for number in range(30)]
        identity = RunIdentity(
            trial_id=f"bench-{trial}",
            experiment="bench/tracking",
            name=f"bench {trial}",
            tags=dict.fromkeys(names[:12], "tag"),
            params=dict.fromkeys(names, "value"),
        )
        started = time.perf_counter()
        run_id = store.open(identity, {})
        for epoch in range(1, EPOCHS + 1):
            store.log(run_id, [EpochRecord(epoch, 1_700_000_000_000 + epoch, _metrics(epoch))])
        store.close(run_id, "FINISHED", summary=_metrics(0))
        laps.append(time.perf_counter() - started)
    return statistics.median(laps)


def _metrics(epoch: int) -> dict[str, float]:
    return {name: epoch + 0.5 for name in METRICS}
