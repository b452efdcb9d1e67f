"""The file of claims, and what a made-up store says about them."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from cmkd.config.sweep import load_sweep
from cmkd.errors import ConfigError, InputError
from cmkd.report.arms import ArmQuery, Family, find_arm
from cmkd.report.claims import (
    TEACHER,
    AccuracyClaim,
    Claims,
    CostClaim,
    Judgement,
    load_claims,
    read_claims,
)
from cmkd.report.claims_page import build_claims_page, judge, render_claims_json
from cmkd.report.evidence import NothingMeasured
from cmkd.report.gather import Gatherer, Request
from cmkd.report.page import render_markdown
from cmkd.report.paper import ModelCost, load_published
from cmkd.stats import holm

if TYPE_CHECKING:
    from conftest import MemoryStore

CLAIMS = """
level: 0.05
looks: [4]
arms:
  control: {}
  spatial: {method: {lambda_1: true}}
  temporal: {method: {lambda_2: true}}
  both: {method: {lambda_1: true, lambda_2: true}}
  logits: {method: {lambda_1: 0.1, logits: true}}
claims:
  helps:
    {says: KD helps, source: here, kind: better, sweep: ablation,
     families: [TSM], pairs: [[both, control]]}
  adds:
    {says: temporal KD adds to spatial, source: here, kind: better, sweep: ablation,
     families: [TSM], pairs: [[both, spatial]]}
  near:
    {says: near the teacher, source: here, kind: near, margin: 2.0, sweep: ablation,
     families: [TSM], pairs: [[both, teacher]]}
  no_arm:
    {says: logits, source: here, kind: equal, margin: 2.0, sweep: ablation,
     families: [TSM], pairs: [[logits, spatial]]}
  cheap:
    {says: cheaper, source: here, kind: cheaper, family: TSM,
     ours: {models: [student_tsm], views: 6}, than: {models: [tsm_r50_8f, tsm_r50_16f], views: 6}}
