from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import pytest

from cmkd.config.sweep import Sweep
from cmkd.report.evidence import collect
from cmkd.report.page import Page, Picture, escape, render_grid, render_markdown, render_notice
from cmkd.report.paper import TABLES, ModelCost
from cmkd.report.table_page import build_page
from cmkd.report.tables import Table, build_table
from cmkd.report.text import missing_text, signed, uneven_text

if TYPE_CHECKING:
    from conftest import MemoryStore

PICTURE = Picture("", "Arms", "a|b", "n = 3", b"<svg/>", b"")


def build(store: MemoryStore, data: str = "made-up") -> Table:
    evidence = collect(store, store.sweep, data)
    return build_table(TABLES["4"], evidence, command="cmkd sweep it")


def composed(store: MemoryStore, data: str = "made-up") -> Page:
    return build_page(build(store, data), version="cmkd 1")


def page(store: MemoryStore, data: str = "made-up") -> str:
    return render_markdown(composed(store, data), {"x.svg": PICTURE})


def row(store: MemoryStore, arm: str) -> list[str]:
    lines = render_grid(composed(store).grids[0]).splitlines()
    cells = [[cell.strip() for cell in line.strip("|").split(" | ")] for line in lines]
    return next(one for one in cells if one[6] == arm)


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("a|b", "a\\|b"),
        ("<script>&", "&lt;script&gt;&amp;"),
        ("two\nlines\r\n", "two lines"),
        ("[x](y) `z` *w* $m$", "\\[x\\](y) \\`z\\` \\*w\\* \\$m\\$"),
        ("\x1b[31m", "\N{REPLACEMENT CHARACTER}\\[31m"),
        ("back\\slash", "back\\\\slash"),
        ("_a_b", "\\_a\\_b"),
    ],
)
def test_names_are_escaped(text: str, shown: str) -> None:
    assert escape(text) == shown


@pytest.mark.parametrize(
    ("value", "shown"), [(4.24, "+4.2"), (-0.96, "−1.0"), (0.04, "0.0"), (-0.04, "0.0")]
)
def test_signs(value: float, shown: str) -> None:
    assert signed(value) == shown


def test_cells_in_words(full_store: MemoryStore) -> None:
    assert row(full_store, "spatial") == [
        "TSM+ours",
        "Yes",
        "No",
        "94.5",
        "61.9",
        "87.6",
        "spatial",
        "76.7 ± 5.8 \\[45.8, 100.0\\]",
        "66.7 ± 5.8 \\[32.0, 100.0\\]",
        "+26.7 \\[−6.5, +59.8\\]",
        "+23.3 \\[−4.3, +51.0\\]",
    ]
    assert row(full_store, "baseline")[9] == "reference"
    assert row(full_store, "control") == [
        "TSM, decoder, no KD (control) †",
        "No",
        "No",
        "—",
        "—",
        "—",
        "control",
        "53.3 ± 5.8 \\[16.6, 90.1\\]",
        "43.3 ± 5.8 \\[6.8, 79.8\\]",
        "+3.3 \\[−11.0, +17.7\\]",
        "reference",
    ]
    teacher = row(full_store, "teacher tiny\\_tdn")
    assert teacher[0] == "RGB teacher of the TSM family †"
    assert teacher[7:] == ["90.0 (one training per fold)"] * 2 + ["—", "—"]


def test_a_measured_cost_says_which_networks_it_is_of(full_store: MemoryStore) -> None:
    evidence = collect(full_store, full_store.sweep, "made-up")
    cost = ModelCost(model="student_tsm", gmacs_per_view=56.5, views=6, gmacs=339, parameters=1)
    known, unknown = (
        build_page(build_table(TABLES["2"], evidence, costs), version="cmkd 1")
        for costs in ({"student_tsm": cost}, {})
    )
    scope = (
        "GMACs of ours are of the full-size networks at 224 x 224 (`cmkd cost`), not of the arms "
        "whose accuracies stand in the same row."
    )
    assert scope in known.how
    assert next(grid for grid in known.grids if grid.name == "cost").caption.endswith(scope)
    assert scope not in unknown.how


