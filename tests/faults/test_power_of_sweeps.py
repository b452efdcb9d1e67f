"""Power that fails while a whole small sweep runs, at every sync and every move of its files."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from cmkd.api import write_report
from cmkd.errors import InfrastructureError
from cmkd.tracking.mlflow_store import open_store
from tests.faults.in_process import SPEC, complete, install
from tests.faults.test_power import Disk, Tree, restore

pytestmark = [pytest.mark.slow, pytest.mark.timeout(3600)]

CALLS = 4
"""Of the command, until one succeeds: each may find one damage."""


@pytest.fixture
def sweep(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The spec; cache and files of runs lie below ``disk``."""
    install(monkeypatch, tmp_path / "disk" / "cache", in_step=True)
    monkeypatch.chdir(tmp_path / "disk")
    (tmp_path / "cut.yaml").write_text(SPEC.format(name="cut", lr=0.003))
    return tmp_path / "cut.yaml"


def ended(spec: Path, store: Path) -> tuple[object, object]:
    """Tables of a store, and its runs and values without durations and memory."""
    out = spec.parent / "report"
    uri = f"sqlite:///{store}"
    report = write_report(out, sweep="cut", tracking_uri=uri, formats=("csv",), plots=False)
    # But for the ids of runs, which a run that is made later has others of.
    tables = [
        line
        for name in sorted(report.files)
        for line in report.files[name].decode().splitlines()
        if not line.startswith("cut,runs,")
    ]
    with closing(sqlite3.connect(store)) as connection:
        rows = connection.execute(
            "select r.name, r.status, m.key, m.step, m.value from runs r "
            "left join metrics m using (run_uuid) "
            "where r.lifecycle_stage = 'active' and m.key not like '%seconds%' "
            "and m.key not like 'memory%' order by 1, 2, 3, 4"
        ).fetchall()
    return tables, rows


@pytest.mark.parametrize("names_last", [False, True])
def test_a_sweep_cut_at_any_sync_or_move_ends_with_the_tables_of_one_left_alone(
    sweep: Path, tmp_path: Path, names_last: bool
) -> None:
    """What a power cut would leave is taken down in one run, and gone on from afterwards."""
    store, root = tmp_path / "store.db", tmp_path / "disk"
    open_store(f"sqlite:///{store}")
    cuts: list[tuple[Tree, bytes]] = []

    def take_down() -> None:
        copy = tmp_path / "copy.db"
        with closing(sqlite3.connect(store)) as source, closing(sqlite3.connect(copy)) as target:
            source.backup(target)
        left = disk.left(names_last=names_last), copy.read_bytes()
        if [left] != cuts[-1:]:
            cuts.append(left)

    with pytest.MonkeyPatch.context() as patch:
        disk = Disk(root, patch)
        disk.settle()
        disk.watch = take_down
        complete(sweep, f"sqlite:///{store}")
        disk.close()
    expected = ended(sweep, store)
    assert len(cuts) > 40, "of data, arrays, teacher, features, checkpoints, outcomes and runs"

    for number, (tree, runs) in enumerate(cuts):
        restore(root, tree)
        # A name of its own: MLflow keeps connections to a file open.
        store = tmp_path / f"{number}.db"
        store.write_bytes(runs)
        refusals: list[str] = []
        while len(refusals) < CALLS:
            try:
                complete(sweep, f"sqlite:///{store}")
                break
            except InfrastructureError as refused:
                refusals.append(str(refused))
        assert len(refusals) < CALLS, f"cut {number}: {refusals}"
        assert all(str(root) in refused for refused in refusals), "each names its file"
        assert ended(sweep, store) == expected, f"cut {number}, after {refusals}"
