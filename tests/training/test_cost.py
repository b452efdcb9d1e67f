"""Cost columns of Tables 2 and 3, counted."""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path

import pytest
from typer.testing import CliRunner

from cmkd.cli.main import app
from cmkd.config.trial import preset
from cmkd.data.dataset import open_dataset
from cmkd.errors import InputError
from cmkd.report.paper import read_costs
from cmkd.training.cost import Cost, Subject, count, feed, subjects

count_once = cache(count)


def counted(name: str) -> Cost:
    return count_once(subjects()[name])


@pytest.mark.parametrize(
    ("name", "gmacs", "tolerance"),
    [
        ("tsm_r50_8f", 32.7, 0.3),
        ("tsm_r50_16f", 65.4, 0.6),
        ("tdn_r50_8f", 35.6, 0.4),
        ("tdn_r50_16f", 71.3, 0.8),
    ],
)
def test_teachers_cost_what_their_authors_print(name: str, gmacs: float, tolerance: float) -> None:
    assert counted(name).gmacs == pytest.approx(gmacs, abs=tolerance)


@pytest.mark.parametrize(
    ("names", "views", "printed"),
    [
        (["tsm_r50_16f"], 6, 390),
        (["tsm_r50_16f"], 30, 1950),
        (["tdn_r50_8f", "tdn_r50_16f"], 1, 108),
        (["tdn_r50_8f", "tdn_r50_16f"], 30, 3240),
    ],
)
def test_all_views_give_the_printed_column(names: list[str], views: int, printed: int) -> None:
    assert views * sum(counted(name).gmacs for name in names) == pytest.approx(printed, rel=0.02)


def test_student_d_costs_what_its_frames_and_sides_say() -> None:
    """4 I-frames at 224 and 2 x 16 P-frames at 112, all ResNet-50: 50.63 GMACs and a decoder."""
    baseline, ours = counted("student_tsm_baseline"), counted("student_tsm")
    assert baseline.gmacs == pytest.approx(50.63, rel=0.02)
    assert baseline.parts["i_frame"] == pytest.approx(counted("tsm_r50_8f").gmacs / 2, rel=1e-3)
    # The decoder by hand: projections, attention, BiConvLSTM and the way back, on 49 tokens.
    i_tokens, tokens, wide, d = 4 * 49, 16 * 49, 2048, 192
    projections = (i_tokens + 2 * tokens) * wide * d
    inside = (i_tokens + tokens) * 2 * d * d + tokens * 2 * 2 * 49 * d
    recurrent = tokens * 2 * (d * 4 * d * 9) + 15 * 49 * 2 * (d * 4 * d * 9)
    back = tokens * 2 * d * wide
    by_hand = (projections + inside + recurrent + back) / 1e9
    assert ours.parts["decoder"] == pytest.approx(by_hand, rel=0.02)
    assert ours.gmacs - baseline.gmacs == pytest.approx(5.58, rel=0.05)


@pytest.mark.parametrize("name", subjects())
def test_parts_sum_to_the_whole(name: str) -> None:
    cost = counted(name)
    assert sum(cost.parts.values()) == pytest.approx(cost.gmacs, rel=1e-3)


def test_the_command_writes_what_the_report_reads(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("cmkd.training.cost.count", count_once)
    run = CliRunner().invoke(app, ["cost", "--out", str(tmp_path)])
    assert run.exit_code == 0, run.output
    costs = read_costs(tmp_path / "cost.json")
    assert set(costs) == set(subjects())
    assert f"{costs['student_tsm'].gmacs:.1f}" in run.stdout
    stored = json.loads((tmp_path / "cost.json").read_text())
    assert all(record["parts"] for record in stored)


def test_a_feed_is_measured_on_clips_and_counted_on_networks(own_cache: Path) -> None:
    setting = preset("tsm-ucf-hmdb")
    found = feed(setting, open_dataset("synthetic-smoke", own_cache))
    assert 0.5 < found.read < 1000
    student = count(Subject(setting, "student")).gmacs
    teacher = count(Subject(setting, "teacher")).gmacs
    # A step is three forward passes, but for the first layers' inputs.
    assert found.trained["A100"] == pytest.approx(5e4 / (3 * student + teacher), rel=0.03)
    assert found.trained["H100"] == pytest.approx(3.2 * found.trained["A100"])


def test_an_unknown_preset_names_the_known_ones() -> None:
    result = CliRunner().invoke(app, ["cost", "--feed", "tsm-ucf", "hmdb51"])
    assert isinstance(result.exception, InputError)
    assert "tsm-ucf-hmdb" in str(result.exception)
