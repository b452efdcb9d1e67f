"""Results of a tracking store as pandas DataFrames: trials, epochs and predictions.

    import cmkd

    table = cmkd.results.trials(sweep="ablation")
    table.groupby("arm")["test_acc"].agg(["mean", "std", "count"])

A store is a URI as MLflow takes it; without one it is ``$MLFLOW_TRACKING_URI``, else
``./mlflow.db``. A SQLite store is read without MLflow.
"""

from __future__ import annotations

import io
import json
from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from cmkd.config.backbones import find_backbone
from cmkd.errors import InputError
from cmkd.tracking.reader import RunReader, open_reader
from cmkd.tracking.store import RunRecord, default_uri, redact, store_exists

IDENTITY = (
    *("trial_id", "run_id", "status", "sweep", "data", "data_id", "data_kind"),
    *("arm", "family", "setting_id", "seed", "fold", "folds", "teacher"),
    *("git_commit", "experiment_id"),
)
"""Columns that every frame of trials has; swept keys and metrics follow."""
_NUMBERS = ("seed", "fold", "folds")
PREDICTIONS = ("clip", "group", "label", "selected", "last")
"""Columns of a trial's predictions: classes at the selected and at the last epoch."""
RANK = "rank"
"""Further column: place of the right class among the scores of the selected epoch, from 1."""


def trials(
    store: str | None = None,
    *,
    sweep: str | None = None,
    data: str | None = None,
    status: str | None = "FINISHED",
) -> pd.DataFrame:
    """One row per trial, in the order of their start.

    Columns are `IDENTITY`; each dotted key of the setting in which the trials differ
    (``method.lambda_1``); and every metric at its last value, accuracies in percent.

    Args:
        sweep: name of the sweep that trained them.
        data: name or id of the data set.
        status: FINISHED, RUNNING, FAILED or KILLED; None: any.

    Raises:
        InputError: there is no store.
        InfrastructureError: the store does not answer.
    """
    reader = _open(store)
    return _trials(reader, _find(reader, sweep, data, status))


def epochs(
    store: str | None = None,
    *,
    sweep: str | None = None,
    data: str | None = None,
    status: str | None = "FINISHED",
) -> pd.DataFrame:
    """One row per trial and epoch; metrics that were not logged at an epoch are NaN.

    Columns are `IDENTITY`, ``epoch``, the swept keys and the metrics; arguments and errors as
    those of `trials`.
    """
    reader = _open(store)
    runs = _find(reader, sweep, data, status)
    whole = _trials(reader, runs, metrics=False)
    return _joined(whole, _epochs(reader, [run.run_id for run in runs]), "epoch")


def predictions(
    store: str | None = None,
    *,
    sweep: str | None = None,
    data: str | None = None,
    status: str | None = "FINISHED",
) -> pd.DataFrame:
    """One row per trial and test clip.

    Columns are `IDENTITY`, `PREDICTIONS`, `RANK` and the swept keys; texts are categorical. There
    is no rank of trials with at most five classes or without scores. Arguments and errors as those
    of `trials`.

    Raises:
        InputError: also for a trial whose predictions.csv is no such file.
    """
    reader = _open(store)
    runs = _find(reader, sweep, data, status)
    parts = [_predictions(reader, run) for run in runs]
    clips = pd.concat(parts, ignore_index=True) if parts else pd.DataFrame(columns=["run_id"])
    for column in PREDICTIONS:
        clips[column] = clips[column].astype("category") if parts else pd.Series(dtype="category")
    clips[RANK] = clips[RANK].astype("Int64") if parts else pd.Series(dtype="Int64")
    return _joined(_trials(reader, runs, metrics=False), clips, *PREDICTIONS, RANK)


def read_runs(reader: RunReader, tags: Mapping[str, str]) -> pd.DataFrame:
    """One row per run that has all `tags`, in the order of their start.

    Columns are its ids, status, tags (texts) and metrics at their last value; those of `IDENTITY`
    are always there. What a run lacks is NaN.
    """
    rows = [
        {
            **run.tags,
            **run.metrics,
            "run_id": run.run_id,
            "trial_id": run.trial_id,
            "status": run.status,
            "experiment_id": run.experiment_id,
        }
        for run in reader.find(tags)
    ]
    frame = pd.DataFrame(rows)
    return frame.reindex(columns=list(dict.fromkeys([*IDENTITY, *frame.columns])))


def _open(store: str | None) -> RunReader:
    if not store_exists(store):
        raise InputError(
            f"{redact(store or default_uri())}: no tracking store is there; run a sweep, or give "
            "its URI (sqlite:///FILE, postgresql://..., http://...)"
        )
    return open_reader(store)


def _find(
    reader: RunReader, sweep: str | None, data: str | None, status: str | None
) -> list[RunRecord]:
    wanted = {"kind": "trial", **({"sweep": sweep} if sweep else {})}
    runs = reader.find({**wanted, **({"data": data} if data else {})})
    if data and not runs:
        runs = reader.find({**wanted, "data_id": data})
    return [run for run in runs if status in (None, run.status)]


