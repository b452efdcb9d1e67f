"""The store opened once, and what it has for each sweep, collected once."""

from __future__ import annotations

import numpy as np

from cmkd.config.sweep import Sweep, load_sweep
from cmkd.errors import InputError
from cmkd.report.cells import TestSet
from cmkd.report.evidence import Evidence, NothingMeasured, Trial, collect
from cmkd.report.fill import Request
from cmkd.report.predictions import parse_predictions
from cmkd.report.published import Half
from cmkd.tracking.location import default_uri, redact, store_exists
from cmkd.tracking.reader import RunReader, open_reader


class Gatherer:
    """Evidence by the name of a sweep; `request` may put another sweep in place of all.

    A `store` that is not given is opened when it is first needed.
    """

    def __init__(self, request: Request, store: RunReader | None = None) -> None:
        self._request = request
        self._store = store
        self._found: dict[str, Evidence | NothingMeasured] = {}
        self._trials: dict[str, Trial] = {}

    def sweep(self, name: str) -> tuple[Sweep, str, str]:
        """The sweep that stands for `name`, the data set, and the command that trains on it."""
        name = self._request.sweep or name
        sweep = load_sweep(name)
        data = self._request.data or sweep.spec.data
        return sweep, data, self._request.command(name, data)

    def evidence(self, name: str) -> Evidence:
        """What the store has for the sweep `name`.

        Raises:
            NothingMeasured: no finished run; the message says which command makes some.
            InputError: what `collect` refuses.
        """
        sweep, data, command = self.sweep(name)
        key = sweep.spec.name
        if key not in self._found:
            try:
                self._found[key] = collect(self._open(command), sweep, data, command, self._trials)
            except NothingMeasured as error:
                self._found[key] = error
        found = self._found[key]
        if isinstance(found, NothingMeasured):
            raise found
        return found

    def teacher(self, evidence: Evidence, half: Half, test: TestSet) -> np.ndarray | None:
        """What the RGB teachers of `half` got right at the selected epoch: Bool "N" over `test`.

        None where the run of a fold's teacher, or its predictions, are not in the store.

        Raises:
            InputError: a teacher was tested on other clips than its students.
        """
        teachers = evidence.teachers.get(half, {})
        clips: list[str] = []
        right: list[np.ndarray] = []
        for fold in evidence.folds:
            run_id = teachers[fold].run_id if fold in teachers else None
            if run_id is None or self._store is None:
                return None
            predictions = parse_predictions(
                self._store.read_text(run_id, "predictions.csv"), run_id
            )
            clips += predictions.clips
            right.append(predictions.selected)
        if tuple(clips) != test.clips:
            raise InputError(
                f"the RGB teacher of the {half} half was tested on other clips than its students; "
                "delete the runs that are wrong and sweep again"
            )
        return np.concatenate(right)

    def _open(self, command: str) -> RunReader:
        uri = self._request.tracking_uri
        if self._store is None:
            if not store_exists(uri):
                raise NothingMeasured(
                    f"{redact(uri or default_uri())}: no tracking store is there yet; "
                    f"run: {command}"
                )
            self._store = open_reader(uri)
        return self._store
