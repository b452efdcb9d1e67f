"""The RGB teachers behind the students of a table: one per half and fold."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from cmkd.config.sweep import Arm
from cmkd.config.training import BackboneName
from cmkd.errors import InputError
from cmkd.report.paper.arms import distils, half_of
from cmkd.report.paper.published import Half
from cmkd.report.store.runs import metric, number, one_value, tag
from cmkd.tracking.reader import RunReader
from cmkd.tracking.records import RunRecord


@dataclass(frozen=True)
class Teacher:
    """The RGB teacher of one fold; accuracies in [0, 100].

    What follows `backbone` is None where its run is not in the store.
    """

    teacher_id: str
    backbone: BackboneName
    run_id: str | None
    experiment_id: str | None
    commit: str | None
    selected: float | None
    last: float | None


def teachers_of(
    store: RunReader, runs: Sequence[RunRecord], arms: Mapping[str, Arm]
) -> dict[Half, dict[int, Teacher]]:
    """The teacher that taught the students among `runs`, by half and fold.

    Args:
        arms: by setting id.

    Raises:
        InputError: students of one half and fold had different teachers, or a teacher has two
            runs; the message names them and the remedy.
    """
    groups: dict[tuple[Half, int], list[RunRecord]] = {}
    for run in runs:
        setting = arms[tag(run, "setting_id")].setting
        if distils(setting):
            groups.setdefault((half_of(setting), number(run, "fold")), []).append(run)
    finished = [run for run in store.find({"kind": "teacher"}) if run.status == "FINISHED"]
    teachers: dict[Half, dict[int, Teacher]] = {}
    for (half, fold), group in sorted(groups.items()):
        remedy = (
            f"the {half} half of a table compares arms under one teacher: delete the older runs, "
            "or split the sweep"
        )
        teacher_id = one_value(group, "teacher", remedy)
        backbone = arms[tag(group[0], "setting_id")].setting.teacher.backbone
        teachers.setdefault(half, {})[fold] = _teacher(finished, teacher_id, backbone)
    return teachers


def _teacher(runs: Sequence[RunRecord], teacher_id: str, backbone: BackboneName) -> Teacher:
    found = [run for run in runs if teacher_id in (run.trial_id, run.tags.get("teacher"))]
    if not found:
        return Teacher(teacher_id, backbone, None, None, None, None, None)
    if len(found) > 1:
        ids = ", ".join(sorted(run.run_id for run in found))
        raise InputError(f"teacher {teacher_id} has several runs: {ids}; delete all but one")
    run = found[0]
    return Teacher(
        teacher_id,
        backbone,
        run.run_id,
        run.experiment_id,
        run.tags.get("git_commit", "unknown"),
        metric(run, "test_acc"),
        metric(run, "test_acc_last") if "test_acc_last" in run.metrics else None,
    )
