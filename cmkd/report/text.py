"""Texts of a report: numbers of a cell, notice, notes on reading, circumstances of a table."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

import numpy as np

from cmkd.config.backbones import find_backbone
from cmkd.config.sweep import Arm
from cmkd.report.arms import (
    families_of,
    family_of_arm,
    marked_departures,
)
from cmkd.report.evidence import Evidence, distinct_teachers, trials_of
from cmkd.report.paper import CostCell
from cmkd.report.tables import Difference, Measure, Row, Score, Table
from cmkd.stats import LEAST_REPLICATES, MARGIN

FEW_MARK = "\N{WARNING SIGN}"
OPEN_MARK = "\N{DOUBLE DAGGER}"
OUTSIDE_MARK = "\N{DAGGER}"
DEPARTS_MARK = "\N{SECTION SIGN}"
DASH = "\N{EM DASH}"
_TIMES = "\N{MULTIPLICATION SIGN}"
_MINUS = "\N{MINUS SIGN}"
COST_SCOPE = (
    "GMACs of ours are of the full-size networks at 224 x 224 (`cmkd cost`), not of the arms whose "
    "accuracies stand in the same row."
)


def heading(table: Table) -> str:
    """``Table 4 on synthetic``; ``Table 4 on synthetic, sweep ceiling`` with another sweep."""
    name, own = table.spec.name, table.sweep.spec.name
    if table.spec.is_own:
        return f"Sweep {name} on {table.evidence.data}"
    sweep = f", sweep {own}" if own != table.spec.sweep else ""
    return f"{f'Table {name}' if name.isdigit() else name.title()} on {table.evidence.data}{sweep}"


def usual_seeds(table: Table) -> int:
    """Most frequent number of complete seeds per arm; the largest one if tied."""
    counts = Counter(len(measured.seeds) for measured in table.measured if measured.seeds)
    return max(counts, key=lambda count: (counts[count], count), default=0)


def score_text(score: Score, usual: int | None = None) -> str:
    """``60.0 ± 1.7 [57.9, 62.1] (5 seeds)``, with the seeds where they are not the `usual` ones.

    A mark below three seeds; ``55.0 (deterministic)`` where the seed decides nothing, so that few
    are no weakness.
    """
    if score.mean is None:
        return f"{DASH} (0 seeds)"
    done = len(score.per_seed)
    text = f"{score.mean:.1f}"
    text += f" ± {score.sd:.1f}" if score.sd is not None else ""
    if score.interval is not None:
        text += f" [{score.interval.low:.1f}, {score.interval.high:.1f}]"
    notes = ["deterministic"] if score.deterministic else []
    notes += [plural(done, "seed")] if done != usual else []
    text += f" ({', '.join(notes)})" if notes else ""
    return f"{text} {FEW_MARK}" if done < LEAST_REPLICATES and not score.deterministic else text


def partial_text(table: Table, arm: Arm, measure: Measure) -> str:
    """``61.3 (2 of 5 folds)``: accuracy over the folds that an arm without complete seeds has."""
    trials = trials_of(table.evidence, arm)
    right = [getattr(trial.predictions, measure) for trial in trials]
    folds = len({trial.fold for trial in trials})
    mean = 100 * float(np.concatenate(right).mean())
    return f"{mean:.1f} ({folds} of {plural(len(table.evidence.folds), 'fold')})"


def teacher_text(score: Score) -> str:
    """``90.0 (one training per fold)``, or ``91.2 ± 1.5 (4 trainings)``."""
    if score.mean is None:
        return DASH
    if len(score.per_seed) == 1:
        return f"{score.mean:.1f} (one training per fold)"
    return f"{score.mean:.1f} ± {score.sd or 0.0:.1f} ({len(score.per_seed)} trainings)"


def difference_text(
    difference: Difference | None, arm: str, standard: str | None, usual: int
) -> str:
    """``+4.2 [+2.3, +6.1]``; names the reference where it is not `standard`.

    ``(3 pairs)`` is added where they are not as many as the `usual` seeds. Marks: below three, and
    a control of another interpretation.
    """
    if difference is None:
        return DASH
    if difference.reference == arm:
        return "reference"
    if difference.mean is None:
        return f"{DASH} (0 pairs)"
    text = signed(difference.mean)
    if difference.interval is not None:
        text += f" [{signed(difference.interval.low)}, {signed(difference.interval.high)}]"
    if difference.reference != standard:
        text += f" to {difference.reference}"
    if len(difference.seeds) != usual or len(difference.seeds) < LEAST_REPLICATES:
        text += f" ({plural(len(difference.seeds), 'pair')})"
    text += f" {DEPARTS_MARK}" if difference.gap else ""
    return f"{text} {FEW_MARK}" if len(difference.seeds) < LEAST_REPLICATES else text


def cost_text(cost: CostCell) -> str:
    """``392.4 (65.4 × 6)``, marked where the paper does not say what it counted."""
    mark = f" {OPEN_MARK}" if cost.is_open else ""
    return f"{cost.total:.1f} ({cost.per_view:.1f} {_TIMES} {cost.views}){mark}"


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
    """Folds of the trials, with a note if some are missing."""
    folds, count = table.evidence.folds, table.evidence.fold_count
    listed = ", ".join(map(str, folds))
    if count is None:
        return f"{plural(len(folds), 'fold')} ({listed})"
    if len(folds) < count:
        return f"ONLY {len(folds)} OF {count} FOLDS ({listed})"
    return "one fold" if count == 1 else f"all {count} folds"


def interval_text(table: Table) -> str:
    """Method of the 95 % intervals."""
    sessions, clips = table.evidence.test.sessions, "clips"
    if sessions is not None:
        clips = f"{plural(len(set(sessions.tolist())), 'group')} of clips"
    return f"other seeds and other {clips}, both at random (docs/statistics.md)"


def seeds_caption(table: Table) -> str:
    """``5 seeds``, or ``2 seeds x 4 folds``, and that some cells may name others."""
    usual, folds = usual_seeds(table), len(table.evidence.folds)
    times = f" {_TIMES} {folds} folds" if folds > 1 else ""
    uneven = any(len(measured.seeds) not in (0, usual) for measured in table.measured)
    return f"{plural(usual, 'seed')}{times}{' but where a cell says otherwise' if uneven else ''}"


def uneven_text(table: Table) -> str | None:
    """Note that differences use shared seeds alone; None if all arms have as many seeds."""
    counts = {len(measured.seeds) for measured in table.measured} - {0}
    if len(counts) < 2:
        return None
    return (
        f"Arms have {min(counts)} to {max(counts)} seeds; differences are over the seeds that both "
        "have, and differ from the difference of the means."
    )


def headline_text(evidence: Evidence) -> str:
    """First line of a report: the data set, and whether it is one of the paper's."""
    official = evidence.official
    if not evidence.trials:
        return f"Nothing of ours was measured on {evidence.data}."
    if official is not None and official.complete:
        return f"{official.name} by its official annotations, our preparation."
    if official is not None:
        return f"These are NOT results on {official.name}: {evidence.data} is a SUBSET of it."
    if evidence.data_kind == "embedded":
        return "These are NOT results on UCF-101, HMDB-51, Kinetics-400 or SSV2."
    return f"{evidence.data} is NOT a data set of the paper."


