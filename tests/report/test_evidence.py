from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

from cmkd.config.sweep import Sweep
from cmkd.errors import InfrastructureError, InputError
from cmkd.report.evidence import Trial, collect
from cmkd.report.tables import score_of_teachers
from cmkd.report.text import teacher_text

if TYPE_CHECKING:
    from conftest import MemoryStore

RIGHT = [1, 0, 1, 1]

TDN = """
  tdn_spatial: {student.backbone: [tiny_tdn], method.lambda_2: [0.0]}
  tdn_both: {student.backbone: [tiny_tdn]}
"""


def test_what_is_gathered(full_store: MemoryStore) -> None:
    full_store.trial("both", 3, RIGHT, status="RUNNING")
    found = collect(full_store, full_store.sweep, "made-up")
    assert (found.data, found.data_id, found.data_kind) == ("made-up", "d1", "embedded")
    assert (found.selection, found.commits) == ("best validation", ("c0ffee",))
    assert (found.folds, found.fold_count, found.seeds) == ((0,), None, (0, 1, 2, 3))
    assert [trial.run_id for trial in found.trials[:4]] == [
        "run-baseline-0-0",
        "run-baseline-1-0",
        "run-baseline-2-0",
        "run-control-0-0",
    ]
    assert len(found.trials) == 15
    assert dict(found.unfinished) == {"RUNNING": 1}
    teacher = found.teachers["TSM"][0][0]
    assert (teacher.teacher_id, teacher.selected, teacher.last) == ("teacher-0", 90.0, 90.0)
    assert teacher.backbone == "tiny_tdn"
    assert (teacher.run_id, teacher.commit) == ("run-teacher-0", "c0ffee")


def test_order_of_the_store_does_not_matter(full_store: MemoryStore) -> None:
    once = [t.run_id for t in collect(full_store, full_store.sweep, "made-up").trials]
    full_store.runs.reverse()
    assert [t.run_id for t in collect(full_store, full_store.sweep, "made-up").trials] == once


def test_a_setting_of_another_sweep_is_not_a_row(full_store: MemoryStore) -> None:
    full_store.trial("both", 9, RIGHT, tags={"setting_id": "with-logits"})
    found = collect(full_store, full_store.sweep, "made-up")
    assert 9 not in found.seeds
    assert len(found.trials) == 15


def test_another_data_set_is_left_alone(full_store: MemoryStore) -> None:
    full_store.trial("both", 9, RIGHT, tags={"data": "other", "data_id": "d2"})
    assert collect(full_store, full_store.sweep, "made-up").seeds == (0, 1, 2)
    assert collect(full_store, full_store.sweep, "other").seeds == (9,)


def test_number_of_folds_comes_from_the_runs(store: MemoryStore) -> None:
    store.trial("control", 0, RIGHT, fold=1, tags={"folds": "4"})
    found = collect(store, store.sweep, "made-up")
    assert (found.folds, found.fold_count) == ((1,), 4)


def test_nothing_there_says_what_to_run(store: MemoryStore) -> None:
    with pytest.raises(InputError, match="run: cmkd sweep ablation --data made-up$"):
        collect(store, store.sweep, "made-up")
    store.trial("control", 0, RIGHT, status="FAILED")
    with pytest.raises(InputError, match="no finished trial"):
        collect(store, store.sweep, "made-up")
    store.trial("control", 1, RIGHT)
    with pytest.raises(InputError, match="run: cmkd sweep my.yaml$"):
        collect(store, store.sweep, "egogestar", command="cmkd sweep my.yaml")
    with pytest.raises(InputError, match="it has finished trials on: made-up"):
        collect(store, store.sweep, "egogestar")


@pytest.mark.parametrize("tag", ["data_id", "data_kind", "selection"])
def test_mixed_runs_are_refused_by_name(full_store: MemoryStore, tag: str) -> None:
    odd = full_store.trial("both", 7, RIGHT, tags={tag: "odd"})
    with pytest.raises(InputError, match=f"mix values of {tag}.*'odd' in {odd}"):
        collect(full_store, full_store.sweep, "made-up")


