"""Tables filled from the store."""

from __future__ import annotations

import itertools
import json
import shlex
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from urllib.parse import urlsplit, urlunsplit

import numpy as np
from pydantic import ValidationError

from cmkd.config.base import nested
from cmkd.config.paths import find_spec
from cmkd.config.sweep import Arm, Sweep, SweepSpec, load_sweep
from cmkd.config.trial import Setting
from cmkd.config.weight_names import is_id, named_weights, with_ids
from cmkd.config.yaml_loader import Document
from cmkd.errors import ConfigError, InputError
from cmkd.report.arms import Family
from cmkd.report.evidence import (
    Evidence,
    NothingMeasured,
    Trial,
    collect,
    no_evidence,
)
from cmkd.report.paper import (
    TABLES,
    ModelCost,
    TableSpec,
    any_cost,
    find_table,
    own_table,
    read_costs,
)
from cmkd.report.predictions import Predictions, parse_predictions
from cmkd.report.tables import ArmResult, Table, build_table
from cmkd.results import read_runs
from cmkd.tracking.reader import RunReader, SqliteReader, open_reader
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
    def is_whole(self) -> bool:
        """True for a request of everything that the store has."""
        return not (self.tables or self.data or self.sweep)

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


def open_snapshot(request: Request) -> Snapshot | None:
    """Store of `request`; None without one."""
    uri = request.tracking_uri
    return Snapshot(open_reader(uri)) if store_exists(uri) else None


def sweeps_by_data(store: RunReader | None) -> Mapping[str, tuple[str, ...]]:
    """Data set -> names of the sweeps with finished trials; empty without a store.

    Raises:
        InfrastructureError: the store does not answer.
    """
    found = defaultdict[str, set[str]](set)
    for run in store.find({"kind": "trial"}) if store is not None else ():
        if run.status == "FINISHED" and "data" in run.tags:
            found[run.tags["data"]].add(run.tags.get("sweep", ""))
    return {data: tuple(sorted(sweeps - {""})) for data, sweeps in sorted(found.items())}


class Snapshot(RunReader):
    """Store with cached answers, so that all tables of a report see the same runs."""

    def __init__(self, store: RunReader) -> None:
        self._store = store
        self._found: dict[frozenset[tuple[str, str]], Sequence[RunRecord]] = {}

    def find(self, tags: Mapping[str, str]) -> Sequence[RunRecord]:
        key = frozenset(tags.items())
        if key not in self._found:
            wider = next((runs for other, runs in self._found.items() if other < key), None)
            runs = self._store.find(tags) if wider is None else wider
            self._found[key] = [run for run in runs if tags.items() <= run.tags.items()]
        return self._found[key]

    @property
    def files(self) -> frozenset[Path] | None:
        """Files that all answers came from; None if they are not known."""
        return self._store.files if isinstance(self._store, SqliteReader) else None

    def read_text(self, run_id: str, name: str) -> str:
        return self._store.read_text(run_id, name)

    def histories(self, run_ids: Sequence[str], name: str) -> Mapping[str, History]:
        return self._store.histories(run_ids, name)

    def params(self, run_ids: Sequence[str]) -> Mapping[str, Mapping[str, str]]:
        return self._store.params(run_ids)

    def metric_arrays(
        self, run_ids: Sequence[str], names: Sequence[str] | None = None
    ) -> Mapping[str, np.ndarray]:
        return self._store.metric_arrays(run_ids, names)


