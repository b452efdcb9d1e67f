from __future__ import annotations

from pathlib import Path

import pytest

from cmkd.config.sweep import load_sweep
from cmkd.errors import ConfigError
from cmkd.report.published import load_published, read_published


def test_table_4_is_as_printed() -> None:
    table = load_published("table_4")
    assert table.columns == ("UCF-101", "SSV2-top1", "SSV2-top5")
    assert [
        (row.method, row.spatial_kd, row.temporal_kd, *row.printed.values(), row.arm)
        for row in table.rows
    ] == [
        ("TSM [17]", "No", "No", 92.2, 60.1, 86.2, "baseline"),
        ("TSM+ours", "Yes", "No", 94.5, 61.9, 87.6, "spatial"),
        ("TSM +ours", "No", "Yes", 94.0, 61.5, 87.3, "temporal"),
        ("TSM+ours", "Yes", "Yes", 95.8, 62.8, 88.2, "both"),
        ("TDN [18]", "No", "No", 93.3, 62.7, 88.1, None),
        ("TDN+ours", "Yes", "No", 95.6, 64.9, 89.2, None),
        ("TDN +ours", "No", "Yes", 95.3, 64.1, 88.8, None),
        ("TDN+ours", "Yes", "Yes", 96.9, 66.9, 90.2, None),
    ]


def test_the_note_on_gains_recomputes() -> None:
    table = load_published("table_4")
    plain, both = table.rows[0].printed, table.rows[3].printed
    tdn_plain, tdn_both = table.rows[4].printed, table.rows[7].printed
    gains = [
        both["UCF-101"] - plain["UCF-101"],
        tdn_both["UCF-101"] - tdn_plain["UCF-101"],
        both["SSV2-top1"] - plain["SSV2-top1"],
        tdn_both["SSV2-top1"] - tdn_plain["SSV2-top1"],
    ]
    assert [round(gain, 1) for gain in gains] == [3.6, 3.6, 2.7, 4.2]
    note = next(note for note in table.notes if "around 4%" in note)
    for gain in gains:
        assert f"{gain:+.1f}" in note


def test_counterparts_are_arms_of_the_shipped_sweep() -> None:
    sweep, table = load_sweep("ablation"), load_published("table_4")
    named = {row.arm for row in table.rows if row.arm} | {table.baseline, table.control}
    assert named <= {arm.name for arm in sweep.arms}


GOOD = """
title: t
source: s
columns: [A, B]
rows:
  - {method: m, spatial_kd: "No", temporal_kd: "No", printed: {A: 1.0, B: 2.0}}
baseline: baseline
control: control
"""


@pytest.mark.parametrize(
    ("old", "new", "what"),
    [
        ("B: 2.0", "C: 2.0", "must give A, B"),
        ("B: 2.0", "B: 200.0", "200.0 is not a percentage"),
        ("B: 2.0", "B: .nan", "B"),
        ('temporal_kd: "No"', "temporal_kd: false", "temporal_kd"),
        ("title: t", "title: t\ntitel: t", "unknown key .titel.; did you mean .title."),
        ("title: t\n", "", "title"),
    ],
)
def test_a_wrong_file_is_refused(tmp_path: Path, old: str, new: str, what: str) -> None:
    path = tmp_path / "table.yaml"
    path.write_text(GOOD)
    assert read_published(path).rows[0].method == "m"
    path.write_text(GOOD.replace(old, new))
    with pytest.raises(ConfigError, match=f"table.yaml.*{what}"):
        read_published(path)