def test_one_of_two_data_versions_can_be_chosen_by_id(full_store: MemoryStore) -> None:
    full_store.trial("both", 7, RIGHT, tags={"data_id": "d2"})
    with pytest.raises(InputError, match="by its id: --data ID"):
        collect(full_store, full_store.sweep, "made-up")
    assert collect(full_store, full_store.sweep, "d2").seeds == (7,)
    assert collect(full_store, full_store.sweep, "d1").seeds == (0, 1, 2)


def test_two_teachers_of_one_fold_are_refused(store: MemoryStore) -> None:
    store.trial("spatial", 0, RIGHT)
    store.trial("both", 0, RIGHT, fold=1)
    assert sorted(collect(store, store.sweep, "made-up").teachers["TSM"][0]) == [0, 1]
    odd = store.trial("both", 0, RIGHT, tags={"teacher": "odd"})
    with pytest.raises(InputError, match=f"mix values of teacher: 'odd' in {odd}.*split the sweep"):
        collect(store, store.sweep, "made-up")


def test_an_untrained_teacher_is_no_second_teacher_of_its_replicate(
    make_sweep: Callable[[str], Sweep], store: MemoryStore
) -> None:
    store.sweep = make_sweep(
        "  untrained: {method.lambda_1: [0.1], method.lambda_2: [0.0],"
        " teacher.untrained: [true], teacher.training.epochs: [0]}\n"
    )
    store.trial("spatial", 0, RIGHT)
    store.trial("untrained", 0, RIGHT, tags={"teacher": "random"})
    found = collect(store, store.sweep, "made-up")
    assert found.teachers["TSM"][0][0].teacher_id == "teacher-0"
    assert len(found.trials) == 2


def test_replicates_may_have_a_teacher_each(full_store: MemoryStore) -> None:
    for seed, accuracy in ((0, 80.0), (1, 84.0), (2, 88.0)):
        for arm in ("spatial", "temporal", "both"):
            name = f"run-{arm}-{seed}-0"
            at = next(i for i, run in enumerate(full_store.runs) if run.run_id == name)
            run = full_store.runs[at]
            full_store.runs[at] = replace(run, tags={**run.tags, "teacher": f"teacher-s{seed}"})
        full_store.teacher(0, accuracy)
        last = full_store.runs[-1]
        full_store.runs[-1] = replace(
            last, trial_id=f"teacher-s{seed}", run_id=f"run-teacher-s{seed}"
        )
    evidence = collect(full_store, full_store.sweep, "made-up")
    score = score_of_teachers(evidence, "TSM", "selected")
    assert score.per_seed == (80.0, 84.0, 88.0)
    assert (score.mean, score.sd) == (84.0, 4.0)
    assert teacher_text(score) == "84.0 ± 4.0 (3 trainings)"


def test_every_half_has_a_teacher_of_its_own(
    make_sweep: Callable[[str], Sweep], store: MemoryStore
) -> None:
    store.sweep = make_sweep(TDN)
    store.trial("both", 0, RIGHT)
    store.trial("tdn_both", 0, RIGHT, tags={"teacher": "other"})
    teachers = collect(store, store.sweep, "made-up").teachers
    found = {
        (family, fold): one.teacher_id
        for family in teachers
        for fold, one in teachers[family][0].items()
    }
    assert found == {("TSM", 0): "teacher-0", ("TDN", 0): "other"}
    odd = store.trial("tdn_spatial", 0, RIGHT, tags={"teacher": "odd"})
    with pytest.raises(InputError, match=f"mix values of teacher: 'odd' in {odd}"):
        collect(store, store.sweep, "made-up")


def test_trials_that_sweeps_share_are_read_once(full_store: MemoryStore) -> None:
    known: dict[str, Trial] = {}
    first = collect(full_store, full_store.sweep, "made-up", known=known)
    full_store.texts.clear()
    again = collect(full_store, full_store.sweep, "made-up", known=known)
    assert again == first
    assert all(one.predictions.clips is first.trials[0].predictions.clips for one in first.trials)


def test_arms_without_kd_have_no_teacher(store: MemoryStore) -> None:
    store.trial("control", 0, RIGHT)
    store.trial("baseline", 0, RIGHT, tags={"teacher": "odd"})
    assert collect(store, store.sweep, "made-up").teachers == {}


