"""Stages of a sweep: what is refused, what is selected, and the paper's Table 5."""

from __future__ import annotations

from pathlib import Path

import pytest

from cmkd.config.sweep import Choice, Sweep, load_sweep, resolve
from cmkd.errors import ConfigError

PAPER = {0.01: 93.7, 0.1: 94.5, 1.0: 93.6}, {0.1: 94.9, 1.0: 95.8, 5.0: 95.3}
"""UCF-101 by lambda_1 at lambda_2 = 0, and by lambda_2 at lambda_1 = 0.1."""

HEAD = """name: s
description: d
select:
  best:
    key: method.lambda_1
    among: [first]
    rule: best_mean_val_acc
"""
FIRST = "blocks:\n  first: {method.lambda_1: [0.01, 0.1], method.lambda_2: [0.0]}\n"


def scores_of(sweep: Sweep, by_arm: dict[str, list[float]]) -> dict[tuple[str, int, int], float]:
    """Scores of (fold, seed) = (0, 0), (0, 1), ... of some arms."""
    settings = {arm.name: arm.setting.id for arm in sweep.arms}
    return {
        (settings[name], 0, seed): value
        for name, values in by_arm.items()
        for seed, value in enumerate(values)
    }


def as_printed(sweep: Sweep) -> dict[tuple[str, int, int], float]:
    """The paper's accuracies for all arms of Table 5 that have one, as if they were ours."""
    first, second = PAPER
    found = {}
    for arm in sweep.arms:
        method = arm.setting.method
        if arm.block == "spatial":
            found[arm.setting.id, 0, 0] = first[method.lambda_1]
        if arm.block == "both":
            found[arm.setting.id, 0, 0] = second[method.lambda_2]
    return found


def table_5() -> Sweep:
    """The whole sweep of Table 5 once its trials scored what the paper prints."""
    sweep, choices = resolve(
        load_sweep("hyperparameters"), as_printed(load_sweep("hyperparameters")), folds=1, seeds=1
    )
    assert [one.name for one in choices] == ["lambda_1"], "the second stage is not trained yet"
    sweep, choices = resolve(sweep, as_printed(sweep), folds=1, seeds=1)
    assert [(one.name, one.value) for one in choices] == [("lambda_1", 0.1), ("lambda_2", 1.0)]
    assert not sweep.waiting
    return sweep


def test_table_5_has_exactly_the_rows_of_the_paper_and_a_control() -> None:
    assert [arm.name for arm in table_5().arms].count("control") == 1
    methods = [arm.setting.method for arm in table_5().arms if arm.name != "control"]
    # Chosen as the paper did, the search's own rows are the printed ones.
    rows = {(m.decoder, m.lambda_1, m.lambda_2, m.logits != "off") for m in methods}
    assert sorted(rows) == sorted(
        [
            (False, 0.0, 0.0, False),
            (True, 0.01, 0.0, False),
            (True, 0.1, 0.0, False),
            (True, 1.0, 0.0, False),
            (True, 0.1, 0.0, True),
            (True, 0.1, 0.1, False),
            (True, 0.1, 1.0, False),
            (True, 0.1, 5.0, False),
            (True, 0.1, 1.0, True),
        ]
    )
    assert {arm.setting.student.backbone for arm in table_5().arms} == {"tiny_tsm"}


def test_tables_4_and_5_share_three_settings() -> None:
    fifth = {arm.setting.id for arm in table_5().arms if arm.name != "control"}
    fourth = {arm.setting.id for arm in load_sweep("ablation").arms if "control" not in arm.name}
    assert (len(fourth), len(fifth)) == (12, 9)
    assert len(fourth & fifth) == 3
    assert len(fourth | fifth) == 18
    whole = [{arm.setting.id for arm in one.arms} for one in (load_sweep("ablation"), table_5())]
    assert len(whole[0] & whole[1]) == 3 + 1, "the control too"


def test_tables_1_to_3_are_settings_of_table_4() -> None:
    assert {arm.setting.id for arm in load_sweep("comparison").arms} < {
        arm.setting.id for arm in load_sweep("ablation").arms
    }


def test_components_vary_around_the_full_method_of_table_4() -> None:
    components = load_sweep("components")
    both = {arm.setting.id for arm in load_sweep("ablation").arms} & {
        a.setting.id for a in components.arms
    }
    assert len(both) == 2, "both kinds of KD, and the control"
    subsets = {arm.setting.method.tg for arm in components.arms if arm.block == "graphs"}
    assert len(subsets) == 7


