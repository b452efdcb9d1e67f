"""The gate on made-up stores: what passes, what does not, and how often by chance."""

from __future__ import annotations

import json
import zlib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest
from scipy import stats

from cmkd.config.sweep import Sweep, load_sweep
from cmkd.errors import InputError
from cmkd.report.comparisons import identical_arms
from cmkd.report.evidence import Evidence, collect
from cmkd.report.regression import (
    ArmRecord,
    Baseline,
    Finding,
    compare,
    make_baseline,
    read_baseline,
    render_baseline,
)
from cmkd.stats import ARM_LEVEL, EFFECT_LEVEL, arm_tolerance, is_guarded, spreads_of

if TYPE_CHECKING:
    from conftest import MemoryStore

CLIPS = 200
COUNTS: Mapping[str, Sequence[int]] = {
    "baseline": (100, 104, 102),
    "control": (103, 99, 104),
    "spatial": (150, 155, 152),
    "temporal": (120, 118, 123),
    "both": (158, 154, 160),
}


def right(count: int, key: object) -> list[int]:
    """`count` right answers among `CLIPS`, on clips that depend on `key`."""
    order = np.random.default_rng(zlib.crc32(str(key).encode())).permutation(CLIPS)
    return (order < count).astype(int).tolist()


def fill(
    store: MemoryStore, counts: Mapping[str, Sequence[int]] = COUNTS, teacher: float = 90.0
) -> Evidence:
    for arm, of_seeds in counts.items():
        for seed, count in enumerate(of_seeds):
            store.trial(arm, seed, right(count, (arm, seed, count)))
    store.teacher(0, teacher)
    return collect(store, store.sweep, "made-up")


@pytest.fixture
def another(make_sweep: Callable[[str], Sweep], store: MemoryStore) -> MemoryStore:
    """A second store for the same arms."""
    return type(store)(make_sweep(""))


def baseline_of(evidence: Evidence, drift: float = 0.0, replicates: int | None = None) -> Baseline:
    return make_baseline(
        evidence, "ablation", drift=drift, platform="", version="cmkd", replicates=replicates
    )


def failing(finding: Finding) -> list[str]:
    return [cell.cell for cell in finding.cells if cell.fails]


def test_the_same_results_pass(store: MemoryStore) -> None:
    evidence = fill(store)
    made = baseline_of(evidence)
    finding = compare(made, evidence)
    assert finding.passes
    effects = ["spatial - control", "temporal - control", "both - control"]
    assert [cell.cell for cell in finding.cells] == [
        *(f"effect {name}" for name in effects),
        *(f"arm {name}" for name in COUNTS),
        "teacher of the TSM family",
    ]
    assert [one.name for one in made.effects if one.guarded] == effects
    assert made.effects[3].mean == pytest.approx((158 + 154 + 160 - 103 - 99 - 104) / 6)
    assert all(cell.delta == 0 for cell in finding.cells)
    assert made.arms["both"].mean == pytest.approx((79 + 77 + 80) / 3)
    assert (made.data_id, made.commits, made.identical) == ("d1", ("c0ffee",), ())


def test_other_seeds_pass_and_a_drop_does_not(store: MemoryStore, another: MemoryStore) -> None:
    made = baseline_of(fill(store))
    moved = {arm: [count + 3 for count in counts] for arm, counts in COUNTS.items()}
    finding = compare(made, fill(another, moved | {"both": (78, 74, 80)}))
    assert not finding.passes
    assert failing(finding) == ["effect both - control", "arm both"]
    both = next(cell for cell in finding.cells if cell.cell == "arm both")
    assert (both.before, both.after, both.delta) == pytest.approx((236 / 3, 116 / 3, -40.0))
    # The SD is the pooled one or the own one, the larger; six cells share the level.
    variances = [np.var(counts, ddof=1) / 4 for counts in COUNTS.values()]
    quantile = stats.t.isf(ARM_LEVEL / 2 / 6, 2 * len(COUNTS))
    sd = max(float(np.mean(variances)), variances[-1]) ** 0.5
    assert both.tolerance == pytest.approx(quantile * sd * (2 / 3) ** 0.5)