def test_the_svm_has_no_teacher_whatever_its_lambdas(
    make_sweep: Callable[[str], Sweep], store: MemoryStore
) -> None:
    store.sweep = make_sweep("  motion_svm: {model: [motion_svm]}\n")
    store.trial("motion_svm", 0, RIGHT)
    assert collect(store, store.sweep, "made-up").teachers == {}


def test_a_teacher_without_its_run_has_no_accuracy(store: MemoryStore) -> None:
    store.trial("spatial", 0, RIGHT)
    assert collect(store, store.sweep, "made-up").teachers["TSM"][0][0].selected is None


def test_two_runs_of_one_trial_are_refused(store: MemoryStore) -> None:
    store.trial("control", 0, RIGHT)
    store.trial("control", 0, RIGHT, tags={"git_commit": "later"})
    with pytest.raises(InputError, match="run-control-0-0 and run-control-0-0-later are the same"):
        collect(store, store.sweep, "made-up")


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -1.0, 101.0])
@pytest.mark.parametrize("name", ["test_acc", "test_acc_last"])
def test_metrics_that_are_no_accuracy_are_refused(
    store: MemoryStore, name: str, value: float
) -> None:
    run_id = store.trial("control", 0, RIGHT, metrics={name: value})
    with pytest.raises(InputError, match=f"run {run_id}: metric {name} is {value}"):
        collect(store, store.sweep, "made-up")


def test_a_missing_metric_is_refused(store: MemoryStore) -> None:
    store.trial("control", 0, RIGHT)
    store.runs[0] = replace(store.runs[0], metrics={"test_acc": 75.0})
    with pytest.raises(InputError, match="metric test_acc_last is nan"):
        collect(store, store.sweep, "made-up")


def test_lost_predictions_name_the_run_and_the_remedy(store: MemoryStore) -> None:
    run_id = store.trial("control", 0, RIGHT)
    del store.texts[run_id]
    command = "cmkd sweep my.yaml --data made-up"
    with pytest.raises(InputError, match=f"run {run_id} .*no such artifact.*: {command}$"):
        collect(store, store.sweep, "made-up", command=command)


def test_a_store_that_died_is_no_lost_file(store: MemoryStore) -> None:
    del store.texts[store.trial("control", 0, RIGHT)]
    store.down_when_asked_for = "trial_id"
    with pytest.raises(InfrastructureError, match="does not answer"):
        collect(store, store.sweep, "made-up")


def test_metric_and_predictions_must_agree(store: MemoryStore) -> None:
    store.trial("control", 0, RIGHT, metrics={"test_acc": 80.0})
    with pytest.raises(InputError, match=r"test_acc is 80.0, but its predictions.csv gives 75.0"):
        collect(store, store.sweep, "made-up")


def test_top5_and_ranks_must_agree(store: MemoryStore) -> None:
    store.trial("control", 0, RIGHT, ranks=[1, 5, 1, 1], metrics={"test_top5": 75.0})
    with pytest.raises(InputError, match=r"test_top5 is 75.0, but its predictions.csv gives 100.0"):
        collect(store, store.sweep, "made-up")
    store.runs[0] = replace(store.runs[0], metrics={"test_acc": 75.0, "test_acc_last": 75.0})
    with pytest.raises(InputError, match="metric test_top5 is nan"):
        collect(store, store.sweep, "made-up")


def test_trials_must_share_their_test_clips(store: MemoryStore) -> None:
    store.trial("control", 0, [1, 0, 1, 1])
    store.trial("control", 1, [1, 0, 1])
    with pytest.raises(InputError, match="run-control-0-0 and run-control-1-0 .* different clips"):
        collect(store, store.sweep, "made-up")


@pytest.mark.parametrize(("tag", "value"), [("seed", ""), ("seed", "-1"), ("fold", "one")])
def test_tags_must_be_there_and_make_sense(store: MemoryStore, tag: str, value: str) -> None:
    store.trial("control", 0, RIGHT, tags={tag: value})
    with pytest.raises(InputError, match=f"run run-control-0-0.*{tag}"):
        collect(store, store.sweep, "made-up")