def test_the_best_mean_over_seeds_wins_and_of_equal_ones_the_smaller() -> None:
    sweep = load_sweep("hyperparameters")
    names = [f"spatial[lambda_1={value}]" for value in (0.01, 0.1, 1.0)]
    for reached, chosen in {
        ((50.0, 90.0), (80.0, 80.0), (99.0, 0.0)): 0.1,
        ((70.0, 90.0), (80.0, 80.0), (79.0, 81.0)): 0.01,
        ((0.0, 0.0), (60.1, 60.2), (60.2, 60.1)): 0.1,
    }.items():
        scores = scores_of(sweep, dict(zip(names, map(list, reached), strict=True)))
        after, (choice,) = resolve(sweep, scores, folds=1, seeds=2)
        assert choice.value == chosen
        assert after.selected == {"lambda_1": chosen}
        assert {a.setting.method.lambda_1 for a in after.arms if a.block == "both"} == {chosen}


def test_nothing_is_selected_before_every_seed_of_every_candidate_is_done() -> None:
    sweep = load_sweep("hyperparameters")
    names = [f"spatial[lambda_1={value}]" for value in (0.01, 0.1, 1.0)]
    scores = scores_of(sweep, dict.fromkeys(names, [50.0, 60.0]))
    assert resolve(sweep, scores, folds=1, seeds=2)[1] != ()
    assert resolve(sweep, scores, folds=1, seeds=3) == (sweep, ())
    assert resolve(sweep, scores, folds=2, seeds=2) == (sweep, ())
    del scores[next(iter(scores))]
    assert resolve(sweep, scores, folds=1, seeds=2) == (sweep, ())


def test_a_choice_says_what_it_was_made_of() -> None:
    choice = Choice("lambda_1", "method.lambda_1", {0.01: 70.0, 0.1: 71.254}, 6)
    assert choice.describe() == (
        "lambda_1 = 0.1: best mean validation accuracy of method.lambda_1 in "
        "{0.01: 70.00 %, 0.1: 71.25 %}, 6 trials each"
    )


def test_names_of_waiting_arms_can_be_chosen() -> None:
    chosen = load_sweep("hyperparameters").only(["both[lambda_2=5.0]", "*_logits", "baseline"])
    assert [arm.name for arm in chosen.arms] == ["baseline"]
    assert list(chosen.waiting) == ["spatial_logits", "both[lambda_2=5.0]", "both_logits"]


@pytest.mark.parametrize(
    ("body", "line", "says"),
    [
        (f"{FIRST}  second: {{method.lambda_1: [$bset]}}\n", 10, "no selection 'bset'; did you"),
        ("blocks:\n  firts: {}\n", 6, "no block 'first'; did you mean 'firts'?"),
        ("blocks:\n  first: {}\n", 6, "'first' must vary method.lambda_1 and nothing else"),
        (
            "blocks:\n  first: {method.lambda_1: [0.0, 1.0], method.tg: [[1], [2]]}\n",
            6,
            "has lists of method.tg",
        ),
        ("blocks:\n  first: {method.lambda_1: [0.1]}\n", 6, "two or more different numbers"),
        ("blocks:\n  first: {method.lambda_1: [0.1, 0.1]}\n", 6, "not [0.1, 0.1]"),
        ("blocks:\n  first: {method.lambda_1: [0.1, '1']}\n", 6, "not [0.1, '1']"),
        ("blocks:\n  first: {method.lambda_1: [0.1, true]}\n", 6, "not [0.1, True]"),
        (
            "blocks:\n  first: {method.lambda_1: [0.1, 1.0], method.lambda_2: [$best]}\n",
            6,
            "waits for 'best', which must be selected before 'best'",
        ),
        (
            f"{FIRST}  second:\n    method.lambda_1: [$best]\n    method.lamda_2: [0.0]\n",
            12,
            "unknown key method.'lamda_2'",
        ),
        (
            f"{FIRST}  second:\n    method.lambda_1: [$best]\n    method.decoder: [false]\n",
            11,
            "set lambda_1 and lambda_2 to 0.0",
        ),
    ],
)
def test_mistakes_in_stages_are_found_at_the_start(
    tmp_path: Path, body: str, line: int, says: str
) -> None:
    path = tmp_path / "s.yaml"
    path.write_text(HEAD + body)
    with pytest.raises(ConfigError) as caught:
        load_sweep(str(path))
    assert str(caught.value).startswith(f"{path}:{line}: ")
    assert says in str(caught.value)


def test_a_reference_without_selections_says_what_to_write(tmp_path: Path) -> None:
    path = tmp_path / "s.yaml"
    path.write_text("name: s\ndescription: d\nblocks:\n  a: {method.lambda_1: [$x]}\n")
    with pytest.raises(ConfigError, match="no selection 'x'; write a section `select`"):
        load_sweep(str(path))
