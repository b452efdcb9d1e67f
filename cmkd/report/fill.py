"""Which tables the store can fill, and their values."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from cmkd.config.load import suggest
from cmkd.config.sweep import Sweep, load_sweep
from cmkd.errors import InputError
from cmkd.report.cost import ModelCost, any_cost, read_costs
from cmkd.report.evidence import Evidence, NothingMeasured, Trial, collect, no_evidence
from cmkd.report.specs import TABLES, TableSpec
from cmkd.report.tables import Table, build_table
from cmkd.tracking.location import default_uri, redact, store_exists
from cmkd.tracking.reader import RunReader, open_reader
from cmkd.tracking.records import History, RunRecord

USUAL = "4"
"""The table that stands for a sweep of the user's own, and for a store that is empty."""


@dataclass(frozen=True)
class Request:
    """What to report on.

    Attributes:
        tables: keys of `TABLES`; every one that can be filled where there is none.
        data: name or id of the data set; None: the sweep's own.
        sweep: spec whose arms are the rows; None: that of each table.
        costs: the file of measured costs, which need not be there.
    """

    tables: tuple[str, ...] = ()
    data: str | None = None
    sweep: str | None = None
    tracking_uri: str | None = None
    costs: Path = Path("cost.json")

    def command(self, sweep: str, data: str) -> str:
        """What trains the arms of `sweep` on `data`, writing to the store that is read."""
        uri = self.tracking_uri
        where = ["--tracking-uri", redact(uri)] if uri else []
        return shlex.join(["cmkd", "sweep", sweep, "--data", data, *where])


def fill_tables(request: Request) -> tuple[tuple[Table, ...], tuple[str, ...]]:
    """The tables of `request`, at least one, and why others are not among them.

    A table that was not asked for by its name is left out where there is nothing of ours in it.
    One that was is an error then, unless it has rows of others to show.

    Raises:
        InputError: an unknown table; nothing to show; what `collect` and `read_costs` refuse.
        ConfigError: what `load_sweep` and `build_table` refuse.
        InfrastructureError: the store does not answer.
    """
    names = tuple(dict.fromkeys(request.tables))
    for name in names:
        if name not in TABLES:
            raise InputError(f"unknown table {name!r}{suggest(name, TABLES)}")
    costs = read_costs(request.costs)
    reader = _Reader(request)
    if request.sweep is not None and not names:
        names = (USUAL,)
    tables: list[Table] = []
    left_out: dict[str, NothingMeasured] = {}
    for name in names or TABLES:
        try:
            tables.append(_fill(TABLES[name], reader, costs, is_wanted=bool(names)))
        except NothingMeasured as error:
            if names:
                raise
            left_out[name] = error
    if not tables:
        raise left_out[USUAL]
    return tuple(tables), tuple(f"table {name}: {error}" for name, error in left_out.items())


class _Snapshot(RunReader):
    """A store as it was when first asked, so that all tables of a report see the same runs."""

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


class _Reader:
    """The store, opened once, and the evidence of each sweep, collected once."""

    def __init__(self, request: Request) -> None:
        self._request = request
        self._store: RunReader | None = None
        self._found: dict[str, Evidence | NothingMeasured] = {}
        self._trials: dict[str, Trial] = {}

    def sweep_of(self, spec: TableSpec) -> tuple[Sweep, str, str]:
        """The sweep of a table, the name it was asked for by, and the data set."""
        name = self._request.sweep or spec.sweep
        sweep = load_sweep(name)
        return sweep, name, self._request.data or sweep.spec.data

    def evidence(self, spec: TableSpec) -> Evidence:
        """What the store has for a table; NothingMeasured where that is nothing."""
        sweep, name, data = self.sweep_of(spec)
        command = self._request.command(name, data)
        if sweep.spec.name not in self._found:
            try:
                store = self._open(command)
                found: Evidence | NothingMeasured = collect(
                    store, sweep, data, command, self._trials
                )
            except NothingMeasured as error:
                found = error
            self._found[sweep.spec.name] = found
        found = self._found[sweep.spec.name]
        if isinstance(found, NothingMeasured):
            raise found
        return found

    def history(self, evidence: Evidence, name: str) -> Mapping[str, History]:
        """What the trials of `evidence` logged as the metric `name`, by run id."""
        run_ids = [trial.run_id for trial in evidence.trials]
        return self._store.histories(run_ids, name) if self._store is not None else {}

    def _open(self, command: str) -> RunReader:
        uri = self._request.tracking_uri
        if self._store is None:
            if not store_exists(uri):
                raise NothingMeasured(
                    f"{redact(uri or default_uri())}: no tracking store is there yet; "
                    f"run: {command}"
                )
            self._store = _Snapshot(open_reader(uri))
        return self._store


def _fill(
    spec: TableSpec, reader: _Reader, costs: Mapping[str, ModelCost], *, is_wanted: bool
) -> Table:
    sweep, name, data = reader.sweep_of(spec)
    try:
        evidence = reader.evidence(spec)
    except NothingMeasured:
        published = spec.load()
        has_others = any(row.ours is None for row in published.rows)
        if not (any_cost(published, costs) or (is_wanted and has_others)):
            raise
        evidence = no_evidence(sweep, data)
    # Without the store: a page is read on other machines too.
    command = shlex.join(["cmkd", "sweep", name, "--data", data])
    table = build_table(spec, evidence, costs, command=command)
    return replace(table, read_history=partial(reader.history, evidence))