class Gatherer:
    """Evidence by name of a sweep, whose arms `request.sweep` replaces.

    Attributes:
        store: of the runs; None where there is none yet.
    """

    def __init__(self, request: Request, store: RunReader | None = None) -> None:
        self.request = request
        self.store = store if store is not None else open_snapshot(request)
        self._sweeps: dict[str, Sweep] = {}
        self._found: dict[str, Evidence | NothingMeasured] = {}
        self._known: dict[str, Trial] = {}
        self._teachers: dict[str, Predictions] = {}

    def sweep(self, name: str) -> tuple[Sweep, str, str]:
        """Sweep for `name`, its requested name, and the data set."""
        name = self.request.sweep or name
        if name not in self._sweeps:
            self._sweeps[name] = self._load(name)
        sweep = self._sweeps[name]
        return sweep, name, self.request.data or sweep.spec.data

    def _load(self, name: str) -> Sweep:
        """Sweep of a spec; from the stored runs without a spec or of a search."""
        sweep: Sweep | None = None
        if _has_spec(name) or self.store is None:
            sweep = load_sweep(name)
        if self.store is not None and (sweep is None or not sweep.arms):
            own = sweep.spec.name if sweep is not None else name
            sweep = stored_sweep(self.store, own, self.request.data) or sweep
        # Without spec and runs the error names the specs that are there.
        return self._with_weight_ids(sweep if sweep is not None else load_sweep(name))

    def _with_weight_ids(self, sweep: Sweep) -> Sweep:
        """The sweep with the ids that the stored runs have in place of names of weights."""
        names = named_weights(sweep)
        if not names or self.store is None:
            return sweep
        runs = self.store.find({"kind": "trial"})
        params = self.store.params([run.run_id for run in runs]).values()
        stored = {run.tags["setting_id"] for run in runs}
        seen = [
            sorted({own[key] for own in params for key in keys if is_id(own.get(key, ""))})
            for keys in names.values()
        ]
        # A setting's id is a digest, so that one which is found holds the right weights.
        candidates = [
            with_ids(sweep, dict(zip(names, chosen, strict=True)))
            for chosen in itertools.product(
                *(ids or [name] for name, ids in zip(names, seen, strict=True))
            )
        ]
        return max(candidates, key=lambda one: len(stored & {arm.setting.id for arm in one.arms}))

    def command(self, name: str) -> str:
        """Command that trains the sweep for `name` into this store."""
        _, name, data = self.sweep(name)
        uri = self.request.tracking_uri
        where = ["--tracking-uri", redact(uri)] if uri else []
        return shlex.join(["cmkd", "sweep", name, "--data", data, *where])

    def evidence(self, name: str) -> Evidence:
        """Evidence of the sweep `name`.

        Raises:
            NothingMeasured: no finished run.
            InputError: as `collect`.
        """
        sweep, _, data = self.sweep(name)
        command = self.command(name)
        if self.store is None:
            uri = redact(self.request.tracking_uri or default_uri())
            raise NothingMeasured(f"{uri}: no tracking store is there yet; run: {command}")
        key = sweep.spec.name
        if key not in self._found:
            try:
                self._found[key] = collect(self.store, sweep, data, command, self._known)
            except NothingMeasured as error:
                self._found[key] = error
        found = self._found[key]
        if isinstance(found, NothingMeasured):
            raise found
        return found

    def teacher(self, evidence: Evidence, family: Family, students: ArmResult) -> ArmResult | None:
        """Predictions of the RGB teachers of `students`, one row per seed.

        None if the run of a teacher is not in the store.

        Raises:
            InputError: a teacher was tested on other clips than its students.
        """
        rows: list[np.ndarray] = []
        trials: list[str] = []
        for seed in students.seeds:
            by_fold = evidence.teachers.get(family, {}).get(seed, {})
            clips: list[str] = []
            right: list[np.ndarray] = []
            for fold in evidence.folds:
                teacher = by_fold.get(fold)
                if teacher is None or teacher.run_id is None:
                    return None
                predictions = self._teacher_predictions(teacher.run_id)
                clips += predictions.clips
                right.append(predictions.selected)
                trials.append(teacher.teacher_id)
            if tuple(clips) != evidence.test.clips:
                raise InputError(
                    f"the RGB teacher of the {family} family was tested on other clips than its "
                    "students; delete the runs that are wrong and sweep again"
                )
            rows.append(np.concatenate(right))
        if not rows:
            return None
        return replace(students, right={"selected": np.stack(rows)}, trials=tuple(trials))

    def _teacher_predictions(self, run_id: str) -> Predictions:
        if run_id not in self._teachers:
            assert self.store is not None, "there is evidence, so there is a store"
            text = self.store.read_text(run_id, "predictions.csv")
            self._teachers[run_id] = parse_predictions(text, run_id)
        return self._teachers[run_id]