def test_an_effect_is_lost_though_every_arm_is_within_its_tolerance(
    store: MemoryStore, another: MemoryStore
) -> None:
    """The control gains what the arm loses; a lost harm is no regression."""
    counts = {"control": (120, 124, 122, 118, 121), "both": (133, 136, 134, 132, 135)}
    made = baseline_of(fill(store, counts), drift=5.0)
    (effect,) = made.effects
    assert effect.guarded and effect.mean == pytest.approx(6.5)
    near = {"control": (127, 130, 126, 125, 127), "both": (128, 131, 127, 126, 129)}
    evidence = fill(another, near)
    finding = compare(made, evidence)
    assert failing(finding) == ["effect both - control"]
    (cell,) = (cell for cell in finding.cells if cell.is_effect)
    assert (cell.before, cell.after, cell.tolerance) == pytest.approx((6.5, 0.6, 3.25))
    # An effect that grew has not been lost.
    grown = made.effects[0].model_copy(update={"mean": 0.3})
    assert compare(made.model_copy(update={"effects": (grown,)}), evidence).passes


@pytest.mark.parametrize("now", [(120, 90, 140), (176, 174, 16)])
def test_seeds_that_became_erratic_widen_no_tolerance(
    store: MemoryStore, another: MemoryStore, now: tuple[int, ...]
) -> None:
    """In per cent of right clips: 60, 45, 70 or 88, 87, 8 after 87.7 with a spread of 1.6."""
    counts = {"both": (175, 172, 178, 179, 173), "control": (100, 104, 102, 101, 103)}
    made = baseline_of(fill(store, counts), drift=0.5, replicates=3)
    finding = compare(made, fill(another, {"both": now, "control": (102, 100, 103)}))
    assert failing(finding) == ["effect both - control", "arm both"]


def test_an_arm_without_a_control_of_its_interpretation_has_no_effect(
    store: MemoryStore, make_sweep: Callable[[str], Sweep]
) -> None:
    store.sweep = make_sweep("  gated: {method.gate: [softmax]}\n")
    made = baseline_of(fill(store, {**COUNTS, "gated": (170, 175, 172)}))
    assert "gated" in made.arms
    assert "gated" not in {effect.arm for effect in made.effects}


def test_drift_widens_every_tolerance(store: MemoryStore) -> None:
    evidence = fill(store)
    without, with_drift = (compare(baseline_of(evidence, d), evidence) for d in (0.0, 1.5))
    for one, other in zip(without.cells, with_drift.cells, strict=True):
        assert other.tolerance == pytest.approx(one.tolerance + (0 if one.is_effect else 1.5))


def test_a_teacher_that_moved_is_a_regression(store: MemoryStore, another: MemoryStore) -> None:
    finding = compare(baseline_of(fill(store)), fill(another, teacher=60.0))
    assert failing(finding) == ["teacher of the TSM family"]


def test_a_teacher_whose_run_is_lost_is_said(store: MemoryStore, another: MemoryStore) -> None:
    made = baseline_of(fill(store))
    for arm, counts in COUNTS.items():
        for seed, count in enumerate(counts):
            another.trial(arm, seed, right(count, (arm, seed, count)))
    finding = compare(made, collect(another, another.sweep, "made-up"))
    assert finding.structure == ("teacher of the TSM family: stored before, missing now",)
    # What the baseline did not know either is no change.
    unknown = made.model_copy(update={"teachers": {"TSM": None}})
    assert compare(unknown, collect(another, another.sweep, "made-up")).passes


def test_seeds_that_are_missing_are_counted_and_said(
    store: MemoryStore, another: MemoryStore
) -> None:
    made = baseline_of(fill(store))
    finding = compare(made, fill(another, {**COUNTS, "both": COUNTS["both"][:1]}))
    arm, effect = finding.structure
    assert arm == "arm both: 1 of the 3 seeds that were run now"
    assert effect.startswith("effect both - control: 1 of the 3 replicates")
    assert effect.endswith("--seeds 3")
    both = next(cell for cell in finding.cells if cell.cell == "arm both")
    assert (both.replicates, both.fails) == ((3, 1), False)


def test_fewer_seeds_of_every_arm_are_no_regression(
    store: MemoryStore, another: MemoryStore
) -> None:
    """A check with three seeds against five is meant, and so are arms that always had fewer."""
    more = {name: (*counts, counts[1], counts[2]) for name, counts in COUNTS.items()}
    evidence = fill(store, {**more, "temporal": COUNTS["temporal"]})
    made = baseline_of(evidence, replicates=3)
    assert compare(made, fill(another, COUNTS)).passes
    assert compare(made, evidence).passes