def has_top5(table: Table) -> bool:
    """True for a table of ours, or of the paper's top-5 accuracies, with one that was measured."""
    wanted = table.spec.published is None or table.published.top5
    own = [found for row in table.rows if (found := row.measured or row.teacher)]
    return bool(wanted) and any(one.scores.get("top5", Score()).mean is not None for one in own)


def comparable_columns(table: Table) -> tuple[str, ...]:
    """Columns of the paper with the data set and measure of our accuracies.

    Only a complete published data set, all of its folds and the paper's networks have any.
    """
    evidence = table.evidence
    official = evidence.official
    if official is None or not official.complete or evidence.fold_count != len(evidence.folds):
        return ()
    if not all(find_backbone(name).in_paper for name in _students(table)):
        return ()
    published = table.published
    columns = {**published.top1, **(published.top5 if has_top5(table) else {})}
    return tuple(column for column, name in columns.items() if name == official.name)


def notice_text(table: Table) -> tuple[str, str]:
    """Headline, and the limits of the comparison with the paper."""
    evidence = table.evidence
    headline = headline_text(evidence)
    if not evidence.trials:
        limits = "The accuracies are those that the paper prints, of its own and of other work."
        return headline, limits
    official = evidence.official
    if official is not None:
        data = f"{evidence.data} is {official.words}, every clip re-encoded."
    elif evidence.data_kind == "embedded":
        data = f"{evidence.data} is the embedded synthetic set."
    else:
        data = "It is a folder of the user's own clips."
    networks = _students(table)
    small = all(find_backbone(name).scalable for name in networks)
    kind = "small networks" if small else "networks of other sizes"
    ours = f"The students are {kind} ({', '.join(networks)}){', not ResNet-50' if small else ''}."
    same = comparable_columns(table)
    if same:
        ours = f"The students are {', '.join(networks)}."
        beside = (
            f"Of the paper's columns {' and '.join(same)} {'is' if len(same) == 1 else 'are'} of "
            "this data set; the paper states neither its splits nor its number of runs. Do not "
            "compare other columns."
        )
    else:
        beside = "Paper and ours stand side by side to name the rows; do not compare their values."
    return headline, f"{data} {ours} {beside}" if table.published.columns else f"{data} {ours}"


