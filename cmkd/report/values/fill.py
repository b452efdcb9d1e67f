"""Which tables the store can fill, and their values."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from dataclasses import replace
from functools import partial

from cmkd.config.load import suggest
from cmkd.errors import InputError
from cmkd.report.paper.cost import ModelCost, any_cost, read_costs
from cmkd.report.paper.specs import TABLES, TableSpec
from cmkd.report.store.evidence import NothingMeasured, no_evidence
from cmkd.report.values.gathering import Gatherer, Request
from cmkd.report.values.rows import build_table
from cmkd.report.values.tables import Measured, Table

USUAL = "4"
"""The table that stands for a sweep of the user's own, and for a store that is empty."""


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
    gatherer = Gatherer(request)
    if request.sweep is not None and not names:
        names = (USUAL,)
    tables: list[Table] = []
    left_out: dict[str, NothingMeasured] = {}
    for name in names or TABLES:
        try:
            tables.append(_fill(TABLES[name], gatherer, costs, is_wanted=bool(names)))
        except NothingMeasured as error:
            if names:
                raise
            left_out[name] = error
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
    # Without the store: a page is read on other machines too.
    command = shlex.join(["cmkd", "sweep", name, "--data", data])
    table = build_table(spec, evidence, costs, command=command)
    if spec.published is None and not is_wanted and not any(map(_departs, table.measured)):
        raise NothingMeasured(
            f"the store has trials of the arms that its rows are compared with, and no other; "
            f"run: {gatherer.command(spec.sweep)}"
        )
    return replace(
        table,
        read_history=partial(gatherer.history, evidence),
        read_inside=partial(gatherer.inside, evidence),
        server=gatherer.server,
    )


def _departs(one: Measured) -> bool:
    """Whether an arm has runs and is none of those that others are compared with."""
    references = {found.reference for found in one.differences["selected"].values() if found}
    return bool(one.outcomes.trials) and one.arm.name not in references
