"""Runs written to MLflow, by one process; a run is found by its trial id."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Collection, Iterable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from urllib.parse import unquote, urlsplit

from filelock import FileLock

from cmkd.errors import InfrastructureError, InputError
from cmkd.machine import is_here, named, owner, owner_is_gone
from cmkd.tracking.mlflow_calls import MlflowRuns, as_kept, data_inputs, page_tags, record_of
from cmkd.tracking.store import (
    EpochRecord,
    RunEnding,
    RunIdentity,
    RunRecord,
    RunStatus,
    RunStore,
    checked_uri,
    default_uri,
    is_timing,
    redact,
    sqlite_file,
    tracker_of,
)

ENDING_TAGS = frozenset(
    {"failure", "failure_kind", "failure_epoch", "failure_trace"}
    | {"pruned", "pruned_epoch", "pruned_score"}
)
"""They say why a run ended early; one that goes on loses them."""
SERVER_WRITERS = 4
ORIGIN_TAGS = frozenset(
    {"git_commit", "code", "made_with", "processor", "begun_by", "sweep", "arm", "arms"}
)
"""They say who made a run; a sweep that shares it leaves them as they are."""

DESCRIPTION_TAG = "mlflow.note.content"
"""Description of an experiment in MLflow's pages."""

HELD_SECONDS = 60.0
"""Wait at the end of a trial for another process that writes its run."""


def open_store(uri: str | None = None) -> RunStore:
    """Open a store of MLflow, or of a tracker that is registered for the scheme of the URI.

    Args:
        uri: SQLite, PostgreSQL, MySQL or SQL Server URL, or that of an MLflow server;
            `default_uri` when None. A store that is new gets its tables first.

    Raises:
        InputError: the URI is of no such kind, its folder cannot be written, or what lies there
            is no store of this version of MLflow.
        InfrastructureError: the store does not answer.
    """
    uri = uri or default_uri()
    if (tracker := tracker_of(uri)) is not None:
        opened: RunStore = tracker.load()(uri)
        return opened
    uri = checked_uri(uri)
    path = sqlite_file(uri)
    if path is None:
        return MlflowStore(uri)
    # Two processes that create the tables of one file at once leave it half made.
    with FileLock(path.with_name(f"{path.name}.lock")):
        if path.is_file() and not path.stat().st_size:
            raise InfrastructureError(
                f"{path}: is empty, as after a crash of the machine; bring a copy of it back, or "
                "remove it: what the cache has of finished trials is then recorded anew"
            )
        return MlflowStore(uri)