"""


@pytest.fixture
def claims(tmp_path: Path) -> Claims:
    path = tmp_path / "claims.yaml"
    path.write_text(CLAIMS)
    return read_claims(path)


@pytest.fixture
def planted(store: MemoryStore) -> MemoryStore:
    """Four seeds on 200 clips: both 30 points above the control, and 10 below the teacher."""
    counts = {"control": 100, "spatial": 150, "temporal": 110, "both": 160}
    for arm, count in counts.items():
        for seed in range(4):
            right = count + (seed * 3 + len(arm)) % 4
            store.trial(arm, seed, [1] * right + [0] * (200 - right))
    store.teacher(0, 90.0)
    rows = [f"f0/{i:04d},,1,{int(i < 180)},{int(i < 180)}" for i in range(200)]
    store.texts["run-teacher-0"] = "\n".join(["clip,group,label,selected,last", *rows])
    return store


def judged(claims: Claims, store: MemoryStore, **costs: float) -> Judgement:
    request = Request((), "made-up", str(store.sweep.path))
    models = {
        name: ModelCost(model=name, gmacs_per_view=one, views=1, gmacs=one, parameters=1)
        for name, one in costs.items()
    }
    return judge(claims, Gatherer(request, store), models)


def verdicts(judgement: Judgement) -> dict[str, str]:
    return {one.name: one.verdict for one in (*judgement.results, *judgement.costs)}


def test_planted_effects_give_their_verdicts(claims: Claims, planted: MemoryStore) -> None:
    judgement = judged(claims, planted, student_tsm=50.0, tsm_r50_8f=20.0, tsm_r50_16f=40.0)
    assert verdicts(judgement) == {
        "helps": "supported",
        "adds": "supported",
        "near": "contradicted",
        "no_arm": "no runs",
        "cheap": "supported",
    }
    near, lacking = judgement.results[2:]
    assert lacking.reason.startswith("the sweep ablation has no arm 'logits' in the TSM family")
    pair = near.pairs[0]
    assert (pair.name, near.look) == (f"both − {TEACHER}", 4)
    assert pair.trials == (*(f"trial-run-both-{n}-0" for n in range(4)), "teacher-0")


def test_costs_that_were_not_counted_or_are_higher(claims: Claims, planted: MemoryStore) -> None:
    assert verdicts(judged(claims, planted, student_tsm=50.0))["cheap"] == "no runs"
    dear = judged(claims, planted, student_tsm=61.0, tsm_r50_8f=20.0, tsm_r50_16f=40.0)
    assert verdicts(dear)["cheap"] == "contradicted"


def test_a_loss_that_is_ignored_is_a_dead_claim(claims: Claims, planted: MemoryStore) -> None:
    spatial = {run.tags["seed"]: run for run in planted.runs if run.tags.get("arm") == "spatial"}
    for i, run in enumerate(planted.runs):
        if run.tags.get("arm") == "both":
            twin = spatial[run.tags["seed"]]
            planted.texts[run.run_id] = planted.texts[twin.run_id]
            planted.runs[i] = replace(run, metrics=twin.metrics)
    found = verdicts(judged(claims, planted))
    assert (found["adds"], found["helps"]) == ("dead", "supported")


def test_no_runs_name_the_command(claims: Claims, store: MemoryStore) -> None:
    with pytest.raises(NothingMeasured, match="run: cmkd sweep .*made_up.yaml --data made-up"):
        judged(claims, store)
    store.trial("both", 0, [1, 0] * 10)
    judgement = judged(claims, store)
    assert set(verdicts(judgement).values()) == {"no runs"}
    assert "run: cmkd sweep" in judgement.results[0].reason


def test_arms_without_a_common_seed_name_the_command_and_no_store(
    tmp_path: Path, store: MemoryStore
) -> None:
    """Once for both pairs of the claim, and without the address: others read the page too."""
    for seed, arm in enumerate(("both", "spatial", "control")):
        store.trial(arm, seed, [1, 0] * 10)
    path = tmp_path / "two_pairs.yaml"
    path.write_text(CLAIMS.replace("[[both, control]]", "[[both, control], [both, spatial]]"))
    spec = str(store.sweep.path)
    request = Request((), "made-up", spec, tracking_uri="sqlite:////srv/private/runs.db")
    judgement = judge(read_claims(path), Gatherer(request, store), {})
    assert judgement.results[0].reason == (
        "both and control have no replicate in common; "
        "both and spatial have no replicate in common; "
        f"run: cmkd sweep {spec} --data made-up"
    )
    page = render_markdown(build_claims_page(judgement, version="cmkd test"))
    for text in (page, render_claims_json(judgement)):
        assert "no replicate in common" in text
        assert "private" not in text


def test_a_teacher_tested_on_other_clips_is_refused(claims: Claims, planted: MemoryStore) -> None:
    planted.texts["run-teacher-0"] = "clip,group,label,selected,last\nother,,1,1,1"
    with pytest.raises(InputError, match="RGB teacher of the TSM family was tested on other clips"):
        judged(claims, planted)


def test_every_replicate_is_compared_with_its_own_teacher(
    claims: Claims, store: MemoryStore
) -> None:
    """Student and teacher of a replicate are equally good, and those of two replicates are not."""
    for seed in range(4):
        right = [1] * (100 + 20 * seed) + [0] * (100 - 20 * seed)
        store.trial("both", seed, right, tags={"teacher": f"teacher-{seed}"})
        store.teacher(seed, 50.0 + 10.0 * seed)
        rows = [f"f0/{i:04d},,1,{hit},{hit}" for i, hit in enumerate(right)]
        store.texts[f"run-teacher-{seed}"] = "\n".join(["clip,group,label,selected,last", *rows])
    whole = json.loads(render_claims_json(judged(claims, store)))
    (pair,) = next(claim["pairs"] for claim in whole["claims"] if claim["claim"] == "near")
    assert pair["per_replicate"] == [0.0] * 4
    assert pair["trials"][4:] == [f"teacher-{seed}" for seed in range(4)]


def test_sweeps_on_different_versions_of_the_data_are_refused(
    tmp_path: Path, planted: MemoryStore
) -> None:
    other = tmp_path / "other.yaml"
    text = planted.sweep.path.read_text().replace("name: ablation", "name: other")
    other.write_text(text.replace("data: made-up", "data: elsewhere"))
    planted.trial("both", 0, [1, 0] * 10, tags={"data": "elsewhere", "data_id": "d2"})
    path = tmp_path / "two.yaml"
    two = CLAIMS.replace("sweep: ablation", f"sweep: {planted.sweep.path}")
    path.write_text(two.replace(f"sweep: {planted.sweep.path}", f"sweep: {other}", 1))
    with pytest.raises(InputError, match="different data: 'elsewhere' and 'made-up'"):
        judge(read_claims(path), Gatherer(Request(), planted), {})


def test_the_page_and_the_json(claims: Claims, planted: MemoryStore) -> None:
    judgement = judged(claims, planted)
    page = render_markdown(build_claims_page(judgement, version="cmkd test"))
    assert "NOT results on UCF-101" in page
    row = next(line for line in page.splitlines() if line.startswith("| helps |"))
    assert "| KD helps (here) | supported | &lt; 0.001 | 4 |" in row and "4 replicates" in row
    assert "| interaction | TSM | " in page
    text = render_claims_json(judgement)
    assert text == render_claims_json(judged(claims, planted))
    whole = json.loads(text)
    assert (whole["schema"], whole["data_id"], whole["level"]) == (2, "d1", 0.05)
    near = next(one for one in whole["claims"] if one["claim"] == "near")
    assert (near["verdict"], near["pairs"][0]["name"]) == ("contradicted", "both − teacher")
    assert near["pairs"][0]["difference"] == pytest.approx(
        sum(near["pairs"][0]["per_replicate"]) / 4
    )
    assert [one["name"] for one in whole["factorial"]][2] == "interaction"
    assert all("trials" in one for one in whole["control"] if one["p_holm"] is not None)


def test_what_two_sweeps_compare_with_the_control_is_one_family(
    tmp_path: Path, planted: MemoryStore
) -> None:
    """The second sweep has `both` and `control` of the first, and an arm of its own."""
    here = planted.sweep.path
    more = "  both: {method.lambda_1: [0.1]}\n  strong: {method.lambda_1: [1.0]}\n"
    other = tmp_path / "other.yaml"
    head, _, blocks = here.read_text().partition("blocks:\n")
    control = next(line for line in blocks.splitlines() if "control" in line)
    other.write_text(f"{head.replace('name: ablation', 'name: other')}blocks:\n{control}\n{more}")
    planted.sweep = load_sweep(str(other))
    for seed in range(4):
        planted.trial("strong", seed, [1] * (140 + seed) + [0] * (60 - seed))
    path = tmp_path / "two.yaml"
    two = CLAIMS.replace("sweep: ablation", f"sweep: {here}")
    path.write_text(two.replace(f"sweep: {here}", f"sweep: {other}", 1))
    control_rows = judge(read_claims(path), Gatherer(Request(), planted), {}).control
    measured = {one.difference.name: one for one in control_rows if one.difference.seeds}
    assert [one.difference.name for one in control_rows].count("both − control") == 1
    names = ("both", "strong", "spatial", "temporal")
    assert set(measured) == {f"{name} − control" for name in names}
    p_values = [
        one.difference.estimate.p
        for one in measured.values()
        if one.difference.estimate is not None
    ]
    assert [one.p_holm for one in measured.values()] == pytest.approx(holm(p_values))


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("[[both, control]]", "[[both, contol]]", r"claims.yaml:13: no arm 'contol'; did you mean"),
        ("[[both, control]]", "[[both, both]]", "is neither .a, b. nor"),
        ("[[both, control]]", "[[both, control, spatial]]", "is neither .a, b. nor"),
        ("[[both, control]]", "[[teacher, both]]", "is neither .a, b. nor"),
        ("margin: 2.0, sweep", "margin: 0.0, sweep", "margin"),
        ("looks: [4]", "looks: [2]", "ascend from 3 replicates"),
        ("looks: [4]", "looks: [10, 5]", "ascend from 3 replicates"),
        ("kind: better", "kind: beter", "claims.yaml:1[0-9]: .*beter"),
        ("source: here, kind: cheaper", "sorce: here, kind: cheaper", "sorce"),
        ("level: 0.05", "level: 5", "claims.yaml:2: level"),
        ("  control: {}", "  teacher: {}", "'teacher' is the RGB teacher"),
    ],
)
def test_mistakes_in_the_file(tmp_path: Path, old: str, new: str, message: str) -> None:
    path = tmp_path / "claims.yaml"
    path.write_text(CLAIMS.replace(old, new, 1))
    with pytest.raises(ConfigError, match=message):
        read_claims(path)


def test_the_claims_of_the_paper_have_arms_and_networks_that_exist() -> None:
    claims = load_claims()
    costs = [row.cost for row in load_published("table_2").rows if row.cost is not None]
    networks = {model for cost in costs for model in cost.models}
    for claim in claims.claims.values():
        if isinstance(claim, CostClaim):
            assert {*claim.ours.models, *claim.than.models} <= networks
            continue
        sweep = load_sweep(claim.sweep)
        for name in {name for pair in claim.pairs for name in pair} - {TEACHER}:
            for half in claim.families:
                wanted = claims.arms[name].of(half)
                # What waits for a selection has no setting yet.
                assert find_arm(sweep, wanted) or sweep.waiting, (name, half)


def test_the_printed_numbers_bear_out_every_claim() -> None:
    claims, checked = load_claims(), 0
    for claim in claims.claims.values():
        if not isinstance(claim, AccuracyClaim):
            continue
        for half in claim.families:
            margin = claim.margin or claims.margin
            for one, other in (pair for pair in claim.pairs if len(pair) == 2):
                for ours, theirs in printed(claims, claim.sweep, one, other, half):
                    gap = ours - theirs
                    bound = -margin if claim.kind == "near" else 0.0
                    held = abs(gap) <= margin if claim.kind == "equal" else gap > bound
                    assert held, (claim.says, half, gap)
                    checked += 1
    # Ten pairs of Table 4, six of Table 5 with three columns each, and the teachers.
    assert checked == 3 * 10 + 3 * 6 + 2 * (2 + 2 + 2)


def printed(
    claims: Claims, sweep: str, one: str, other: str, half: Family
) -> Iterator[tuple[float, float]]:
    """Both arms' accuracies wherever one table of the sweep prints the two."""
    numbers = (1, 2, 3) if other == TEACHER else (4,) if sweep == "ablation" else (5,)
    for number in numbers:
        rows = {row.ours: row.printed for row in load_published(f"table_{number}").rows if row.ours}
        sides = [rows.get(_counterpart(claims, name, half)) for name in (one, other)]
        ours, theirs = sides
        for column in ours or ():
            a, b = (ours or {})[column], (theirs or {}).get(column)
            if a is not None and b is not None:
                yield a, b


