"""Verdicts as JSON, for programs."""

from __future__ import annotations

import json
from typing import Any

from cmkd.report.judging.comparisons import Compared, Contrast
from cmkd.report.judging.judge import CostRuling, Judgement
from cmkd.report.judging.verdicts import Case, Paired, Ruling
from cmkd.report.pages.claims_page import cost_reason

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