def test_too_few_seeds_for_any_effect_are_no_pass(store: MemoryStore, another: MemoryStore) -> None:
    made = baseline_of(fill(store))
    two = {name: counts[:2] for name, counts in COUNTS.items()}
    with pytest.raises(InputError, match=r"spatial - control: 2 of the 3 .*--seeds 3"):
        compare(made, fill(another, two))


def test_a_loss_that_is_ignored_is_found_by_its_twin(
    store: MemoryStore, another: MemoryStore
) -> None:
    """Without lambda_2 "both" is "spatial": within tolerance here, yet no number may hide it."""
    made = baseline_of(fill(store))
    for arm, counts in COUNTS.items():
        for seed in range(len(counts)):
            arm_trained = "spatial" if arm == "both" else arm
            trained = COUNTS[arm_trained][seed]
            another.trial(arm, seed, right(trained, (arm_trained, seed, trained)))
    another.teacher(0, 90.0)
    finding = compare(made, collect(another, another.sweep, "made-up"))
    assert failing(finding) == []
    assert not finding.passes
    assert finding.structure == (
        "arms spatial and both: dead toggle, their settings differ and their predictions do not, "
        "in any clip of any shared trial",
    )


def test_twins_that_were_known_are_no_regression(store: MemoryStore) -> None:
    same = {"control": COUNTS["control"], "baseline": COUNTS["control"]}
    for seed, count in enumerate(COUNTS["both"]):
        store.trial("both", seed, right(count, ("both", seed)))
    for arm, counts in same.items():
        for seed, count in enumerate(counts):
            store.trial(arm, seed, right(count, (seed, count)))
    evidence = collect(store, store.sweep, "made-up")
    assert identical_arms(evidence) == (("baseline", "control"),)
    assert compare(baseline_of(evidence), evidence).passes


def test_arms_that_err_differently_on_the_same_clips_are_not_identical(store: MemoryStore) -> None:
    for arm in ("baseline", "control"):
        run_id = store.trial(arm, 0, right(100, "same"))
    assert identical_arms(collect(store, store.sweep, "made-up")) == (("baseline", "control"),)
    # Wrong on the same clips as before, which it takes for another class.
    store.texts[run_id] = store.texts[run_id].replace(",1,0,", ",1,2,")
    assert identical_arms(collect(store, store.sweep, "made-up")) == ()


def test_networks_that_learned_nothing_are_not_identical(store: MemoryStore) -> None:
    for arm in ("baseline", "control"):
        store.trial(arm, 0, [1] * 10)
        store.trial(arm, 1, [0] * 10)
    assert identical_arms(collect(store, store.sweep, "made-up")) == ()
    store.trial("spatial", 2, [1, 0] * 5)
    store.trial("both", 2, [1, 0] * 5, last=[0, 1] * 5)
    assert identical_arms(collect(store, store.sweep, "made-up")) == ()


def test_what_is_missing_new_or_other_is_said(
    store: MemoryStore, another: MemoryStore, make_sweep: Callable[[str], Sweep]
) -> None:
    made = baseline_of(fill(store))
    arms = dict(made.arms)
    arms["gone"] = arms.pop("control")
    arms["both"] = arms["both"].model_copy(update={"setting_id": "older"})
    old = made.model_copy(update={"arms": arms, "data_id": "d0", "selection": "last epoch"})
    some = {name: counts for name, counts in COUNTS.items() if name != "temporal"}
    finding = compare(old, fill(another, some))
    both, control, temporal = (
        another.sweep.only([name]).arms[0].setting.id for name in ("both", "control", "temporal")
    )
    assert finding.structure == (
        "data_id: d0 before, d1 now",
        "selection: last epoch before, best validation now",
        f"arm temporal: setting {temporal} before, missing now",
        f"arm both: setting older before, setting {both} now",
        f"arm gone: setting {control} before, missing now",
        f"arm control: missing before, setting {control} now",
        "effect temporal - control: 0 of the 3 replicates that a check needs; run: "
        "cmkd sweep ablation --data made-up --seeds 3",
    )
    assert not finding.passes


