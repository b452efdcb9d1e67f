"""Tables filled from the store."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from urllib.parse import urlsplit, urlunsplit

import numpy as np

from cmkd.config.sweep import Sweep, find_spec, load_sweep
from cmkd.errors import ConfigError, InfrastructureError, InputError
from cmkd.report.arms import Family
from cmkd.report.cells import ArmPredictions, TestSet
from cmkd.report.costs import ModelCost, any_cost, read_costs
from cmkd.report.evidence import Evidence, NothingMeasured, TrialCache, collect, no_evidence
from cmkd.report.paper import TABLES, TableSpec, find_table, own_table
from cmkd.report.predictions import FILE as DIAGNOSTICS_FILE
from cmkd.report.predictions import (
    ClipDiagnostics,
    Predictions,
    parse_diagnostics,
    parse_predictions,
)
from cmkd.report.rows import build_table
from cmkd.report.runs import stored_sweep
from cmkd.report.tables import Measured, Table
from cmkd.tracking.reader import RunReader, open_reader
from cmkd.tracking.store import History, RunRecord, default_uri, redact, store_exists


@dataclass(frozen=True)
class Request:
    """Request of a report.

    Attributes:
        tables: keys of `TABLES`; empty: all that can be filled.
        data: name or id of the data set; None: the sweep's own.
        sweep: spec with the arms of the rows; None: that of each table.
        costs: file of measured costs; may be missing.
        mlflow_url: address of the MLflow pages; None: the store, if it is a server.
    """

    tables: tuple[str, ...] = ()
    data: str | None = None
    sweep: str | None = None
    tracking_uri: str | None = None
    costs: Path = Path("cost.json")
    mlflow_url: str | None = None

    @property
    def server(self) -> str | None:
        """Address of the MLflow pages, without user and password.

        Raises:
            InputError: `mlflow_url` is no address of a server.
        """
        uri = self.mlflow_url or self.tracking_uri or default_uri()
        parts = urlsplit(uri)
        if parts.scheme in ("http", "https") and parts.hostname:
            return urlunsplit(
                (parts.scheme, parts.netloc.rpartition("@")[2], parts.path.rstrip("/"), "", "")
            )
        if self.mlflow_url:
            raise InputError(
                f"--mlflow-url {redact(self.mlflow_url)!r} is no address of a server; give "
                "http://127.0.0.1:5000 while cmkd ui runs, say"
            )
        return None

    def command(self, sweep: str, data: str) -> str:
        """Command that trains `sweep` on `data` into this store."""
        uri = self.tracking_uri
        where = ["--tracking-uri", redact(uri)] if uri else []
        return shlex.join(["cmkd", "sweep", sweep, "--data", data, *where])


def sweeps_by_data(request: Request) -> Mapping[str, tuple[str, ...]]:
    """Data set -> names of the sweeps with finished trials; empty without a store.

    Raises:
        InfrastructureError: the store does not answer.
    """
    if not store_exists(request.tracking_uri):
        return {}
    found: dict[str, set[str]] = {}
    for run in open_reader(request.tracking_uri).find({"kind": "trial"}):
        if run.status == "FINISHED" and "data" in run.tags:
            found.setdefault(run.tags["data"], set()).add(run.tags.get("sweep", ""))
    return {data: tuple(sorted(names - {""})) for data, names in sorted(found.items())}


class _Snapshot(RunReader):
    """Store with cached answers, so that all tables of a report see the same runs."""

    def __init__(self, store: RunReader) -> None:
        self._store = store
        self._found: dict[frozenset[tuple[str, str]], Sequence[RunRecord]] = {}

    def find(self, tags: Mapping[str, str]) -> Sequence[RunRecord]:
        key = frozenset(tags.items())
        if key not in self._found:
            self._found[key] = self._store.find(tags)
        return self._found[key]

    def read_text(self, run_id: str, name: str) -> str:
        return self._store.read_text(run_id, name)

    def histories(self, run_ids: Sequence[str], name: str) -> Mapping[str, History]:
        return self._store.histories(run_ids, name)

    def params(self, run_ids: Sequence[str]) -> Mapping[str, Mapping[str, str]]:
        return self._store.params(run_ids)

    def metric_arrays(self, run_ids: Sequence[str]) -> Mapping[str, np.ndarray]:
        return self._store.metric_arrays(run_ids)


class Gatherer:
    """Evidence by name of a sweep; `request.sweep` replaces all of them.

    Without `store` it is opened at first use.
    """

    def __init__(self, request: Request, store: RunReader | None = None) -> None:
        self._request = request
        self._store = store
        self._sweeps: dict[str, Sweep] = {}
        self._found: dict[str, Evidence | NothingMeasured] = {}
        self._known = TrialCache()
        self._teachers: dict[str, Predictions] = {}

    @property
    def server(self) -> str | None:
        """See `Request.server`."""
        return self._request.server

    def sweep(self, name: str) -> tuple[Sweep, str, str]:
        """Sweep for `name`, its requested name, and the data set."""
        name = self._request.sweep or name
        if name not in self._sweeps:
            self._sweeps[name] = self._load(name)
        sweep = self._sweeps[name]
        return sweep, name, self._request.data or sweep.spec.data

    def _load(self, name: str) -> Sweep:
        """Sweep of a spec; from the stored runs without a spec or of a search."""
        try:
            sweep = load_sweep(name)
        except ConfigError:
            if _has_spec(name) or not store_exists(self._request.tracking_uri):
                raise
            found = stored_sweep(self._reader(), name, self._request.data)
            if found is None:
                raise
            return found
        if sweep.arms or not store_exists(self._request.tracking_uri):
            return sweep
        return stored_sweep(self._reader(), sweep.spec.name, self._request.data) or sweep

    def command(self, name: str) -> str:
        """Command that trains the sweep for `name` into this store."""
        _, name, data = self.sweep(name)
        return self._request.command(name, data)

    def evidence(self, name: str) -> Evidence:
        """Evidence of the sweep `name`.

        Raises:
            NothingMeasured: no finished run.
            InputError: as `collect`.
        """
        command = self.command(name)
        sweep, _, data = self.sweep(name)
        key = sweep.spec.name
        if key not in self._found:
            try:
                self._found[key] = collect(self._open(command), sweep, data, command, self._known)
            except NothingMeasured as error:
                self._found[key] = error
        found = self._found[key]
        if isinstance(found, NothingMeasured):
            raise found
        return found

    def history(self, evidence: Evidence, name: str) -> Mapping[str, History]:
        """Values per epoch of the metric `name`, by run id."""
        run_ids = [trial.run_id for trial in evidence.trials]
        return self._store.histories(run_ids, name) if self._store is not None else {}

    def diagnostics(self, evidence: Evidence, run_id: str) -> tuple[ClipDiagnostics, ...]:
        """Gate and graphs of a run of `evidence`; () without any.

        Raises:
            InputError: damaged diagnostics.
            InfrastructureError: the store does not answer.
        """
        if self._store is None:
            return ()
        try:
            text = self._store.read_text(run_id, DIAGNOSTICS_FILE)
        except InfrastructureError:
            # Students without a decoder have no file. Raises if the store is down.
            trial = next(trial for trial in evidence.trials if trial.run_id == run_id)
            self._store.find({"trial_id": trial.trial_id})
            return ()
        return parse_diagnostics(text, f"run {run_id}")

    def teacher(
        self, evidence: Evidence, family: Family, students: ArmPredictions, test: TestSet
    ) -> ArmPredictions | None:
        """Predictions of the RGB teachers of `students`, one row per seed.

        None if the run of a teacher is not in the store.

        Raises:
            InputError: a teacher was tested on other clips than its students.
        """
        by_seed = evidence.teachers.get(family, {})
        rows: list[np.ndarray] = []
        trials: list[str] = []
        for seed in students.seeds:
            by_fold = by_seed.get(seed, {})
            clips: list[str] = []
            right: list[np.ndarray] = []
            for fold in evidence.folds:
                run_id = by_fold[fold].run_id if fold in by_fold else None
                if run_id is None or self._store is None:
                    return None
                if run_id not in self._teachers:
                    text = self._store.read_text(run_id, "predictions.csv")
                    self._teachers[run_id] = parse_predictions(text, run_id)
                clips += self._teachers[run_id].clips
                right.append(self._teachers[run_id].selected)
                trials.append(by_fold[fold].teacher_id)
            if tuple(clips) != test.clips:
                raise InputError(
                    f"the RGB teacher of the {family} family was tested on other clips than its "
                    "students; delete the runs that are wrong and sweep again"
                )
            rows.append(np.concatenate(right))
        if not rows:
            return None
        matrix = np.stack(rows)
        return replace(students, selected=matrix, last=matrix, trials=tuple(trials))

    def _open(self, command: str) -> RunReader:
        uri = self._request.tracking_uri
        if self._store is None and not store_exists(uri):
            raise NothingMeasured(
                f"{redact(uri or default_uri())}: no tracking store is there yet; run: {command}"
            )
        return self._reader()

    def _reader(self) -> RunReader:
        if self._store is None:
            self._store = _Snapshot(open_reader(self._request.tracking_uri))
        return self._store


def _has_spec(name: str) -> bool:
    try:
        return find_spec(name).is_file()
    except ConfigError:
        return False


USUAL = "4"
"""Table of an empty store."""


def fill_tables(request: Request) -> tuple[tuple[Table, ...], tuple[str, ...]]:
    """Tables of `request` on one data set, at least one, and reasons for those left out.

    A sweep of a table of the paper gives that table, any other its own. Without tables and sweep
    these are all that the store can fill.

    Raises:
        InputError: an unknown table; nothing to show; as `collect` and `read_costs`.
        ConfigError: as `load_sweep` and `build_table`.
        InfrastructureError: the store does not answer.
    """
    names = tuple(dict.fromkeys(request.tables))
    specs = [find_table(name, request.sweep) for name in names]
    costs = read_costs(request.costs)
    gatherer = Gatherer(request)
    if names:
        return tuple(_fill(spec, gatherer, costs, is_wanted=True) for spec in specs), ()
    if request.sweep is not None:
        sweep, _, _ = gatherer.sweep(request.sweep)
        specs = [spec for spec in TABLES.values() if spec.sweep == sweep.spec.name]
        specs = specs or [own_table(sweep)]
        return tuple(_fill(spec, gatherer, costs, is_wanted=True) for spec in specs), ()
    tables: list[Table] = []
    left_out: dict[str, NothingMeasured] = {}
    for name, spec in TABLES.items():
        try:
            tables.append(_fill(spec, gatherer, costs, is_wanted=False))
        except NothingMeasured as error:
            left_out[name] = error
    known = {spec.sweep for spec in TABLES.values()}
    for data, sweeps in sweeps_by_data(request).items() if request.data else ():
        for name in sweeps if data == request.data else ():
            if name not in known:
                own = Gatherer(replace(request, sweep=name))
                try:
                    tables.append(_fill(own_table(own.sweep(name)[0]), own, costs, is_wanted=True))
                except (NothingMeasured, ConfigError) as error:
                    left_out[f"of sweep {name}"] = NothingMeasured(str(error))
    if not tables:
        raise left_out[USUAL]
    return tuple(tables), tuple(f"table {name}: {error}" for name, error in left_out.items())


def _fill(
    spec: TableSpec, gatherer: Gatherer, costs: Mapping[str, ModelCost], *, is_wanted: bool
) -> Table:
    sweep, name, data = gatherer.sweep(spec.sweep)
    try:
        evidence = gatherer.evidence(spec.sweep)
    except NothingMeasured:
        published = spec.load()
        has_others = any(row.ours is None for row in published.rows)
        if not (any_cost(published, costs) or (is_wanted and has_others)):
            raise
        evidence = no_evidence(sweep, data)
    # The command names no store, as pages are read on other machines too.
    command = shlex.join(["cmkd", "sweep", name, "--data", data])
    table = build_table(spec, evidence, costs, command=command)
    if (
        spec.published is None
        and not spec.is_own
        and not is_wanted
        and not any(map(_departs, table.measured))
    ):
        raise NothingMeasured(
            f"the store has trials of the arms that its rows are compared with, and no other; "
            f"run: {gatherer.command(spec.sweep)}"
        )
    return replace(
        table,
        read_history=partial(gatherer.history, evidence),
        read_diagnostics=partial(gatherer.diagnostics, evidence),
        server=gatherer.server,
    )


def _departs(measured: Measured) -> bool:
    """True if an arm has runs and is no reference of others."""
    references = {found.reference for found in measured.differences["selected"].values() if found}
    return bool(measured.outcomes.trials) and measured.arm.name not in references