def _counterpart(claims: Claims, name: str, half: Family) -> ArmQuery:
    if name == TEACHER:
        return ArmQuery(family=half, teacher=True)
    return claims.arms[name].of(half)


def test_claims_about_parts_of_the_method_have_their_arms() -> None:
    claims, sweep = load_claims(), load_sweep("components")
    found = {}
    for name in ("gate_helps", "graphs_enrich"):
        claim = claims.claims[name]
        assert isinstance(claim, AccuracyClaim)
        for arm in {arm for pair in claim.pairs for arm in pair}:
            wanted = claims.arms[arm].of("TSM")
            one = find_arm(sweep, wanted)
            assert one is not None
            found[arm] = (one.setting.method.gate, one.setting.method.tg)
    assert found == {
        "both_mid": ("off", (1, 2, 3)),
        "control": ("off", (1, 2, 3)),
        "both_gate": ("softmax", (1, 2, 3)),
        "control_gate": ("softmax", (1, 2, 3)),
        "both_first_graph": ("off", (1,)),
        "both_second_graph": ("off", (2,)),
        "both_third_graph": ("off", (3,)),
    }


def test_other_sweeps_never_change_a_verdict(claims: Claims, planted: MemoryStore) -> None:
    """The family is the file: a claim without runs counts as p = 1 before and after it has some."""
    before = judged(claims, planted)
    tests = len(claims.accuracy)
    weakest = max(one.p for one in before.results if one.p is not None)
    assert tests == 4 and len([one for one in before.results if one.p is None]) == 1
    alone = claims.model_copy(update={"claims": {"helps": claims.claims["helps"]}})
    (one,) = judged(alone, planted).results
    assert before.results[0].p == pytest.approx(tests * (one.p or 0)) and weakest < 0.05