def test_nothing_to_compare_is_no_pass(store: MemoryStore, another: MemoryStore) -> None:
    made = baseline_of(fill(store))
    only = made.model_copy(update={"arms": {"both": made.arms["both"]}})
    evidence = fill(another, {"control": COUNTS["control"]})
    with pytest.raises(InputError, match="no arm of the baseline has a finished replicate"):
        compare(only, evidence)
    assert not Finding((), ()).passes


def test_two_seeds_are_no_baseline(store: MemoryStore) -> None:
    evidence = fill(store, {"both": (150, 160), "control": (100, 101, 102)})
    with pytest.raises(InputError, match="arm both has 2 of the 3 complete replicates.*--seeds 3"):
        baseline_of(evidence)


def test_a_baseline_that_never_fails_is_refused(store: MemoryStore, another: MemoryStore) -> None:
    """Its largest effect is within the noise; the message has the number that is enough."""
    noisy = {"control": (100, 130, 115), "both": (125, 140, 132)}
    with pytest.raises(InputError, match=r"both - control = \+8.7 .* --seeds \d+") as caught:
        baseline_of(fill(store, noisy))
    n = int(str(caught.value).rpartition(" ")[2])
    difference = [both - control for control, both in zip(*noisy.values(), strict=True)]
    mean, sd = np.mean(difference) / 2, np.std(difference, ddof=1) / 2
    assert is_guarded(float(mean), n, n, float(sd), 2)
    assert not is_guarded(float(mean), n - 1, n - 1, float(sd), 2)
    worse = {"control": (140, 141, 139), "both": (100, 101, 102)}
    with pytest.raises(InputError, match="would never fail"):
        baseline_of(fill(another, worse))


def test_without_a_control_arms_have_to_be_above_chance(
    store: MemoryStore, another: MemoryStore
) -> None:
    """Every clip is of class 1, so that always saying it is right: no arm is above that."""
    with pytest.raises(InputError, match="within its tolerance of chance"):
        baseline_of(fill(store, {"both": (150, 160, 155)}))
    evidence = fill(another, {"both": (150, 160, 155)})
    for run_id, text in another.texts.items():
        rows = text.splitlines()
        mixed = [
            f"{clip},,{i % 10},{i % 10 if said == '1' else 99},{i % 10 if said == '1' else 99}"
            for i, (clip, _, _, said, _) in enumerate(row.split(",") for row in rows[1:])
        ]
        another.texts[run_id] = "\n".join([rows[0], *mixed])
    evidence = collect(another, another.sweep, "made-up")
    assert baseline_of(evidence).effects == ()


def test_the_file_comes_back_as_it_was(store: MemoryStore, tmp_path: Path) -> None:
    made = baseline_of(fill(store), drift=0.5)
    path = tmp_path / "baseline.json"
    path.write_text(render_baseline(made))
    assert read_baseline(path) == made
    assert render_baseline(read_baseline(path)) == path.read_text()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (None, "no baseline can be read"),
        ("{", "Invalid JSON"),
        ({"schema_version": 1}, "schema_version"),
        ({"arms": {}}, "arms"),
        ({"drift": "NaN"}, "drift"),
        ({"extra": 1}, "unknown key 'extra'"),
    ],
)
def test_files_that_are_no_baseline(
    store: MemoryStore, tmp_path: Path, change: object, message: str
) -> None:
    path = tmp_path / "baseline.json"
    if isinstance(change, dict):
        whole = json.loads(render_baseline(baseline_of(fill(store))))
        path.write_text(json.dumps(whole | change))
    elif isinstance(change, str):
        path.write_text(change)
    with pytest.raises(InputError, match=message) as caught:
        read_baseline(path)
    assert "cmkd report baseline --out" in str(caught.value)


def test_nan_in_a_baseline_is_refused(store: MemoryStore, tmp_path: Path) -> None:
    made = baseline_of(fill(store))
    path = tmp_path / "baseline.json"
    path.write_text(
        render_baseline(made).replace(f'"mean": {made.arms["both"].mean}', '"mean": NaN')
    )
    with pytest.raises(InputError, match="no baseline"):
        read_baseline(path)


