"""Arms of rows and claims: variants of a component that is not named fill no row."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from pydantic import ValidationError

from cmkd.config.sweep import Sweep
from cmkd.report.arms import (
    ArmQuery,
    departures,
    find_arm,
    find_references,
    interpretation_gap,
)

BOTH = ArmQuery(family="TSM", method={"lambda_1": True, "lambda_2": True})
VARIANTS = """
  gated: {method.gate: [softmax]}
  first_graph: {method.tg: [[1]]}
  block: {method.attention: [block]}
  per_frame: {inputs.motion: [per_frame]}
"""


def only(sweep: Sweep, *names: str) -> Sweep:
    return sweep.only(names)


@pytest.mark.parametrize("name", ["gated", "first_graph", "block", "per_frame"])
def test_a_variant_alone_fills_no_row(make_sweep: Callable[[str], Sweep], name: str) -> None:
    sweep = only(make_sweep(VARIANTS), name)
    assert find_arm(sweep, BOTH) is None
    assert departures(sweep)[name]


def test_a_named_component_is_found(make_sweep: Callable[[str], Sweep]) -> None:
    named = BOTH.model_copy(update={"method": {**BOTH.method, "gate": "softmax"}})
    arm = find_arm(make_sweep(VARIANTS), named)
    assert arm is not None and arm.name == "gated"


def test_a_longer_schedule_departs_and_comes_last(make_sweep: Callable[[str], Sweep]) -> None:
    sweep = make_sweep("  long: {training.epochs: [60]}\n")
    assert (found := find_arm(only(sweep, "long", "both"), BOTH)) is not None
    assert found.name == "both"
    assert (found := find_arm(only(sweep, "long", "control"), BOTH)) is not None
    assert found.name == "long"
    assert departures(sweep)["long"] == {"training.epochs": 60}
    assert departures(sweep)["both"] == {}


def test_an_arm_of_another_family_fits_no_query_of_this_one(
    make_sweep: Callable[[str], Sweep],
) -> None:
    assert find_arm(make_sweep(""), BOTH.of("TDN")) is None
    assert find_arm(make_sweep(""), ArmQuery(method=BOTH.method)) is not None


def test_references_are_trained_equally_long(make_sweep: Callable[[str], Sweep]) -> None:
    more = (
        "  long: {training.epochs: [60]}\n"
        "  control_long: {training.epochs: [60], method.lambda_1: [0.0], method.lambda_2: [0.0]}\n"
    )
    found = find_references(make_sweep(more), "control")
    assert found["both"].name == "control"
    assert found["long"].name == "control_long"


def test_a_control_shares_the_interpretation_of_its_arm(make_sweep: Callable[[str], Sweep]) -> None:
    more = (
        "  gated: {method.gate: [softmax, sigmoid]}\n"
        "  graph: {method.tg: [[1]]}\n"
        "  gated_control: {method.gate: [softmax], method.lambda_1: [0.0], "
        "method.lambda_2: [0.0]}\n"
    )
    sweep = make_sweep(more)
    found = find_references(sweep, "control")
    names = {
        "both": "control",
        "baseline": "control",
        "gated[gate=softmax]": "gated_control",
        "gated[gate=sigmoid]": "control",
        "gated_control": "gated_control",
        "graph": "control",
    }
    assert {name: found[name].name for name in names} == names
    gaps = {
        arm.name: interpretation_gap(arm.setting, found[arm.name].setting) for arm in sweep.arms
    }
    assert {name: gap for name, gap in gaps.items() if gap} == {
        "gated[gate=sigmoid]": ("method.gate",)
    }


def test_a_query_of_an_unknown_key_or_value_is_refused() -> None:
    with pytest.raises(ValidationError, match="lambda_9"):
        ArmQuery(method={"lambda_9": 1.0})
    with pytest.raises(ValidationError, match="gate"):
        ArmQuery(method={"gate": "sometimes"})
