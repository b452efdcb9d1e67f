"""Verdicts as JSON, for programs."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from typing import Any

from cmkd.report.comparisons import LEAST_SEEDS, MINUS, Compared, Contrast
from cmkd.report.judge import CostRuling, Judgement
from cmkd.report.page import Cell, Grid, Line, Page
from cmkd.report.text import DASH, FEW_MARK, headline_text, plural, signed
from cmkd.report.verdicts import Case, Paired, Ruling, count_verdicts


def build_claims_page(judgement: Judgement, *, version: str) -> Page:
    """Verdicts, the pairs behind them, factorial effects and differences to the control."""
    first = judgement.evidence[0]
    grids = [_verdict_grid(judgement), _pair_grid(judgement)]
    if judgement.factorial:
        caption = (
            "The four arms with a decoder as a 2 x 2 design, in points; the interaction is what "
            "one kind of KD gains by the presence of the other. Holm: over the three of a half."
        )
        grids.append(_compared_grid("factorial", "Factorial view", caption, judgement.factorial))
    if judgement.control:
        caption = (
            "Every arm minus the control of its half that was trained equally long, in points. "
            "Holm: over the arms of a half in all sweeps; an arm of two sweeps counts once."
        )
        grids.append(_compared_grid("control", "Against the control", caption, judgement.control))
    return Page(
        name="claims",
        heading=f"Claims on {first.data}",
        headline=headline_text(first),
        notice=(
            "A verdict says what holds for these networks on this data; it neither confirms nor "
            "refutes the paper's numbers."
        ),
        grids=tuple(grids),
        circumstances=tuple(_circumstances(judgement, version)),
        notes=(),
    )


def _verdict_grid(judgement: Judgement) -> Grid:
    lines = [
        Line(
            (
                Cell(case.name),
                Cell(case.half),
                Cell(f"{case.claim.says} ({case.claim.source})"),
                Cell(ruling.verdict),
                Cell(_p_text(ruling.p_holm), "measured", ruling.p_holm, trials=_trials(case)),
                Cell(_seeds(case)),
                Cell(_detectable_text(ruling.detectable)),
                Cell(ruling.reason or DASH),
            ),
            case.half,
        )
        for case, ruling in zip(judgement.cases, judgement.rulings, strict=True)
    ]
    for one in judgement.costs:
        says = f"{one.claim.says} ({one.claim.source})"
        cells = (one.name, one.claim.half, says, one.verdict, DASH, DASH, DASH, cost_reason(one))
        lines.append(Line(tuple(map(Cell, cells)), one.claim.half))
    first = judgement.evidence[0]
    counts = count_verdicts(judgement.rulings)
    listed = ", ".join(f"{count} {verdict}" for verdict, count in counts.items())
    caption = (
        f"Claims about accuracy on {first.data} ({first.data_kind}, data_id {first.data_id}): "
        f"{listed}. Selected epoch: {first.selection}."
    )
    columns = ("Claim", "Half", "Sentence", "Verdict", "p (Holm)", "n", "Detectable", "Reason")
    return Grid("claims", "Claims", caption, columns, tuple(lines))


def _pair_grid(judgement: Judgement) -> Grid:
    lines = [
        Line(
            (
                Cell(case.name),
                Cell(f"{pair.over} {MINUS} {pair.under}"),
                *_contrast_cells(pair.contrast),
            ),
            case.half,
        )
        for case in judgement.cases
        for pair in case.pairs
    ]
    caption = (
        "What the verdicts rest on, in points of accuracy. d: mean over SD of the seeds. p: of no "
        "difference, two-sided; claims with a margin are tested at their margin."
    )
    columns = ("Claim", "Pair", *_CONTRAST_HEADS)
    return Grid("pairs", "Pairs", caption, columns, tuple(lines))


def _compared_grid(name: str, title: str, caption: str, rows: Sequence[Compared]) -> Grid:
    lines = tuple(
        Line((Cell(one.name), Cell(one.half), *_contrast_cells(one.contrast, one.p_holm)), one.half)
        for one in rows
    )
    return Grid(name, title, caption, ("What", "Half", *_CONTRAST_HEADS, "p (Holm)"), lines)


_CONTRAST_HEADS = ("Difference [95 %]", "SD", "d", "n", "p")


def _contrast_cells(one: Contrast | None, *adjusted: float | None) -> Iterator[Cell]:
    if one is None:
        yield from (Cell(DASH) for _ in (*_CONTRAST_HEADS, *adjusted))
        return
    interval = one.interval
    text = signed(one.mean)
    if interval is not None:
        text += f" [{signed(interval.low)}, {signed(interval.high)}]"
    few = one.seeds < LEAST_SEEDS
    yield Cell(
        text + (f" {FEW_MARK}" if few else ""),
        "measured",
        one.mean,
        one.sd,
        interval.low if interval else None,
        interval.high if interval else None,
        one.seeds,
        one.trials,
    )
    yield Cell(f"{one.sd:.1f}" if one.sd is not None else DASH)
    yield Cell(signed(one.effect_size) if one.effect_size is not None else DASH)
    yield Cell(str(one.seeds))
    for p in (one.p, *adjusted):
        yield Cell(DASH if few else _p_text(p), "measured", p)


def _p_text(p: float | None) -> str:
    if p is None:
        return DASH
    return "< 0.001" if p < 0.001 else f"{p:.3f}"


def _detectable_text(points: float | None) -> str:
    return f"{points:.1f}" if points is not None else DASH


def _seeds(case: Case) -> str:
    counts = [one.contrast.seeds for one in case.pairs]
    return str(min(counts)) if counts else DASH


def _trials(case: Case) -> tuple[str, ...]:
    return tuple(dict.fromkeys(t for pair in case.pairs for t in pair.contrast.trials))


def cost_reason(one: CostRuling) -> str:
    """What a verdict about computation rests on, or what is missing."""
    if one.ours is None or one.than is None:
        return "run: cmkd cost"
    saved = 100 * (one.ours.total / one.than.total - 1)
    reading = "; one reading of what the paper left open" if one.ours.is_open else ""
    return f"{one.ours.total:.1f} against {one.than.total:.1f} GMACs: {signed(saved)} %{reading}"


def _circumstances(judgement: Judgement, version: str) -> Iterator[str]:
    level = f"{100 * judgement.claims.level:g} %"
    yield (
        f"Verdicts: by Holm's adjustment over all tested claims, the probability of any false one "
        f"is at most {level}. {FEW_MARK}: fewer than {LEAST_SEEDS} seeds, no verdict."
    )
    yield (
        "p: the larger of a paired t test over seeds and a paired bootstrap over clips; where "
        "clips share sessions the bootstrap is over these, and a cluster-robust t test is the "
        "third. Intervals are the hull of all."
    )
    yield (
        "Detectable: points beyond the bound of the claim that its seeds find with a power of "
        "80 %, at the level that Holm's first step asks for."
    )
    yield (
        "All students of a half and fold had one teacher, trained once: verdicts cover other seeds "
        "of the students and other clips, not another training of the teacher."
    )
    for evidence in judgement.evidence:
        folds = plural(len(evidence.folds), "fold")
        yield (
            f"Sweep {evidence.sweep.spec.name}: {plural(len(evidence.trials), 'trial')}, {folds}, "
            f"commit {', '.join(evidence.commits)}."
        )
    yield f"Report by {version}."


SCHEMA = 1
"""Raised when a key changes its meaning or goes."""


def render_claims_json(judgement: Judgement) -> str:
    """Everything on the page with unrounded numbers; equal judgements give equal bytes."""
    first = judgement.evidence[0]
    cases = zip(judgement.cases, judgement.rulings, strict=True)
    whole = {
        "schema": SCHEMA,
        "data": first.data,
        "data_id": first.data_id,
        "data_kind": first.data_kind,
        "selection": first.selection,
        "level": judgement.claims.level,
        "claims": [
            *(_case_json(case, ruling) for case, ruling in cases),
            *(_cost_json(one) for one in judgement.costs),
        ],
        "factorial": [_compared_json(one) for one in judgement.factorial],
        "control": [_compared_json(one) for one in judgement.control],
    }
    return json.dumps(whole, ensure_ascii=False, indent=1, allow_nan=False) + "\n"


def _case_json(case: Case, ruling: Ruling) -> dict[str, Any]:
    claim = case.claim
    return {
        "claim": case.name,
        "half": case.half,
        "kind": claim.kind,
        "margin": claim.margin,
        "says": claim.says,
        "source": claim.source,
        "verdict": ruling.verdict,
        "reason": ruling.reason,
        "p": ruling.p,
        "p_holm": ruling.p_holm,
        "detectable": ruling.detectable,
        "more_seeds": ruling.more_seeds,
        "pairs": [_pair_json(pair) for pair in case.pairs],
    }


def _pair_json(pair: Paired) -> dict[str, Any]:
    return {
        "over": pair.over,
        "under": pair.under,
        "identical": pair.is_dead,
        **_contrast_json(pair.contrast),
    }


def _contrast_json(one: Contrast) -> dict[str, Any]:
    interval = one.interval
    return {
        "difference": one.mean,
        "sd": one.sd,
        "low": interval.low if interval else None,
        "high": interval.high if interval else None,
        "effect_size": one.effect_size,
        "n": one.seeds,
        "per_seed": list(one.per_seed),
        "p": one.p,
        "trials": list(one.trials),
    }


def _compared_json(one: Compared) -> dict[str, Any]:
    measured = _contrast_json(one.contrast) if one.contrast is not None else {}
    return {"name": one.name, "half": one.half, **measured, "p_holm": one.p_holm}


def _cost_json(one: CostRuling) -> dict[str, Any]:
    return {
        "claim": one.name,
        "half": one.claim.half,
        "kind": one.claim.kind,
        "says": one.claim.says,
        "source": one.claim.source,
        "verdict": one.verdict,
        "reason": cost_reason(one),
        "gmacs": one.ours.total if one.ours else None,
        "gmacs_than": one.than.total if one.than else None,
    }