def test_means_of_different_seeds_say_so(full_store: MemoryStore) -> None:
    for arm, counts in {"baseline": (5, 6), "control": (5, 7), "both": (8, 9)}.items():
        for seed, count in enumerate(counts, start=3):
            full_store.trial(arm, seed, [1] * count + [0] * (10 - count))
    assert row(full_store, "both")[9].startswith("+32.0 ")
    assert not row(full_store, "both")[9].endswith("pairs)")
    assert row(full_store, "spatial")[9] == "+26.7 \\[−6.5, +59.8\\] (3 pairs)"
    uneven = (
        "Arms have 3 to 5 seeds; differences are over the seeds that both have, and differ from "
        "the difference of the means."
    )
    assert uneven in composed(full_store).circumstances


def test_the_caption_says_what_bold_means(full_store: MemoryStore) -> None:
    caption = composed(full_store).grids[0].caption
    bold = "Bold: the highest mean of the family and those less than 2 points below it"
    assert any(line.startswith(bold) for line in composed(full_store).how)
    assert "Top-1 accuracy in % on made-up, mean ± SD over 3 seeds [95 % interval]" in caption
    assert "- Top-5 accuracy (SSV2-top5): not measured here." in page(full_store)
    assert "- †: not in the paper." in page(full_store)


