"""Recorder: the only writer of a sweep to the tracking store, in order for each trial.

Identities of the runs come first: their names, tags and descriptions.

Records wait in a queue while the store does not answer; training goes on. Writes are idempotent
and repeated until the store is back or the sweep ends. Waiting epochs of a trial are one request;
a server takes several trials at once. If the store refuses a record for good, later records of
that run are dropped.
"""

from __future__ import annotations

import json
import shutil
import tempfile
import threading
import time
from collections import deque
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from cmkd.config.data import DatasetInfo
from cmkd.config.trial import SELECTION_RULE, TrialConfig
from cmkd.errors import InfrastructureError, InputError
from cmkd.machine import claim
from cmkd.provenance import Provenance, this_code
from cmkd.sweep.failures import MAX_TAG
from cmkd.sweep.progress import TEACHER_ARM, teacher_name
from cmkd.sweep.trials import PlannedTrial, flat
from cmkd.tracking.store import EpochRecord, RunEnding, RunIdentity, RunStore
from cmkd.training.outcome import TrainingResult

RETRY_SECONDS = 5.0
LAST_SECONDS = 60.0
"""Wait at the end for a store that does not answer; a server restarts in less."""
LAST_PAUSE = 1.0

Write = Callable[[], None]
Draw = Callable[[Sequence[Path], Path], Sequence[Path]]
"""Draws pictures of the files of a run into a folder, and gives their paths."""


@dataclass(frozen=True)
class Origin:
    """Common properties of all runs of a sweep.

    Attributes:
        folds: number of folds of the data set, whether or not this sweep trains on all.
        made_by: by id of a trial or teacher, the code that began what the cache has of it.
        choices: by name, the selections of earlier stages and what they were made of.
        about: what the sweep is for, in its own words.
        split_warning: sentence on the groups of the data set.
        selection: rule by which the epoch of a trial is selected.
    """

    sweep: str
    info: DatasetInfo
    folds: int
    choices: Mapping[str, str] = field(default_factory=dict)
    made_by: Mapping[str, Sequence[Provenance]] = field(default_factory=dict)
    about: str = ""
    split_warning: str | None = None
    selection: str = SELECTION_RULE

    @property
    def experiment(self) -> str:
        """Experiment of the runs: one per sweep and data set."""
        return f"{self.sweep}/{self.info.name}"


def provenance_tags(made_by: Sequence[Provenance]) -> dict[str, str]:
    """Tags of a run by the code that made it: the last, and the first where it is another one."""
    if not made_by:
        return {}
    tags = made_by[-1].tags()
    tags["code"] = " ".join(dict.fromkeys(maker.code for maker in made_by))
    if made_by[0].commit != made_by[-1].commit:
        tags["begun_by"] = made_by[0].commit
    return tags


def finished(
    outcome: TrainingResult,
    history: Sequence[EpochRecord],
    *,
    tags: Mapping[str, str] = {},
    given: Collection[str] = (),
) -> RunEnding:
    """The ending of a run with this outcome.

    Args:
        tags: further ones.
        given: names of files that the run has already.
    """
    notes = {"notes": "\n".join(outcome.notes)[:MAX_TAG]} if outcome.notes else {}
    return RunEnding(
        "FINISHED",
        history,
        outcome.summary,
        # An imported teacher has no epochs.
        history[-1].timestamp_ms if history else None,
        {**provenance_tags(outcome.made_by), **tags, **notes},
        [path for path in outcome.files if path.name not in given],
    )


def trial_identity(trial: PlannedTrial, origin: Origin) -> RunIdentity:
    """The run of a trial."""
    config = trial.config
    tags = {
        **_tags(config, origin, trial.id),
        "kind": "trial",
        "arm": trial.arm,
        "arms": json.dumps(list(trial.arms)),
        "seed": str(config.seed),
        "trial_id": trial.id,
        "setting_id": config.setting.id,
        **{f"selected_{name}": text for name, text in origin.choices.items()},
        **({"added_for": trial.reason[:MAX_TAG]} if trial.reason else {}),
        **({"proposal": trial.proposal} if trial.proposal else {}),
    }
    params = flat(config.setting.as_json())
    return RunIdentity(trial.id, origin.experiment, trial.name, tags, params, origin.about)


