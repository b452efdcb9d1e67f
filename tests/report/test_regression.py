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

from cmkd.config.sweep import Sweep
from cmkd.errors import InputError
from cmkd.report.evidence import Evidence, collect
from cmkd.report.identical_arms import twins
from cmkd.report.regression import (
    FALSE_ALARM,
    ArmRecord,
    Baseline,
    Finding,
    common_spread,
    compare,
    make_baseline,
    read_baseline,
    render_baseline,
    spreads,
)
from cmkd.stats import Spread, spread_bound

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


def baseline_of(evidence: Evidence, drift: float = 0.0) -> Baseline:
    return make_baseline(evidence, "ablation", drift=drift, platform="here", version="cmkd test")


def failing(finding: Finding) -> list[str]:
    return [cell.cell for cell in finding.cells if cell.fails]


def test_the_same_results_pass(store: MemoryStore) -> None:
    evidence = fill(store)
    made = baseline_of(evidence)
    finding = compare(made, evidence)
    assert finding.passes
    assert [cell.cell for cell in finding.cells] == [
        *(f"arm {name}" for name in COUNTS),
        "teacher of the TSM half",
    ]
    assert all(cell.delta == 0 for cell in finding.cells)
    assert made.arms["both"].mean == pytest.approx((79 + 77 + 80) / 3)
    assert (made.data_id, made.commits, made.identical) == ("d1", ("c0ffee",), ())


def test_other_seeds_pass_and_a_drop_does_not(store: MemoryStore, another: MemoryStore) -> None:
    made = baseline_of(fill(store))
    moved = {arm: [count + 3 for count in counts] for arm, counts in COUNTS.items()}
    finding = compare(made, fill(another, moved | {"both": (78, 74, 80)}))
    assert not finding.passes
    assert failing(finding) == ["arm both"]
    both = next(cell for cell in finding.cells if cell.cell == "arm both")
    assert (both.before, both.after, both.delta) == pytest.approx((236 / 3, 116 / 3, -40.0))
    # Spreads that differ no more than by chance are one, of all arms; six cells share the level.
    variances = [np.var(counts, ddof=1) / 4 for counts in COUNTS.values()]
    quantile = stats.t.isf(FALSE_ALARM / 2 / 6, 2 * len(COUNTS))
    sd = max(float(np.mean(variances)), variances[-1]) ** 0.5
    assert both.tolerance == pytest.approx(quantile * sd * (2 / 3) ** 0.5)


@pytest.mark.parametrize("now", [(120, 90, 140), (176, 174, 16)])
def test_seeds_that_became_erratic_widen_no_tolerance(
    store: MemoryStore, another: MemoryStore, now: tuple[int, ...]
) -> None:
    """In per cent of right clips: 60, 45, 70 or 88, 87, 8 after 87.7 with a spread of 1.6."""
    counts = {"both": (175, 172, 178, 179, 173), "control": (100, 104, 102, 101, 103)}
    made = baseline_of(fill(store, counts), drift=0.5)
    finding = compare(made, fill(another, {"both": now, "control": (102, 100, 103)}))
    assert failing(finding) == ["arm both"]


def test_drift_widens_every_tolerance(store: MemoryStore) -> None:
    evidence = fill(store)
    without, with_drift = (compare(baseline_of(evidence, d), evidence) for d in (0.0, 1.5))
    for one, other in zip(without.cells, with_drift.cells, strict=True):
        assert other.tolerance == pytest.approx(one.tolerance + 1.5)


def test_a_teacher_that_moved_is_a_regression(store: MemoryStore, another: MemoryStore) -> None:
    finding = compare(baseline_of(fill(store)), fill(another, teacher=60.0))
    assert failing(finding) == ["teacher of the TSM half"]


def test_a_teacher_whose_run_is_lost_is_said(store: MemoryStore, another: MemoryStore) -> None:
    made = baseline_of(fill(store))
    for arm, counts in COUNTS.items():
        for seed, count in enumerate(counts):
            another.trial(arm, seed, right(count, (arm, seed, count)))
    finding = compare(made, collect(another, another.sweep, "made-up"))
    assert finding.structure == ("teacher of the TSM half: missing, its run is not in the store",)
    # What the baseline did not know either is no change.
    unknown = made.model_copy(update={"teachers": {"TSM": None}})
    assert compare(unknown, collect(another, another.sweep, "made-up")).passes


def test_seeds_that_are_missing_are_counted_and_said(
    store: MemoryStore, another: MemoryStore
) -> None:
    made = baseline_of(fill(store))
    finding = compare(made, fill(another, {**COUNTS, "both": COUNTS["both"][:1]}))
    assert finding.structure == ("arm both: 1 of the 3 seeds that were run now",)
    both = next(cell for cell in finding.cells if cell.cell == "arm both")
    assert (both.seeds, both.fails) == ((3, 1), False)