@pytest.mark.parametrize(("name", "is_shown"), [("1", False), ("2", True), ("4", True)])
def test_top5_stands_where_the_paper_has_it_and_is_no_zero_where_it_is_unknown(
    store: MemoryStore, name: str, is_shown: bool
) -> None:
    for seed in range(3):
        store.trial("both", seed, [1, 1, 0, 0], ranks=[1, 1, 5, 6 - seed // 2])
        store.trial("baseline", seed, [1, 0, 0, 0], ranks=[1, 2, 7, 7] if seed else None)
    store.teacher(0, 90.0, top5=97.5)
    found = build_page(
        build_table(TABLES[name], collect(store, store.sweep, "made-up")), version="cmkd 1"
    )
    grid, column = found.grids[0], "made-up: top-5, selected epoch"
    assert (column in grid.columns) == is_shown
    assert ("Top-1 and top-5 accuracy in %" in grid.caption) == is_shown
    if not is_shown:
        return
    assert ("Δ: points of top-1 by seed." in grid.caption) == (name == "4")
    arm, place = grid.columns.index("Arm"), grid.columns.index(column)
    cells = {line.cells[arm].text: line.cells[place] for line in grid.lines}
    assert cells["both"].value == pytest.approx(100 * 10 / 12)
    assert cells["both"].text.startswith("83.3 ± 14.4 [")
    assert (cells["baseline"].text, cells["baseline"].value) == ("—", None)
    assert cells["teacher tiny_tdn"].text == "97.5 (one training per fold)"
    lines = [line for line in found.circumstances if line.startswith("Top-5")]
    assert lines == ["Top-5 accuracy: 1 of 6 trials kept no scores; their arms have none."]


def test_means_of_equal_seeds_say_nothing_of_it(full_store: MemoryStore) -> None:
    assert uneven_text(build(full_store)) is None


def test_missing_cells_are_marked_never_filled(store: MemoryStore) -> None:
    store.trial("baseline", 0, [1, 0])
    store.trial("baseline", 1, [1, 1])
    store.trial("control", 0, [1, 0])
    store.trial("spatial", 2, [1, 0])
    assert row(store, "temporal")[7:] == [
        "— (0 seeds)",
        "— (0 seeds)",
        "— (0 pairs)",
        "— (0 pairs)",
    ]
    # Two seeds prove nothing: any arm may be the best, and none is bold.
    assert row(store, "baseline")[7] == "75.0 ± 35.4 (2 seeds) ⚠"
    assert row(store, "control")[7] == "50.0 ⚠"
    assert row(store, "control")[9] == "0.0 (1 pair) ⚠"
    assert row(store, "spatial")[9] == "— (0 pairs)"
    assert row(store, "—")[7:] == ["— (not measured)", "— (not measured)", "—", "—"]
    assert list(missing_text(build(store))) == [
        "baseline: seed 2",
        "spatial: seeds 0, 1",
        "temporal: all seeds",
        "both: all seeds",
        "control: seeds 1, 2",
    ]


def test_folds_are_told(store: MemoryStore) -> None:
    for fold in (0, 1):
        for seed in (0, 1, 2):
            store.trial("control", seed, [1, 0], fold=fold, tags={"folds": "5"})
    store.trial("spatial", 0, [1, 0], fold=1)
    store.trial("spatial", 0, [1, 0], fold=1, status="FAILED", tags={"git_commit": "x"})
    assert row(store, "control")[7] == "50.0 ± 0.0 \\[0.0, 100.0\\]"
    assert row(store, "spatial")[7] == "50.0 (1 of 2 folds)"
    text = page(store)
    assert "mean ± SD over 3 seeds × 2 folds \\[95 % interval\\]" in text
    assert "4 test clips, ONLY 2 OF 5 FOLDS (0, 1)" in text
    assert "spatial: seeds 1, 2; seed 0 fold 0" in text
    assert "Runs not counted: 1 FAILED" in text


def test_the_page_says_what_it_rests_on(full_store: MemoryStore) -> None:
    text = page(full_store)
    assert text.startswith("# Table 4 on made-up\n")
    assert "> **These are NOT results on UCF-101, HMDB-51, Kinetics-400 or SSV2.**" in text
    assert "made-up (embedded, data\\_id d1), 10 test clips, 1 fold (0)" in text
    assert "Selected epoch: best validation" in text
    assert "RGB teacher of the TSM family: tiny\\_tdn teacher-0." in text
    assert "trials of commit c0ffee; report by cmkd 1" in text
    assert '"adopted to the RD"' in text
    assert "Missing: nothing of what was begun." in text
    assert "## Accuracy per group" not in text


def test_a_folder_data_set_is_not_the_papers_either(store: MemoryStore) -> None:
    store.trial("control", 0, [1, 0], tags={"data_kind": "folder"})
    assert "made-up is NOT a data set of the paper." in render_notice(composed(store))


def test_groups_have_a_table_of_their_own(store: MemoryStore) -> None:
    groups = ["s|1", "s|1", "s2"]
    store.trial("control", 0, [1, 0, 1], groups=groups)
    store.trial("spatial", 0, [1, 1, 0], groups=groups)
    text = page(store)
    assert "other 2 groups of clips" in text
    assert "| Group | Clips | baseline | spatial | temporal | both | control |" in text
    assert (
        "Top-1 accuracy in %, mean over seeds, on made-up; selected epoch: best validation." in text
    )
    assert "| s2 | 1 | — | 0.0 | — | — | 100.0 |" in text
    assert "| s\\|1 | 2 | — | 100.0 | — | — | 50.0 |" in text


def test_clips_without_a_group_are_told(store: MemoryStore) -> None:
    for seed in (0, 1):
        store.trial("control", seed, [1, 0, 1, 1], groups=["s1", "s1", "", ""])
    text = page(store)
    assert "other 3 groups of clips" in text
    groups = text.partition("## Accuracy per group")[2].partition("##")[0].strip().splitlines()
    assert groups[4:] == ["| s1 | 2 | — | — | — | — | 50.0 |"]


def test_the_last_epoch_has_its_differences(full_store: MemoryStore) -> None:
    full_store.trial("control", 3, [1] * 5 + [0] * 5)
    full_store.trial("spatial", 3, [0] * 10, last=[1] * 10)
    text = page(full_store)
    section = text.partition("## Differences at the last epoch")[2].partition("##")[0]
    head, _, *lines = section.strip().splitlines()[2:]
    assert head == "| Arm | Last epoch | Δ to baseline \\[95 % CI\\] | Δ to control \\[95 % CI\\] |"
    spatial = next(line for line in lines if line.startswith("| spatial |"))
    assert "| **75.0 ± 17.3 \\[40.3, 100.0\\] (4 seeds)** | +26.7 " in spatial
    assert "| +30.0 " in spatial
    assert len(lines) == 5


def test_a_sweep_cut_short_is_told(store: MemoryStore) -> None:
    store.trial("control", 0, [1, 0])
    store.trial("control", 1, [1, 0], status="RUNNING")
    assert "- Seeds: 2 seeds run, spec asks for 3 seeds." in page(store)
    store.trial("control", 2, [1, 0])
    assert "spec asks for" not in page(store)


def test_commits_of_teachers_are_told_where_they_differ(store: MemoryStore) -> None:
    store.trial("spatial", 0, [1, 0])
    store.trial("spatial", 0, [1, 0], fold=1)
    store.teacher(0, 90.0)
    assert "; trials of commit c0ffee; report by" in page(store)
    store.teacher(1, 90.0, commit="0ld")
    assert "; trials of commit c0ffee; teachers of commit 0ld, c0ffee; report by" in page(store)


def test_the_runs_behind_every_arm(store: MemoryStore) -> None:
    store.trial("spatial", 1, [1, 0])
    store.trial("spatial", 0, [1, 0])
    store.teacher(0, 90.0)
    section = page(store).partition("## Runs")[2].partition("##")[0]
    assert "| spatial | 0/0 run-spat, 1/0 run-spat |" in section
    assert "| both | — |" in section
    assert "| RGB teacher of the TSM family (by fold) | 0 run-teac |" in section


def test_a_deterministic_arm_shows_no_spread(
    store: MemoryStore, make_sweep: Callable[[str], Sweep]
) -> None:
    store.sweep = make_sweep("  motion_svm: {model: [motion_svm]}\n")
    for seed in (0, 1):
        store.trial("motion_svm", seed, [1, 0])
    assert row(store, "motion\\_svm")[7] == "50.0 (deterministic)"
    for seed in (0, 1, 2):
        store.trial("motion_svm", seed, [1, 0], fold=1)
    store.trial("motion_svm", 2, [1, 0])
    assert row(store, "motion\\_svm")[7] == "50.0 \\[0.0, 100.0\\] (deterministic)"


def test_hostile_names_reach_no_format(store: MemoryStore) -> None:
    name = "a|b<script>\n# x"
    store.trial("control", 0, [1, 0], tags={"data": name, "git_commit": name, "data_id": name})
    text = page(store, name)
    assert "<script>" not in text
    assert "\n# x" not in text
    table = render_grid(composed(store, name).grids[0])
    assert len({line.replace("\\|", "").count("|") for line in table.splitlines()}) == 1


def test_half_a_table_says_how_to_get_the_other(
    full_store: MemoryStore, make_sweep: Callable[[str], Sweep]
) -> None:
    full_store.sweep = make_sweep(
        "  tdn_both: {student.backbone: [tiny_tdn]}\n"
        "  tdn_spatial: {student.backbone: [tiny_tdn], method.lambda_2: [0.0]}\n"
    )
    text = page(full_store)
    assert "- TDN family: no finished trial yet; run: cmkd sweep it." in text
    assert "- Missing: nothing of what was begun." in text
    assert row(full_store, "tdn\\_both")[7:] == ["— (0 seeds)"] * 2 + ["—", "—"]
    full_store.trial("tdn_both", 0, [1, 0] * 5, tags={"teacher": "t"})
    text = page(full_store)
    assert "TDN family: no finished" not in text
    assert "- Missing: tdn\\_spatial: all seeds. tdn\\_both: seeds 1, 2." in text


def test_equal_stores_give_equal_pages(full_store: MemoryStore) -> None:
    once = page(full_store)
    full_store.runs.reverse()
    assert page(full_store) == once