def teacher_identity(config: TrialConfig, origin: Origin) -> RunIdentity:
    """The run of the teacher that `config` is distilled from; its trial id is the teacher id."""
    recipe = config.setting.teacher
    tags = {
        **_tags(config, origin, config.teacher_id),
        "kind": "teacher",
        "arm": TEACHER_ARM,
        "seed": str(config.teacher_seed),
        "trial_id": config.teacher_id,
        "setting_id": config.teacher_id,
    }
    params = flat({"teacher": {**recipe.as_json(), "seed": config.teacher_seed}})
    name = teacher_name(config)
    return RunIdentity(config.teacher_id, origin.experiment, name, tags, params, origin.about)


def _tags(config: TrialConfig, origin: Origin, key: str) -> dict[str, str]:
    official = origin.info.official
    return {
        "sweep": origin.sweep,
        "fold": str(config.fold),
        "folds": str(origin.folds),
        "data": origin.info.name,
        "data_id": config.data_id,
        "data_kind": origin.info.kind,
        "teacher": config.teacher_id,
        "selection": origin.selection,
        **provenance_tags(origin.made_by.get(key) or [this_code()]),
        **({"data_official": official.model_dump_json()} if official else {}),
        **({"leak_warning": origin.split_warning} if origin.split_warning else {}),
    }