def stored_sweep(store: RunReader, name: str, data: str | None) -> Sweep | None:
    """Sweep `name` rebuilt from its finished trials on `data`; None without any.

    Trials of an earlier protocol have other setting ids and are left out.
    """
    runs = read_runs(store, {"kind": "trial", "sweep": name})
    runs = runs[runs["status"] == "FINISHED"]
    if data:
        runs = runs[(runs["data"] == data) | (runs["data_id"] == data)]
    arms: dict[str, Arm] = {}
    first = runs.drop_duplicates("setting_id")
    params = store.params(first["run_id"].tolist())
    for run_id, setting_id, own in first[["run_id", "setting_id", "arm"]].itertuples(index=False):
        setting = _setting(params[run_id])
        if setting is not None and setting.id == setting_id:
            names = {arm.name for arm in arms.values()}
            arms[setting_id] = Arm(own if own not in names else f"{own} {setting_id}", setting)
    if not arms:
        return None
    spec = SweepSpec(
        name=name,
        description="",
        data=runs["data"].iloc[-1],
        seeds=1 + int(runs["seed"].astype(int).max()),
        blocks={"stored": {}},
    )
    return Sweep(spec, Document(Path(name), {}, {}), tuple(arms.values()), {}, {})


def _setting(params: Mapping[str, str]) -> Setting | None:
    """Setting of logged parameters; None if it is invalid now."""
    values = {}
    for key, text in params.items():
        try:
            values[key] = json.loads(text)
        except ValueError:
            values[key] = text
    try:
        return Setting.model_validate_json(json.dumps(nested(values)))
    except (KeyError, ValidationError):
        return None


def _has_spec(name: str) -> bool:
    try:
        return find_spec(name).is_file()
    except ConfigError:
        return False


USUAL = "4"
"""Table of an empty store."""


def fill_tables(
    request: Request, store: RunReader | None = None
) -> tuple[tuple[Table, ...], tuple[str, ...]]:
    """Tables of `request` on one data set, at least one, and reasons for those left out.

    A sweep of a table of the paper gives that table, any other its own. Without tables and sweep
    these are all that the store can fill.

    Raises:
        InputError: an unknown table; nothing to show; as `collect` and `read_costs`.
        ConfigError: as `load_sweep` and `build_table`.
        InfrastructureError: the store does not answer.
    """
    specs = [find_table(name, request.sweep) for name in dict.fromkeys(request.tables)]
    costs = read_costs(request.costs)
    gatherer = Gatherer(request, store)
    if request.sweep is not None and not specs:
        sweep, _, _ = gatherer.sweep(request.sweep)
        specs = [spec for spec in TABLES.values() if spec.sweep == sweep.spec.name]
        specs = specs or [own_table(sweep)]
    if specs:
        return tuple(_fill(spec, gatherer, costs, is_wanted=True) for spec in specs), ()
    tables: list[Table] = []
    left_out: dict[str, Exception] = {}
    for name, spec in TABLES.items():
        try:
            tables.append(_fill(spec, gatherer, costs, is_wanted=False))
        except NothingMeasured as error:
            left_out[name] = error
    known = {spec.sweep for spec in TABLES.values()}
    stored = sweeps_by_data(gatherer.store).get(request.data or "", ())
    for name in (name for name in stored if name not in known):
        own = Gatherer(replace(request, sweep=name), gatherer.store)
        try:
            tables.append(_fill(own_table(own.sweep(name)[0]), own, costs, is_wanted=True))
        except (NothingMeasured, ConfigError) as error:
            left_out[f"of sweep {name}"] = error
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
    return replace(table, store=gatherer.store, server=gatherer.request.server)


def _departs(measured: ArmResult) -> bool:
    """True if an arm has runs and is no reference of others."""
    references = {found.reference for found in measured.differences["selected"].values() if found}
    return bool(measured.trials) and measured.arm.name not in references