@pytest.mark.parametrize(
    "sds",
    [
        [1.6] * 10,
        [2.4, 0.9, 1.1, 1.6, 1.3, 1.9, 1.9, 1.6, 1.8, 1.1],
        np.random.default_rng(3).uniform(0.5, 6.0, 10).tolist(),
        [1.0, 2.0, 3.0],
    ],
    ids=["equal", "as in the reference", "twelvefold", "three arms"],
)
def test_an_unchanged_arm_is_seldom_beyond_its_tolerance(sds: list[float]) -> None:
    """Five seeds then and three now, two thousand times."""
    rng = np.random.default_rng(3)
    alarms = 0
    for _ in range(2000):
        then, now = (rng.normal(70, sds, (count, len(sds))) for count in (5, 3))
        spreads = spreads_of(records(then), 1000)
        moved = np.abs(now.mean(axis=0) - then.mean(axis=0))
        bounds = [arm_tolerance(one, 5, 3, len(sds)) for one in spreads.values()]
        alarms += bool((moved > bounds).any())
    assert alarms / 2000 <= 0.035


def records(values: np.ndarray) -> dict[str, ArmRecord]:
    """Arms with accuracies "replicates arms"."""
    sds = values.std(axis=0, ddof=1)
    return {
        str(arm): ArmRecord(setting_id="x", mean=50, sd=sd, replicates=len(values))
        for arm, sd in enumerate(sds)
    }


EFFECTS = np.array([-1.0, 6.0, 0.0, 6.5])
"""Of baseline, spatial, temporal and both over the control, as in the reference."""


@pytest.mark.parametrize(("then", "now", "accepted"), [(5, 5, 0.7), (10, 5, 0.9), (10, 10, 0.97)])
@pytest.mark.parametrize("sd", [1.5, 2.5])
def test_a_lost_effect_is_caught_and_an_unchanged_one_is_not(
    then: int, now: int, accepted: float, sd: float
) -> None:
    """SD of a difference over replicates; arms share their control. 3,000 baselines."""
    rng = np.random.default_rng(then + now)

    def draw(count: int, effects: np.ndarray) -> np.ndarray:
        noise = rng.normal(0, sd / 2**0.5, (count, 1 + len(effects)))
        return effects + noise[:, 1:] - noise[:, :1]

    guarded = caught = alarms = 0
    for _ in range(3000):
        before = draw(then, EFFECTS)
        means, spreads = before.mean(axis=0), spreads_of(records(before), 240)
        kept = [
            is_guarded(float(mean), then, now, *spreads[str(i)]) for i, mean in enumerate(means)
        ]
        lost, same = draw(now, EFFECTS * [1, 0, 1, 1]).mean(axis=0), draw(now, EFFECTS).mean(axis=0)
        guarded += kept[1]
        caught += kept[1] and means[1] - lost[1] > means[1] / 2
        alarms += bool((np.array(kept) & (means - same > means / 2)).any())
    assert caught / guarded >= 0.97
    assert guarded / 3000 >= accepted
    assert caught / 3000 >= 0.9 or then < 10
    assert alarms / 3000 <= 0.02


def test_the_rule_of_an_effect_errs_equally_both_ways() -> None:
    """At the border of what is guarded, both errors have `EFFECT_LEVEL`."""
    mean, df, then, now = 6.0, 10_000, 8, 5
    border = mean / 2 / float(stats.norm.isf(EFFECT_LEVEL)) / (1 / now + 1 / 4 / then) ** 0.5
    assert is_guarded(mean, then, now, 0.999 * border, df)
    assert not is_guarded(mean, then, now, 1.001 * border, df)
    assert not is_guarded(-mean, then, now, 0.1, df)


def test_one_clip_is_the_least_spread() -> None:
    record = ArmRecord(setting_id="x", mean=70.0, sd=0.0, replicates=3)
    assert spreads_of({"x": record}, 200) == {"x": (0.5, 2)}


def test_the_committed_baseline_is_of_arms_of_a_packaged_sweep() -> None:
    root = Path(__file__).resolve().parents[2]
    kept = read_baseline(root / "reports" / "baseline" / "ci.json")
    assert (root / "sweeps" / f"{kept.sweep}.yaml").is_file(), "any machine finds it by its name"
    arms = {arm.name: arm.setting.id for arm in load_sweep(kept.sweep).arms}
    assert kept.arms and all(arms[name] == arm.setting_id for name, arm in kept.arms.items())
    assert any(effect.guarded for effect in kept.effects)