class MlflowStore(MlflowRuns, RunStore):
    """A `RunStore` in MLflow; made by `open_store`.

    Every method retries a busy database for up to a minute and raises InfrastructureError when
    the store does not answer, InputError when it refuses.
    """

    def __init__(self, uri: str) -> None:
        super().__init__(uri)
        # Absolute, and never ./mlruns, which MLflow would take for its own default store.
        artifacts = (Path.cwd() / "mlartifacts").as_uri()
        self._artifacts = None if uri.startswith("http") else artifacts
        self._written: dict[str, set[tuple[str, int]]] = {}
        # Epochs of runs that another process writes.
        self._kept: dict[str, list[EpochRecord]] = {}
        # Two threads that make one experiment at once: the second is refused.
        self._making = threading.Lock()
        # By run id, what opened it, and the run that took its place.
        self._opened: dict[str, tuple[RunIdentity, Mapping[str, str]]] = {}
        self._moved: dict[str, str] = {}

    @property
    def writers(self) -> int:
        """Threads that may write at once; a SQLite file takes one."""
        return 1 if sqlite_file(self.uri) else SERVER_WRITERS

    def require_writable(self, experiment: str) -> None:
        """See that files of the runs of an experiment can be written, where that is this machine's.

        Raises:
            InputError: they cannot.
        """
        found = self._call(self._client.get_experiment_by_name, experiment)
        place = found.artifact_location if found else self._artifacts
        if place is None or not place.startswith("file:"):
            return
        folder = Path(unquote(urlsplit(place).path))
        nearest = next(parent for parent in (folder, *folder.parents) if parent.exists())
        if not os.access(nearest, os.W_OK | os.X_OK):
            raise InputError(
                f"{folder}: cannot be written, but files of the runs go there; start in another "
                "folder, or give another --tracking-uri"
            )

    def open(self, identity: RunIdentity, artifacts: Mapping[str, str]) -> str:
        """Create the trial's run or reopen it, never a second one; returns its run id.

        Its history stays, and so do the tags of who made it; the marks of an earlier failure go.
        A FINISHED run is left as it is. `artifacts` maps names to texts.
        """
        experiments = self._experiments()
        known: Sequence[RunRecord]
        known = self._find({"trial_id": identity.trial_id}, experiments.values())
        if not known:
            name = identity.experiment
            with self._making:
                experiment = experiments.get(name) or self._new(name, identity.about)
            own = self._create(identity, experiment)
            self._write(own, params=identity.params)
            if inputs := data_inputs(identity):
                self._call(self._client.log_inputs, own, inputs)
            # Another process may have created one meanwhile, in an experiment of its own.
            known = self.find({"trial_id": identity.trial_id})
        survivor = self._only(known)
        if survivor.status == "FINISHED":
            return survivor.run_id
        run_id = self._reopen(survivor, identity)
        for name, text in artifacts.items():
            self._call(self._client.log_text, run_id, text, name)
        self._opened[run_id] = identity, artifacts
        return run_id

    def log(self, run_id: str, epochs: Iterable[EpochRecord]) -> None:
        """Write metrics; a (step, name) that is already there is left as it is.

        While another process writes the run, they are kept until that has ended.

        Raises:
            InputError: a process of another host has taken the run over.
        """
        kept = [*self._kept.get(run_id, ()), *epochs]
        run = self._current(run_id)
        if self._may_write(run):
            self._write(run.run_id, epochs=kept)
            kept = []
        self._kept[run_id] = kept

    def close(self, run_id: str, ending: RunEnding) -> None:
        """End the run with final metrics, tags and files.

        The status is written last, so a FINISHED run is a complete one, and one that is FINISHED
        stays so. A run that another living process writes is not KILLED. The store is asked for
        what it has, as it may have been set back since that was written. A run with results that
        this training has not had, as of another process, is removed and recorded anew.

        Raises:
            InputError: also where a file is not there, or another process writes the run and does
                not end.
        """
        moment = ending.timestamp_ms
        moment = int(time.time() * 1000) if moment is None else moment
        last = [EpochRecord(0, moment, ending.summary)] if ending.summary else []
        epochs = [*(ending.history or self._kept.get(run_id, ())), *last]
        run = self._may_close(run_id, ending.status)
        is_whole = ending.status == "FINISHED" and bool(ending.history)
        if run and is_whole and not self._agrees(run.run_id, epochs):
            self._call(self._client.delete_run, run.run_id)
            run = self._may_close(run_id, ending.status)
        if run is None:
            return
        current = run.run_id
        for path in ending.files:
            if not path.is_file():
                raise InputError(
                    f"{path}: gone before it was kept with run {current}; remove the folder "
                    f"{path.parent} and what it is of is trained again"
                )
            self._call(self._client.log_artifact, current, str(path))
        if ending.history:
            self._written.pop(current, None)
        identity = self._opened[run_id][0] if run_id in self._opened else None
        params = _without(identity.params, run.params.keys()) if identity else {}
        self._write(current, epochs=epochs, params=params, tags=ending.tags)
        if ending.status == "FINISHED" and identity is not None:
            if self._only(self.find({"trial_id": identity.trial_id})).run_id != current:
                return
        self._release(current, ending.status)
        self._written.pop(current, None)
        for mapping in (self._kept, self._opened, self._moved):
            mapping.pop(run_id, None)

    def discard(self, run_id: str) -> None:
        """Remove an unfinished run, whose records nothing goes on from."""
        self._call(self._client.delete_run, run_id)

    def _only(self, runs: Sequence[RunRecord]) -> RunRecord:
        """The one run of a trial: FINISHED, else RUNNING, of these the smallest id; others go.

        Two processes, or a server that works off requests which it seemed not to answer, may have
        created several. Whoever sees them keeps the same one, so that it is never none.
        """
        if not runs:
            raise InfrastructureError(
                f"tracking store {redact(self.uri)}: another process removed a run while it was "
                "being written; run it again"
            )
        order = {"FINISHED": 0, "RUNNING": 1}
        first, *others = sorted(runs, key=lambda run: (order.get(run.status, 2), run.run_id))
        for run in others:
            # Equal FINISHED ones of earlier versions are left to the report, which tells them.
            if run.status != "FINISHED":
                self._call(self._client.delete_run, run.run_id)
        return first

    def _current(self, run_id: str) -> RunRecord:
        """The run as it is now, or the one that took its place.

        Another process may have removed it in favour of its own, or the store may have been set
        back to a time before it was created.
        """
        try:
            run = self._call(self._client.get_run, self._moved.get(run_id, run_id))
            if run.info.lifecycle_stage == "active":
                return record_of(run)
        except InputError:
            if run_id not in self._opened:
                raise
        if run_id not in self._opened:
            raise InputError(f"run {run_id} of {redact(self.uri)} was deleted")
        self._moved[run_id] = self.open(*self._opened[run_id])
        return record_of(self._call(self._client.get_run, self._moved[run_id]))

    def close_orphans(self) -> int:
        """Mark as KILLED the RUNNING runs of dead processes of this host; returns how many.

        To be called before this process opens its first run.
        """
        running = [
            record_of(run)
            for run in self._search("attributes.status = 'RUNNING'", self._experiments().values())
        ]
        orphans = [run for run in running if owner_is_gone(run.tags.get("owner", ""))]
        for run in orphans:
            self._release(run.run_id, "KILLED")
        return len(orphans)

    def _new(self, name: str, about: str) -> str:
        """Id of an experiment that is not among the active ones; a new one is described."""
        found = self._call(self._client.get_experiment_by_name, name)
        if found is None:
            tags = {DESCRIPTION_TAG: about} if about else {}
            return self._call(self._client.create_experiment, name, self._artifacts, tags)
        if found.lifecycle_stage != "active":
            raise InputError(
                f"experiment {name!r} was deleted in {redact(self.uri)}; bring it back with "
                f"`mlflow experiments restore -x {found.experiment_id}` or empty the bin with "
                "`mlflow gc`"
            )
        return str(found.experiment_id)

    def _create(self, identity: RunIdentity, experiment: str) -> str:
        # The tags come with the creation: killed between the two, the run would be lost.
        own = {"trial_id": identity.trial_id, "owner": owner()}
        tags = {**page_tags(identity), **identity.tags, **own}
        run = self._call(self._client.create_run, experiment, tags=tags, run_name=identity.name)
        run_id = str(run.info.run_id)
        self._written[run_id] = set()
        return run_id

    def _reopen(self, run: RunRecord, identity: RunIdentity) -> str:
        if run.status != "RUNNING":
            self._call(self._client.update_run, run.run_id, status="RUNNING")
        for tag in sorted(ENDING_TAGS & run.tags.keys()):
            self._call(self._client.delete_tag, run.run_id, tag)
        # One on another host cannot be asked whether it lives; the last to come writes.
        holds = run.status == "RUNNING" and _is_held(run.tags) and is_here(run.tags["owner"])
        kept = ORIGIN_TAGS | ({"owner"} if holds else set())
        tags = _without({**identity.tags, "owner": owner()}, kept & run.tags.keys())
        self._write(run.run_id, params=_without(identity.params, run.params.keys()), tags=tags)
        return run.run_id

    def _may_write(self, run: RunRecord) -> bool:
        """True if this process writes the run; it takes it over where its writer is gone."""
        run_id = run.run_id
        tag = run.tags.get("owner", "")
        if tag == owner():
            return True
        if run.status == "FINISHED":
            return False
        if _is_held(run.tags):
            if is_here(tag):
                return False
            raise InputError(f"run {run_id} of {redact(self.uri)} was taken over by {named(tag)}")
        self._written.pop(run_id, None)
        self._call(self._client.update_run, run_id, status="RUNNING")
        self._call(self._client.set_tag, run_id, "owner", owner())
        return True

    def _may_close(self, run_id: str, status: RunStatus) -> RunRecord | None:
        """The run to end; None where it has ended or is another process's."""
        deadline = time.monotonic() + HELD_SECONDS
        while True:
            now = self._current(run_id)
            if now.status == "FINISHED" or (status != "FINISHED" and _is_held(now.tags)):
                return None
            if self._may_write(now):
                return now
            if time.monotonic() > deadline:
                raise InputError(
                    f"run {now.run_id} of {redact(self.uri)} is being written by "
                    f"{named(now.tags['owner'])}; when that has ended, run this again"
                )
            time.sleep(0.5)

    def _release(self, run_id: str, status: RunStatus) -> None:
        with suppress(InputError):  # It may have none.
            self._call(self._client.delete_tag, run_id, "owner")
        self._call(self._client.set_terminated, run_id, status)

    def _write(
        self,
        run_id: str,
        *,
        epochs: Iterable[EpochRecord] = (),
        params: Mapping[str, str] | None = None,
        tags: Mapping[str, str] | None = None,
    ) -> None:
        """All in as few requests as MLflow allows."""
        from mlflow.entities import Metric, Param, RunTag

        metrics = [
            Metric(name, value, epoch.timestamp_ms, epoch.step)
            for epoch in epochs
            for name, value in epoch.metrics.items()
        ]
        written = self._steps_written(run_id) if metrics else set()
        metrics = [metric for metric in metrics if (metric.key, metric.step) not in written]
        if metrics:
            # A failed call may have written some; the next one asks the store.
            del self._written[run_id]
        self._call(
            self._client.log_batch,
            run_id,
            metrics,
            [Param(key, value) for key, value in (params or {}).items()],
            [RunTag(key, value) for key, value in (tags or {}).items()],
        )
        if metrics:
            self._written[run_id] = written | {(metric.key, metric.step) for metric in metrics}

    def _steps_written(self, run_id: str) -> set[tuple[str, int]]:
        if run_id not in self._written:
            self._written[run_id] = {(name, step) for name, step, _ in self._logged(run_id)}
        return self._written[run_id]

    def _agrees(self, run_id: str, epochs: Iterable[EpochRecord]) -> bool:
        """False if the run has results that this training has not had, as of another process."""
        trained = {
            (name, epoch.step): value for epoch in epochs for name, value in epoch.metrics.items()
        }
        logged = self._logged(run_id)
        places = [(name, step) for name, step, _ in logged]
        self._written[run_id] = set(places)
        # An epoch that was trained again after a kill took another time.
        return len(places) == len(set(places)) and all(
            (name, step) in trained
            and (is_timing(name) or as_kept(trained[name, step]) == as_kept(value))
            for name, step, value in logged
        )


def _is_held(tags: Mapping[str, str]) -> bool:
    """True if another process, which may be alive, writes the run."""
    tag = tags.get("owner", "")
    return tag not in ("", owner()) and not owner_is_gone(tag)


def _without(texts: Mapping[str, str], keys: Collection[str]) -> dict[str, str]:
    return {key: value for key, value in texts.items() if key not in keys}