def test_fewer_seeds_of_every_arm_are_no_regression(
    store: MemoryStore, another: MemoryStore
) -> None:
    """A check with three seeds against five is meant, and so are arms that always had fewer."""
    made = baseline_of(fill(store, {**COUNTS, "both": (158, 154, 160, 157)}))
    two = {name: counts[:2] for name, counts in COUNTS.items()}
    assert compare(made, fill(another, two)).passes
    assert compare(made, collect(store, store.sweep, "made-up")).passes


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
    for arm, counts in same.items():
        for seed, count in enumerate(counts):
            store.trial(arm, seed, right(count, (seed, count)))
    evidence = collect(store, store.sweep, "made-up")
    assert twins(evidence) == (("baseline", "control"),)
    assert compare(baseline_of(evidence), evidence).passes


def test_arms_that_err_differently_on_the_same_clips_are_no_twins(store: MemoryStore) -> None:
    for arm in ("baseline", "control"):
        run_id = store.trial(arm, 0, right(100, "same"))
    assert twins(collect(store, store.sweep, "made-up")) == (("baseline", "control"),)
    # Wrong on the same clips as before, which it takes for another class.
    store.texts[run_id] = store.texts[run_id].replace(",1,0,", ",1,2,")
    assert twins(collect(store, store.sweep, "made-up")) == ()


def test_networks_that_learned_nothing_are_no_twins(store: MemoryStore) -> None:
    for arm in ("baseline", "control"):
        store.trial(arm, 0, [1] * 10)
        store.trial(arm, 1, [0] * 10)
    assert twins(collect(store, store.sweep, "made-up")) == ()
    store.trial("spatial", 2, [1, 0] * 5)
    store.trial("both", 2, [1, 0] * 5, last=[0, 1] * 5)
    assert twins(collect(store, store.sweep, "made-up")) == ()


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
    both = another.sweep.only(["both"]).arms[0].setting.id
    assert finding.structure == (
        "data_id: d0 before, d1 now",
        "selection: last epoch before, best validation now",
        "arm temporal: missing, no complete seed",
        f"arm both: another setting, older before, {both} now",
        "arm gone: missing, the sweep ablation no longer has it",
        "arm control: new, not in the baseline",
    )
    assert not finding.passes


def test_nothing_to_compare_is_no_pass(store: MemoryStore, another: MemoryStore) -> None:
    made = baseline_of(fill(store))
    only = made.model_copy(update={"arms": {"both": made.arms["both"]}})
    evidence = fill(another, {"control": COUNTS["control"]})
    with pytest.raises(InputError, match="no arm of the baseline has a finished seed"):
        compare(only, evidence)
    assert not Finding((), ()).passes


def test_one_seed_is_no_baseline(store: MemoryStore) -> None:
    evidence = fill(store, {"both": (150,), "control": (100, 101)})
    with pytest.raises(InputError, match="arm both has one complete seed.*--seeds 2"):
        baseline_of(evidence)


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
        ({"schema_version": 2}, "schema_version"),
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
def test_an_unchanged_rerun_fails_as_seldom_as_promised(sds: list[float]) -> None:
    """Five seeds then and three now, two thousand times."""
    rng = np.random.default_rng(3)
    alarms = 0
    for _ in range(2000):
        then, now = (rng.normal(70, sds, (count, len(sds))) for count in (5, 3))
        records = {
            str(arm): ArmRecord(setting_id="x", mean=mean, sd=sd, seeds=5)
            for arm, (mean, sd) in enumerate(
                zip(then.mean(axis=0), then.std(axis=0, ddof=1), strict=True)
            )
        }
        moved = np.abs(now.mean(axis=0) - then.mean(axis=0))
        bounds = [
            spread_bound(one, (5, 3), level=FALSE_ALARM, family=len(sds))
            for one in spreads(records, 0.1).values()
        ]
        alarms += bool((moved > bounds).any())
    assert alarms / 2000 < 2 * FALSE_ALARM


def test_an_arm_that_loses_what_it_had_learned_is_found_by_its_number() -> None:
    """What spatial KD gave in the reference, lost; ten arms, five seeds then and three now."""
    sds = (2.4, 0.9, 1.1, 1.6, 1.3, 1.9, 1.9, 1.6, 1.8, 1.1)
    records = {
        str(arm): ArmRecord(setting_id="x", mean=85.0, sd=sd, seeds=5) for arm, sd in enumerate(sds)
    }
    spatial = spreads(records, 0.1)["1"]
    assert spread_bound(spatial, (5, 3), level=FALSE_ALARM, family=12) < 5.9


def test_one_clip_is_the_least_spread() -> None:
    record = ArmRecord(setting_id="x", mean=70.0, sd=0.0, seeds=2)
    assert spreads({"x": record}, 0.5) == {"x": Spread(0.5, 1)}
    assert common_spread([record], 0.5) == Spread(0.5, 1)
