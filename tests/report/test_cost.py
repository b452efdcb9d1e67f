from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from cmkd.errors import InputError
from cmkd.report.paper import PublishedTable, any_cost, load_published, read_costs, row_cost


def entry(model: str, per_view: float, views: int = 1, **more: Any) -> dict[str, Any]:
    return {
        "model": model,
        "gmacs_per_view": per_view,
        "views": views,
        "gmacs": per_view * views,
        "parameters": 1000,
        **more,
    }


def written(path: Path, *entries: dict[str, Any]) -> Path:
    path.write_text(json.dumps(entries))
    return path


@pytest.fixture
def table() -> PublishedTable:
    """The paper's Table 2."""
    return load_published("table_2")


def test_rows_multiply_by_the_views_that_the_paper_counts(
    tmp_path: Path, table: PublishedTable
) -> None:
    path = written(tmp_path / "c.json", entry("tsm_r50_16f", 65.4), entry("student_tsm", 56.0, 6))
    costs = read_costs(path)
    found = {row.method: row_cost(row, costs) for row in table.rows if row_cost(row, costs)}
    assert list(found) == ["TSM [17]", "TSM+ours"]
    tsm, ours = found.values()
    assert tsm is not None and ours is not None
    assert (tsm.total, tsm.views, tsm.is_open) == (pytest.approx(392.4), 6, False)
    assert tsm.delta == pytest.approx(100 * (392.4 / 390 - 1))
    assert (ours.total, ours.is_open) == (pytest.approx(336), True)
    assert ours.delta == pytest.approx(100 * (336 / 348 - 1))


def test_an_ensemble_is_the_sum_of_its_networks_or_nothing(
    tmp_path: Path, table: PublishedTable
) -> None:
    tdn = next(row for row in table.rows if row.method == "TDN [18]")
    half = read_costs(written(tmp_path / "half.json", entry("tdn_r50_8f", 35.6)))
    assert row_cost(tdn, half) is None
    assert not any_cost(table, half)
    path = written(
        tmp_path / "both.json", entry("tdn_r50_8f", 35.6), entry("tdn_r50_16f", 71.3, peak=3)
    )
    both = row_cost(tdn, read_costs(path))
    assert both is not None
    assert (both.per_view, both.parameters) == (pytest.approx(106.9), 2000)
    assert both.delta == pytest.approx(100 * (106.9 / 108 - 1))
    assert any_cost(table, read_costs(path))


def test_no_file_is_no_cost(tmp_path: Path) -> None:
    assert read_costs(tmp_path / "none.json") == {}


@pytest.mark.parametrize(
    ("text", "what"),
    [
        ("", "no list of costs"),
        ("{}", "no list of costs"),
        ('[{"model": "m"}]', "at 0.gmacs_per_view"),
        (json.dumps([entry("m", 2.0, 3) | {"gmacs": 7.0}]), "is not gmacs_per_view x views = 6"),
        (json.dumps([entry("m", 2.0) | {"gmacs_per_view": "2.0"}]), "0.gmacs_per_view"),
        ('[{"model": "m", "gmacs_per_view": NaN}]', "no list of costs"),
        (json.dumps([entry("m", 2.0), entry("m", 3.0)]), "'m' has 2.0 and 3.0 GMACs per view"),
    ],
)
def test_a_wrong_file_is_refused(tmp_path: Path, text: str, what: str) -> None:
    path = tmp_path / "cost.json"
    path.write_text(text)
    with pytest.raises(InputError, match=f"cost.json.*{what}"):
        read_costs(path)


def test_a_folder_is_no_file(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="cannot be read"):
        read_costs(tmp_path)