class Recorder:
    """Records of running trials on their way to the store; methods return at once.

    Args:
        store: written by the recorder alone until `drain`.
        warn: told once when the store first fails, and once per run that it refuses.
        draw: draws the pictures kept with finished runs; a failure costs the pictures alone.
        writers: how many trials are written at once, each by a thread.
    """

    def __init__(
        self,
        store: RunStore,
        warn: Callable[[str], None],
        draw: Draw | None = None,
        *,
        writers: int = 1,
    ) -> None:
        self._store = store
        self._warn = warn
        self._draw = draw
        self._drawing = threading.Lock()
        self._pictures = Path(tempfile.mkdtemp(prefix="cmkd-pictures-")) if draw else None
        if self._pictures is not None:
            claim(self._pictures)
        self._drawn: dict[str, Sequence[Path]] = {}
        self._runs: dict[str, str] = {}
        self._names: dict[str, str] = {}
        self._open: set[str] = set()
        self._refused: set[str] = set()
        self._queue: deque[tuple[str, Write]] = deque()
        self._busy: set[str] = set()
        self._changed = threading.Condition()
        self._error: Exception | None = None
        self._waiting: dict[str, list[EpochRecord]] = {}
        self._drain_began: float | None = None
        self._answered = time.monotonic()
        self._threads = [
            threading.Thread(target=self._work, name="recorder", daemon=True)
            for _ in range(writers)
        ]
        for thread in self._threads:
            thread.start()

    def open(self, identity: RunIdentity, artifacts: Mapping[str, str]) -> None:
        """Create or reopen the run of `identity`; a run that is open stays as it is."""
        if identity.trial_id in self._open:
            return
        self._open.add(identity.trial_id)
        self._names[identity.trial_id] = identity.name

        def write() -> None:
            self._runs[identity.trial_id] = self._store.open(identity, artifacts)

        self._put(identity.trial_id, write)

    def log(self, trial_id: str, epochs: Sequence[EpochRecord]) -> None:
        """Write the metrics of these epochs."""
        with self._changed:
            if trial_id in self._waiting:
                self._waiting[trial_id].extend(epochs)
            elif epochs:
                batch = self._waiting[trial_id] = list(epochs)
                self._put(trial_id, lambda: self._store.log(self._runs[trial_id], batch))

    def close(self, trial_id: str, ending: RunEnding, draw_from: Sequence[Path] = ()) -> None:
        """End the run.

        Args:
            draw_from: files that pictures are drawn of.
        """
        self._open.discard(trial_id)
        with self._changed:
            self._waiting.pop(trial_id, None)

        def write() -> None:
            files = [*ending.files, *self._pictures_of(trial_id, draw_from)]
            self._store.close(self._runs[trial_id], replace(ending, files=files))

        self._put(trial_id, write)

    def _pictures_of(self, trial_id: str, files: Sequence[Path]) -> Sequence[Path]:
        """Pictures of the files of a run, drawn once; without them if that fails."""
        if self._draw is None or self._pictures is None or not files:
            return ()
        if trial_id not in self._drawn:
            folder = self._pictures / trial_id
            try:
                with self._drawing:
                    folder.mkdir(exist_ok=True)
                    self._drawn[trial_id] = self._draw(files, folder)
            except Exception as error:
                self._drawn[trial_id] = ()
                name = self._names[trial_id]
                self._warn(f"{name!r} is kept without pictures: {type(error).__name__}: {error}")
        return self._drawn[trial_id]

    def drain(self, timeout: float | None = None) -> None:
        """Close what is still open as KILLED and wait until everything is written.

        Args:
            timeout: seconds to wait; None waits until a minute went by without an answer.

        Raises:
            InfrastructureError: the store refused all, or some runs, which are named; what it
                lacks is on disk with the trials.
        """
        for trial_id in tuple(self._open):
            self.close(trial_id, RunEnding("KILLED"))
        with self._changed:
            self._drain_began = time.monotonic()
            self._changed.notify_all()
        deadline = None if timeout is None else time.monotonic() + timeout
        for thread in self._threads:
            thread.join(None if deadline is None else max(0.0, deadline - time.monotonic()))
        lacking = len(self._queue) + len(self._busy)
        if self._pictures is not None and not self._busy:
            shutil.rmtree(self._pictures, ignore_errors=True)
        reasons: list[str] = []
        if lacking:
            error = self._error or InfrastructureError(f"tracking store: no answer in {timeout} s")
            if not isinstance(error, InfrastructureError):
                raise error
            reasons.append(f"{error} ({lacking} records not written)")
        if self._refused:
            names = ", ".join(sorted(self._names[trial_id] for trial_id in self._refused))
            reasons.append(f"the tracking store refused records of {names}")
        if reasons:
            raise InfrastructureError("; ".join(reasons))

    def _put(self, trial_id: str, write: Write) -> None:
        with self._changed:
            if trial_id not in self._refused:
                self._queue.append((trial_id, write))
            self._changed.notify_all()

    def _work(self) -> None:
        going_on = True
        while going_on and (entry := self._take()) is not None:
            trial_id, write = entry
            error: Exception | None = None
            try:
                write()
            except InputError as refused:
                self._drop(trial_id, refused)
            except Exception as caught:
                error = caught
            with self._changed:
                self._busy.discard(trial_id)
                if error is not None:
                    self._queue.appendleft(entry)
                else:
                    self._answered = time.monotonic()
                    self._error = None
                self._changed.notify_all()
            if error is not None:
                going_on = self._go_on(error)

    def _take(self) -> tuple[str, Write] | None:
        """The next record of a trial that no other thread writes; None when there will be none."""
        with self._changed:
            while True:
                for place, entry in enumerate(self._queue):
                    if entry[0] not in self._busy:
                        del self._queue[place]
                        self._busy.add(entry[0])
                        # A request on its way takes no more epochs.
                        self._waiting.pop(entry[0], None)
                        return entry
                if not self._queue and self._drain_began is not None:
                    return None
                self._changed.wait()

    def _drop(self, trial_id: str, error: InputError) -> None:
        """Give up the records of a run that the store refuses for good."""
        with self._changed:
            self._refused.add(trial_id)
            self._queue = deque(entry for entry in self._queue if entry[0] != trial_id)
        self._warn(f"{error}; nothing more of {self._names[trial_id]!r} is recorded")

    def _go_on(self, error: Exception) -> bool:
        """After a refusal: wait for the next attempt; False when there is none left."""
        with self._changed:
            first, self._error = self._error is None, error
            draining = self._drain_began
        if first:
            going_on = "training goes on and the records follow when it is back"
            waiting = f"its records are tried for {LAST_SECONDS:.0f} s more"
            self._warn(f"{error}; {going_on if draining is None else waiting}")
        if draining is None:
            with self._changed:
                self._changed.wait_for(lambda: self._drain_began is not None, RETRY_SECONDS)
            return True
        if not isinstance(error, InfrastructureError):
            return False
        time.sleep(LAST_PAUSE)
        return time.monotonic() < max(self._answered, draining) + LAST_SECONDS