def _students(table: Table) -> list[str]:
    settings = [arm.setting for arm in table.sweep.arms]
    return sorted({setting.student.backbone for setting in settings if setting.model == "student"})


def absent_families(table: Table) -> list[str]:
    """Families of which the sweep has arms and the store no finished trial."""
    has_arms = {family_of_arm(arm.setting) for arm in table.sweep.arms}
    run = {
        family_of_arm(measured.arm.setting)
        for measured in table.measured
        if measured.seeds or measured.partial
    }
    return [family for family in families_of(table.sweep) if family in has_arms - run]


def kd_text(row: Row) -> str:
    """Kinds of KD of the student of a row."""
    if row.measured is None or row.measured.arm.setting.model != "student":
        return ""
    kinds = list(row.measured.arm.setting.method.weights)
    return " + ".join(kinds) + " KD" if kinds else "no KD"


def missing_text(table: Table) -> Iterator[str]:
    """One line per arm that lacks seeds of the spec, or folds."""
    absent = absent_families(table)
    asked = [seed for seed in table.evidence.seeds if seed < table.sweep.spec.seeds]
    for measured in table.measured:
        if family_of_arm(measured.arm.setting) in absent:
            continue
        have = {*measured.seeds, *measured.partial}
        gone = [seed for seed in asked if seed not in have]
        listed = f"seed{'s' * (len(gone) > 1)} {', '.join(map(str, gone))}"
        parts = ["all seeds" if gone == asked else listed] if gone else []
        parts += [
            f"seed {seed} fold {', '.join(map(str, folds))}"
            for seed, folds in measured.partial.items()
        ]
        if parts:
            yield f"{measured.arm.name}: {'; '.join(parts)}"


def how_to_read(table: Table) -> Iterator[str]:
    """Notes on how the numbers of a page are computed."""
    if table.evidence.trials:
        yield f"Selected epoch: {table.evidence.selection}."
        yield f"95 % intervals: {interval_text(table)}. {FEW_MARK}: fewer than 3 seeds."
        yield (
            f"Bold: the highest mean of the family and those less than {MARGIN:g} points below it, "
            "from 3 seeds on; none where that is most arms."
        )
        if table.spec.references:
            yield (
                "Δ: difference to the reference, seed by seed, at the selected epoch; the "
                "reference is trained equally long."
            )
        if table.published.columns and any(row.printed is None for row in table.rows):
            yield f"{OUTSIDE_MARK}: not in the paper."
    if any(row.cost is not None for row in table.rows):
        yield COST_SCOPE