def test_a_gain_over_another_gain(tmp_path: Path, planted: MemoryStore) -> None:
    path = tmp_path / "gains.yaml"
    path.write_text(CLAIMS.replace("[[both, control]]", "[[both, temporal, spatial, control]]"))
    helps = judged(read_claims(path), planted).results[0]
    (pair,) = helps.pairs
    assert pair.name == "(both − temporal) − (spatial − control)"
    means = {
        name: sum(100 * sum(planted_right(planted, name, seed)) / 200 for seed in range(4)) / 4
        for name in ("both", "temporal", "spatial", "control")
    }
    expected = means["both"] - means["temporal"] - means["spatial"] + means["control"]
    assert pair.estimate.mean == pytest.approx(expected)


def planted_right(store: MemoryStore, arm: str, seed: int) -> list[int]:
    rows = store.texts[f"run-{arm}-{seed}-0"].splitlines()[1:]
    return [int(row.split(",")[3]) for row in rows]


def test_too_few_replicates_name_the_command(claims: Claims, store: MemoryStore) -> None:
    for arm in ("both", "control"):
        for seed in range(2):
            store.trial(arm, seed, [1, 0] * 10 if arm == "both" else [1, 0, 0, 0] * 5)
    result = judged(claims, store).results[0]
    assert (result.verdict, result.p, result.more) == ("inconclusive", None, 2)
    assert result.reason.startswith("2 of 4 replicates; run: cmkd sweep")
    assert result.reason.endswith("--data made-up --seeds 4")
    assert result.pairs[0].estimate.interval() is None
