"""A store in memory, filled with made-up runs whose accuracies can be computed by hand."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path

import pytest

from cmkd.config.sweep import Sweep, load_sweep
from cmkd.errors import InfrastructureError
from cmkd.tracking.store import (
    EpochRecord,
    History,
    RunEnding,
    RunIdentity,
    RunReader,
    RunRecord,
    RunStatus,
)

SPEC = """
name: ablation
description: made up
data: made-up
seeds: 3
base: {method.lambda_1: 0.1, method.lambda_2: 1.0, teacher.backbone: tiny_tdn}
blocks:
  baseline: {method.decoder: [false], method.lambda_1: [0.0], method.lambda_2: [0.0]}
  control: {method.lambda_1: [0.0], method.lambda_2: [0.0]}
  spatial: {method.lambda_2: [0.0]}
  temporal: {method.lambda_1: [0.0]}
  both: {method.lambda_1: [0.1]}
"""


class MemoryStore(RunReader):
    """The reading half of a `RunStore`."""

    def __init__(self, sweep: Sweep) -> None:
        self.sweep = sweep
        self.runs: list[RunRecord] = []
        self.texts: dict[str, str] = {}
        self.insides: dict[str, str] = {}
        self.logged: dict[str, dict[str, History]] = {}
        self.down_when_asked_for: str | None = None

    def trial(
        self,
        arm: str,
        seed: int,
        right: Sequence[int],
        *,
        last: Sequence[int] | None = None,
        ranks: Sequence[int] | None = None,
        fold: int = 0,
        groups: Sequence[str] = (),
        status: RunStatus = "FINISHED",
        tags: Mapping[str, str] | None = None,
        metrics: Mapping[str, float] | None = None,
    ) -> str:
        """Add a trial that got clip i of its fold right where right[i] is 1; returns its run id.

        Args:
            ranks: of the right classes; None: of a run that kept no scores.
        """
        last = right if last is None else last
        run_id = f"run-{arm}-{seed}-{fold}"
        run_id += "".join(f"-{one}" for one in (tags or {}).values())
        rows = [
            f"f{fold}/{i:04d},{groups[i] if groups else ''},1,{selected},{at_end}"
            for i, (selected, at_end) in enumerate(zip(right, last, strict=True))
        ]
        header = "clip,group,label,selected,last"
        if ranks is not None:
            header += ",rank"
            rows = [f"{row},{rank}" for row, rank in zip(rows, ranks, strict=True)]
        self.texts[run_id] = "\r\n".join([header, *rows]) + "\r\n"
        base = {
            "kind": "trial",
            "arm": arm,
            "setting_id": self.sweep.only([arm]).arms[0].setting.id,
            "seed": str(seed),
            "fold": str(fold),
            "data": "made-up",
            "data_id": "d1",
            "data_kind": "embedded",
            "teacher": f"teacher-{fold}",
            "selection": "best validation",
            "git_commit": "c0ffee",
        }
        accuracies = {
            "test_acc": 100 * sum(right) / len(right),
            "test_acc_last": 100 * sum(last) / len(last),
        }
        if ranks is not None:
            accuracies["test_top5"] = 100 * sum(rank <= 5 for rank in ranks) / len(ranks)
        self.runs.append(
            RunRecord(
                run_id=run_id,
                trial_id=f"trial-{run_id}",
                status=status,
                tags={**base, **(tags or {})},
                params={},
                metrics={**accuracies, **(metrics or {})},
            )
        )
        return run_id

    def teacher(
        self, fold: int, accuracy: float, *, commit: str = "c0ffee", top5: float | None = None
    ) -> None:
        """Add the finished run of the teacher of `fold`."""
        ranked = {} if top5 is None else {"test_top5": top5}
        self.runs.append(
            RunRecord(
                run_id=f"run-teacher-{fold}",
                trial_id=f"teacher-{fold}",
                status="FINISHED",
                tags={
                    "kind": "teacher",
                    "fold": str(fold),
                    "data": "made-up",
                    "data_id": "d1",
                    "git_commit": commit,
                },
                params={},
                metrics={"test_acc": accuracy, "test_acc_last": accuracy, **ranked},
            )
        )

    def find(self, tags: Mapping[str, str]) -> Sequence[RunRecord]:
        if self.down_when_asked_for is not None and self.down_when_asked_for in tags:
            raise InfrastructureError("tracking store: it does not answer")
        return [run for run in self.runs if tags.items() <= run.tags.items()]

    def read_text(self, run_id: str, name: str) -> str:
        texts = {"predictions.csv": self.texts, "inside.json": self.insides}[name]
        if run_id not in texts:
            raise InfrastructureError("tracking store: no such artifact")
        return texts[run_id]

    def histories(self, run_ids: Sequence[str], name: str) -> Mapping[str, History]:
        logged = self.logged.get(name, {})
        return {run_id: logged[run_id] for run_id in run_ids if run_id in logged}

    def params(self, run_ids: Sequence[str]) -> Mapping[str, Mapping[str, str]]:
        return {run.run_id: run.params for run in self.runs if run.run_id in run_ids}

    def open(self, identity: RunIdentity, artifacts: Mapping[str, str]) -> str:
        raise AssertionError("a report never writes to the store")

    def log(self, run_id: str, epochs: Iterable[EpochRecord]) -> None:
        raise AssertionError("a report never writes to the store")

    def close(self, run_id: str, ending: RunEnding) -> None:
        raise AssertionError("a report never writes to the store")


def first_right(count: int, total: int = 10) -> list[int]:
    """`count` right answers, then wrong ones."""
    return [1] * count + [0] * (total - count)


@pytest.fixture
def make_sweep(tmp_path: Path) -> Callable[[str], Sweep]:
    """The five arms of Table 4, with the given lines of YAML as further blocks."""

    def make(more: str = "") -> Sweep:
        path = tmp_path / "made_up.yaml"
        path.write_text(SPEC + more)
        return load_sweep(str(path))

    return make


@pytest.fixture
def store(make_sweep: Callable[[str], Sweep]) -> MemoryStore:
    """An empty store for the five arms."""
    return MemoryStore(make_sweep(""))


@pytest.fixture
def full_store(store: MemoryStore) -> MemoryStore:
    """Three seeds of every arm on ten clips, and the teacher at 90 %."""
    right = {
        "baseline": (5, 6, 4),
        "control": (5, 6, 5),
        "spatial": (7, 8, 8),
        "temporal": (6, 6, 5),
        "both": (8, 8, 9),
    }
    for arm, counts in right.items():
        for seed, count in enumerate(counts):
            store.trial(arm, seed, first_right(count), last=first_right(count - 1))
    store.teacher(0, 90.0)
    return store