def circumstances(table: Table, version: str) -> Iterator[str]:
    """Data, teachers, seeds, gaps and commits of a table, a line each."""
    evidence, published = table.evidence, table.published
    if not evidence.trials:
        yield f"Data: no finished trial on {evidence.data}; run: {table.command}."
    else:
        yield (
            f"Data: {evidence.data} ({evidence.data_kind}, data_id {evidence.data_id}), "
            f"{len(evidence.test.clips)} test clips, {folds_text(table)}."
        )
        yield from _marked(table)
        unranked = sum(trial.predictions.top5 is None for trial in evidence.trials)
        if published.top5 and not has_top5(table):
            yield f"Top-5 accuracy ({', '.join(published.top5)}): not measured here."
        elif has_top5(table) and unranked:
            count = plural(len(evidence.trials), "trial")
            yield f"Top-5 accuracy: {unranked} of {count} kept no scores; their arms have none."
        for family in sorted(evidence.teachers):
            known = [teacher for _, teacher in distinct_teachers(evidence, family)]
            networks = ", ".join(sorted({teacher.backbone for teacher in known}))
            ids = ", ".join(dict.fromkeys(teacher.teacher_id for teacher in known))
            lost = any(teacher.selected is None for teacher in known)
            end = "; its run is not in the store" if lost else ""
            yield f"RGB teacher of the {family} family: {networks} {ids}{end}."
        yield from (f"Selected: {choice.describe()}." for choice in evidence.choices)
        yield from _gaps(table)
    if published.has_gflops:
        costs = [row.cost for row in table.rows if row.cost is not None]
        if not costs:
            yield "GMACs of ours: not measured; run: cmkd cost."
        elif any(cost.is_open for cost in costs):
            yield (
                f"{OPEN_MARK}: the paper does not say enough to identify what it counted; ours is "
                "one reading of several."
            )
    yield f"Sweep {table.sweep.spec.name}; {_commits(evidence)}report by {version}."


def _marked(table: Table) -> Iterator[str]:
    """Rows of the paper filled by an arm that departs, and controls of another interpretation."""
    departing = marked_departures(table.sweep)
    for row in table.rows:
        if row.printed is not None and row.measured is not None:
            arm = row.measured.arm.name
            if values := ", ".join(f"{key} {value}" for key, value in departing[arm].items()):
                yield f"{DEPARTS_MARK} {arm} departs in {values}."
    for measured in table.measured:
        control = measured.differences["selected"].get("control")
        if control is not None and control.gap and control.seeds:
            where = f"{control.reference} differs in {', '.join(control.gap)} as well"
            yield f"{DEPARTS_MARK} {measured.arm.name}: no control of its interpretation; {where}."


def _gaps(table: Table) -> Iterator[str]:
    """Families, selections, seeds and folds that are missing, and runs that do not count."""
    evidence = table.evidence
    for family in absent_families(table):
        yield f"{family} family: no finished trial yet; run: {table.command}."
    if table.sweep.waiting:
        waits = sorted({name for many in table.sweep.waiting.values() for name in many})
        yield f"Rows that wait for the selection of {', '.join(waits)}: run: {table.command}."
    done, wanted = len(evidence.seeds), table.sweep.spec.seeds
    if done < wanted:
        yield f"Seeds: {plural(done, 'seed')} run, spec asks for {plural(wanted, 'seed')}."
    if uneven := uneven_text(table):
        yield uneven
    yield f"Missing: {'. '.join(missing_text(table)) or 'nothing of what was begun'}."
    if evidence.unfinished:
        counts = ", ".join(f"{count} {status}" for status, count in evidence.unfinished.items())
        yield f"Runs not counted: {counts}."


def _commits(evidence: Evidence) -> str:
    """``trials of commit a; ``, and the teachers' commits where they are others."""
    if not evidence.trials:
        return ""
    known = [found for family in evidence.teachers for found in distinct_teachers(evidence, family)]
    commits = sorted({teacher.commit for _, teacher in known if teacher.commit is not None})
    text = f"trials of commit {', '.join(evidence.commits)}; "
    if commits and tuple(commits) != evidence.commits:
        text += f"teachers of commit {', '.join(commits)}; "
    return text
