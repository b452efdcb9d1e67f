"""From a cell to its runs: the listing, the JSON, and the links of the HTML page."""

from __future__ import annotations

import json
from dataclasses import replace
from html.parser import HTMLParser
from typing import TYPE_CHECKING
from urllib.parse import unquote

import pytest

from cmkd.errors import InputError
from cmkd.report.evidence import collect
from cmkd.report.gather import Request
from cmkd.report.page import render_html
from cmkd.report.paper import TABLES
from cmkd.report.provenance import render_trace, render_trace_json, traces
from cmkd.report.table_page import build_page
from cmkd.report.tables import Table, build_table
from cmkd.tracking.store import MLFLOW_MODE

if TYPE_CHECKING:
    from conftest import MemoryStore

SERVER = "http://127.0.0.1:5000"


def build(store: MemoryStore, server: str | None) -> Table:
    store.runs = [replace(run, experiment_id="7") for run in store.runs]
    table = build_table(TABLES["4"], collect(store, store.sweep, "made-up"))
    return replace(table, server=server)


def test_a_cell_is_traced_to_trials_runs_commit_and_config(full_store: MemoryStore) -> None:
    table = build(full_store, SERVER)
    text = render_trace(table, traces(table, "spatial"))
    assert "selected epoch: 76.7 ± 5.8 [45.8, 100.0] (3 seeds)" in text
    assert "difference to control (control): +23.3 [" in text
    assert (
        "method.lambda_2=0.0"
        in text.partition("config, where not the default: ")[2].partition("\n")[0]
    )
    for seed in range(3):
        run_id = f"run-spatial-{seed}-0"
        assert (
            f"seed {seed} fold 0: trial trial-{run_id}, run {run_id}, commit c0ffee, selected "
            in text
        )
        assert f"{SERVER}/#/experiments/7/runs/{run_id}?{MLFLOW_MODE}\n" in text
    assert "run-control" not in text


def test_top5_is_traced_where_it_was_measured(store: MemoryStore) -> None:
    store.trial("both", 0, [1, 0], ranks=[1, 2])
    store.trial("control", 0, [1, 0])
    table = build(store, None)
    assert "  top-5, selected epoch: 100.0 (1 seed)" in render_trace(table, traces(table, "both"))
    assert "top-5" not in render_trace(table, traces(table, "control"))
    arms = json.loads(render_trace_json(table, traces(table)))["arms"]
    cells = {arm["arm"]: arm["cells"] for arm in arms}
    assert cells["both"]["top5"]["value"] == 100.0
    assert "top5" not in cells["control"]


def test_without_a_server_the_way_to_one_is_said(full_store: MemoryStore) -> None:
    table = build(full_store, None)
    text = render_trace(table, traces(table, "both"))
    assert (
        f"to see a run: cmkd ui, then {SERVER}/#/experiments/7/runs/run-both-0-0?{MLFLOW_MODE}"
        in text
    )
    assert text.count("http") == 1


def test_the_json_has_whole_configs_and_the_trials_of_each_cell(full_store: MemoryStore) -> None:
    table = build(full_store, None)
    (arm,) = json.loads(render_trace_json(table, traces(table, "both")))["arms"]
    assert arm["config"] == table.sweep.only(["both"]).arms[0].setting.as_json()
    own = [f"trial-run-both-{seed}-0" for seed in range(3)]
    assert arm["cells"]["selected"]["trials"] == own
    controls = [f"trial-run-control-{seed}-0" for seed in range(3)]
    assert arm["cells"]["difference to control"]["trials"] == own + controls
    assert [one["run_id"] for one in arm["trials"]] == [f"run-both-{seed}-0" for seed in range(3)]
    assert "url" not in arm["trials"][0]


def test_an_unknown_arm_is_refused_with_those_that_are_there(full_store: MemoryStore) -> None:
    with pytest.raises(InputError, match="no arm 'bth'; it has: baseline, .*both"):
        traces(build(full_store, None), "bth")


@pytest.mark.parametrize(
    ("uri", "url", "server"),
    [
        ("sqlite:///x.db", None, None),
        ("http://user:secret@host:5000/mlflow/", None, "http://host:5000/mlflow"),
        ("sqlite:///x.db", "http://127.0.0.1:5000/", SERVER),
        ("https://store", "http://127.0.0.1:5000", SERVER),
    ],
)
def test_the_server_is_the_store_or_what_is_said(
    uri: str, url: str | None, server: str | None
) -> None:
    assert Request(tracking_uri=uri, mlflow_url=url).server == server


@pytest.mark.parametrize("url", ["127.0.0.1:5000", "javascript:alert(1)", "http://"])
def test_another_address_is_refused(url: str) -> None:
    with pytest.raises(InputError, match="--mlflow-url"):
        _ = Request(tracking_uri="sqlite:///x.db", mlflow_url=url).server


class Links(HTMLParser):
    """Addresses of links, and names of places."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.addresses: list[str] = []
        self.places: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        known = dict(attrs)
        if tag == "a":
            self.addresses.append(known["href"] or "")
        self.places += [known["id"] or ""] if "id" in known else []


def test_every_measured_cell_leads_to_its_runs(full_store: MemoryStore) -> None:
    page = build_page(build(full_store, SERVER), version="test")
    text = render_html([page], {}, title="t")
    found = Links(text)
    assert len(found.places) == len(set(found.places))
    inside = [one for one in found.addresses if one.startswith("#")]
    assert {unquote(one[1:]) for one in inside} <= set(found.places)
    assert "#runs-4-made-up-both" in inside
    # An accuracy and two differences in the table, and as many of the last epoch in theirs.
    assert inside.count("#runs-4-made-up-both") == 3 + 3
    # The teacher's accuracy at the selected epoch leads to its run too.
    assert inside.count("#runs-4-made-up-RGB-teacher-of-the-TSM-family-(by-fold)") == 1
    outside = {one for one in found.addresses if not one.startswith("#")}
    runs = full_store.runs
    assert outside == {f"{SERVER}/#/experiments/7/runs/{run.run_id}?{MLFLOW_MODE}" for run in runs}
    assert "default-src 'none'" in text
    assert text.count("http") == len(outside) + 1 + text.count("http-equiv")


def test_without_a_server_no_link_leaves_the_page(full_store: MemoryStore) -> None:
    page = build_page(build(full_store, None), version="test")
    found = Links(render_html([page], {}, title="t"))
    assert all(one.startswith("#") for one in found.addresses)
    (runs,) = (grid for grid in page.grids if grid.name == "runs")
    assert "cmkd ui" in runs.caption