def _trials(reader: RunReader, runs: Sequence[RunRecord], *, metrics: bool = True) -> pd.DataFrame:
    """The frame of `runs`: identity, swept keys and, unless left out, metrics."""
    params = _params(reader, runs)
    rows = [_identity(run, params[run.run_id]) for run in runs]
    frame = pd.DataFrame(rows, columns=list(IDENTITY))
    for name in _NUMBERS:
        frame[name] = pd.to_numeric(frame[name], errors="coerce").astype("Int64")
    values = pd.DataFrame([params[run.run_id] for run in runs], dtype=object)
    swept = [key for key in values.columns if values[key].nunique() > 1]
    parts = [frame, values[swept].map(_value, na_action="ignore").infer_objects()]
    if metrics:
        parts.append(pd.DataFrame([run.metrics for run in runs], dtype=float))
    return pd.concat(parts, axis=1)


def _identity(run: RunRecord, params: Mapping[str, str]) -> dict[str, Any]:
    known = {
        "trial_id": run.trial_id,
        "run_id": run.run_id,
        "status": run.status,
        "family": family_of(params.get("student.backbone", "")),
        "experiment_id": run.experiment_id,
    }
    return {name: known.get(name, run.tags.get(name)) for name in IDENTITY}


def family_of(backbone: str) -> str | None:
    """Family of a backbone, by the table of backbones; None without a name or its package."""
    try:
        return find_backbone(backbone).family if backbone else None
    except ValueError:
        return None


def _params(reader: RunReader, runs: Sequence[RunRecord]) -> Mapping[str, Mapping[str, str]]:
    lacking = [run.run_id for run in runs if not run.params]
    read = reader.params(lacking) if lacking else {}
    return {run.run_id: run.params or read.get(run.run_id, {}) for run in runs}


def _value(text: str) -> Any:
    """A value as it was in the setting; a list stays text, which can be grouped by."""
    try:
        value = json.loads(text)
    except ValueError:
        return text
    return text if isinstance(value, list | dict) else value


def _epochs(reader: RunReader, run_ids: Sequence[str]) -> pd.DataFrame:
    """Wide: run, epoch, and one column per metric."""
    # Final metrics (test accuracy, say) stand at step 0; epochs are counted from 1.
    logged = {
        name: rows
        for name, values in reader.metric_arrays(run_ids).items()
        if len(rows := values[values[:, 1] > 0])
    }
    if not logged:
        return pd.DataFrame({"run_id": [], "epoch": []})
    keys = [(rows[:, 0].astype(int), rows[:, 1].astype(int)) for rows in logged.values()]
    width = 1 + max(int(epoch.max()) for _, epoch in keys)
    codes = [run * width + epoch for run, epoch in keys]
    places = np.unique(np.concatenate(codes))
    columns = {}
    for (name, rows), code in zip(logged.items(), codes, strict=True):
        columns[name] = np.full(len(places), np.nan)
        columns[name][np.searchsorted(places, code)] = rows[:, 2]
    ids = np.array(run_ids, object)[places // width]
    return pd.DataFrame({"run_id": ids, "epoch": places % width, **columns})


def _predictions(reader: RunReader, run: RunRecord) -> pd.DataFrame:
    text = reader.read_text(run.run_id, "predictions.csv")
    try:
        kinds = defaultdict[str, str](lambda: "str", {RANK: "Int64"})
        frame = pd.read_csv(io.StringIO(text), dtype=kinds, keep_default_na=False)
    except ValueError as error:
        raise InputError(f"run {run.run_id}: predictions.csv is no CSV file ({error})") from None
    if tuple(frame.columns) not in (PREDICTIONS, (*PREDICTIONS, RANK)):
        raise InputError(
            f"run {run.run_id}: predictions.csv has the columns {', '.join(frame.columns)}, not "
            f"{', '.join(PREDICTIONS)}; delete that run and train it again"
        )
    frame.insert(0, "run_id", run.run_id)
    return frame if RANK in frame else frame.assign(**{RANK: pd.NA})


def _joined(whole: pd.DataFrame, many: pd.DataFrame, *own: str) -> pd.DataFrame:
    """`whole` repeated for the rows of `many`, with the columns `own` after the identity."""
    place = pd.Series(np.arange(len(whole)), index=whole["run_id"])
    order = place.reindex(many["run_id"]).to_numpy(int)
    at = np.argsort(order, kind="stable")
    many = many.iloc[at].reset_index(drop=True)
    left = whole.take(order[at]).reset_index(drop=True)
    swept = [column for column in left.columns if column not in IDENTITY]
    rest = [column for column in many.columns if column not in ("run_id", *own)]
    return pd.concat([left[list(IDENTITY)], many[list(own)], left[swept], many[rest]], axis=1)
