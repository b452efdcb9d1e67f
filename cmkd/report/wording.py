"""Values and circumstances of a table in words, shared by its text and its figure."""

from __future__ import annotations

from cmkd.report.cells import Difference, Score
from cmkd.report.tables import FEW_SEEDS, Row, Table

FEW_MARK = "\N{WARNING SIGN}"
DASH = "\N{EM DASH}"
_TIMES = "\N{MULTIPLICATION SIGN}"
_MINUS = "\N{MINUS SIGN}"


def score_text(score: Score, table: Table) -> str:
    """``60.0 ± 1.7 (5 seeds)``; ``(3 of 5 seeds)`` when some are missing; a mark below three.

    ``55.0 (deterministic)`` where the seed decides nothing, so that few seeds are no weakness.
    """
    if score.mean is None:
        return f"{DASH} (0 seeds)"
    done, planned = len(score.per_seed), len(table.evidence.seeds)
    spread = f" ± {score.sd:.1f}" if score.sd is not None else ""
    seeds = f"{done} of {planned} seeds" if done < planned else plural(done, "seed")
    folds = len(table.evidence.folds)
    times = f" {_TIMES} {folds} folds" if folds > 1 else ""
    if score.deterministic:
        lacking = f", {seeds}" if done < planned else ""
        return f"{score.mean:.1f} (deterministic{lacking}{times})"
    mark = f" {FEW_MARK}" if done < FEW_SEEDS else ""
    return f"{score.mean:.1f}{spread} ({seeds}{times}){mark}"


def difference_text(difference: Difference | None, arm: str, column: str) -> str:
    """``+4.2 [+2.3, +6.1]``; names the reference where it is not `column`, and few pairs."""
    if difference is None:
        return DASH
    if difference.reference == arm:
        return "reference"
    if difference.mean is None:
        return f"{DASH} (0 pairs)"
    text = signed(difference.mean)
    if difference.interval is not None:
        text += f" [{signed(difference.interval.low)}, {signed(difference.interval.high)}]"
    if difference.reference != column:
        text += f" to {difference.reference}"
    if difference.pairs < FEW_SEEDS:
        text += f" ({plural(difference.pairs, 'pair')}) {FEW_MARK}"
    return text


def signed(value: float) -> str:
    """One decimal with its sign; what rounds to zero is ``0.0``."""
    text = f"{abs(value):.1f}"
    if text == "0.0":
        return text
    return f"{'+' if value > 0 else _MINUS}{text}"


def plural(count: int, noun: str) -> str:
    """``1 seed``, ``2 seeds``."""
    return f"{count} {noun}" + ("" if count == 1 else "s")


def folds_text(table: Table) -> str:
    """Which folds the trials cover, and plainly so when they are not all."""
    folds, count = table.evidence.folds, table.evidence.fold_count
    listed = ", ".join(map(str, folds))
    if count is None:
        return f"{plural(len(folds), 'fold')} ({listed})"
    if len(folds) < count:
        return f"ONLY {len(folds)} OF {count} FOLDS ({listed})"
    return "one fold" if count == 1 else f"all {count} folds"


def interval_text(table: Table) -> str:
    """How the 95 % intervals were formed."""
    if table.test.grouped:
        groups = f"{plural(len(table.test.group_names), 'group')} of clips"
        alone = table.test.groups.count("")
        if alone:
            groups += f" ({plural(alone, 'clip')} without one: each a group of its own)"
        return f"bootstrap over {groups} and over seeds{_one_seed(table)}"
    return "Student's t over seeds"


def _one_seed(table: Table) -> str:
    measured = [row.measured for row in table.rows if row.measured is not None]
    if any(len(one.selected.per_seed) == 1 for one in measured):
        return " (one seed: over groups alone)"
    return ""


def seeds_text(table: Table) -> str | None:
    """That fewer seeds were run than the sweep asks for; None where it got them all."""
    run, wanted = len(table.evidence.seeds), table.sweep.spec.seeds
    return (
        f"{plural(run, 'seed')} run, spec asks for {plural(wanted, 'seed')}"
        if run < wanted
        else None
    )


def commits_text(table: Table) -> str:
    """``trials of commit a``, and the teachers' commits where they are others."""
    evidence = table.evidence
    teachers = sorted({one.commit for one in evidence.teachers.values() if one.commit is not None})
    text = f"trials of commit {', '.join(evidence.commits)}"
    if teachers and tuple(teachers) != evidence.commits:
        text += f"; teachers of commit {', '.join(teachers)}"
    return text


def notice_text(table: Table) -> tuple[str, str]:
    """Headline and explanation of what the numbers are not."""
    evidence = table.evidence
    networks = sorted({arm.setting.student.backbone for arm in table.sweep.arms})
    ours = f"The students are small networks ({', '.join(networks)}), not ResNet-50"
    compare = "Paper and ours stand side by side to name the rows; do not compare their values."
    if evidence.data_kind == "embedded":
        return (
            "These are NOT results on UCF-101 or SSV2.",
            f"{evidence.data} is the embedded synthetic set. {ours}. {compare}",
        )
    return (
        f"{evidence.data} is NOT a data set of the paper.",
        f"It is a folder of the user's own clips. {ours}. {compare}",
    )


def missing_text(table: Table) -> list[str]:
    """One line per arm that lacks seeds or folds which other runs of the table have."""
    lines = []
    for row in table.rows:
        if row.measured is None:
            continue
        have = row.measured.outcomes
        absent = [s for s in table.evidence.seeds if s not in have.seeds and s not in have.partial]
        parts = [f"seed {seed}" for seed in absent]
        parts += [
            f"seed {seed} fold {', '.join(map(str, folds))}" for seed, folds in have.partial.items()
        ]
        if parts:
            lines.append(f"{row.measured.arm.name}: {'; '.join(parts)}")
    return lines


def kd_text(row: Row) -> str:
    """Which knowledge a row distils."""
    kinds = [
        name
        for name, used in (("spatial", row.spatial_kd), ("temporal", row.temporal_kd))
        if used == "Yes"
    ]
    return " + ".join(kinds) + " KD" if kinds else "no KD"
