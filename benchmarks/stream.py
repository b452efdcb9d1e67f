"""Training on as many clips as Kinetics-400 has: time to the first step, memory, disk.

They are links to the real clips of a prepared data set: `python -m benchmarks.stream FOLDER STEPS`
prints figures of a tiny network that reads inputs of full size.
"""

from __future__ import annotations

import multiprocessing
import os
import shutil
import sys
import tempfile
import time
from dataclasses import dataclass, replace
from pathlib import Path

from cmkd.config.data import SplitConfig, ViewsConfig
from cmkd.config.sweep import load_sweep
from cmkd.config.trial import Setting, TrialConfig, preset
from cmkd.data.dataset import Dataset, read_folder, write_dataset
from cmkd.sweep.plan import SweepRequest, build_plan
from cmkd.training import loop
from cmkd.training.runtime import configure
from cmkd.training.trial import TrialRun

LENGTH = 240_000
BATCH = 2
SPEC = """name: long
description: a tiny network on inputs of full size
preset: tsm-k400
seeds: 1
base: {inputs.views: fresh, inputs.loaders: 1, teacher.features: online}
blocks:
  baseline:
    student.backbone: [tiny_tsm]
    teacher.backbone: [tiny_tsm]
    method.decoder: [false]
    method.lambda_1: [0.0]
    method.lambda_2: [0.0]
"""


def long_list(source: Dataset, root: Path, length: int = LENGTH) -> Dataset:
    """A data set of `length` clips under names of their own, linked to those of `source`."""
    clips = []
    for number in range(length):
        clip = source.clips[number % len(source.clips)]
        path = f"{number // 1000}/{number}.mp4"
        if number % 1000 == 0:
            (root / path).parent.mkdir(parents=True)
        os.symlink(source.root / clip.path, root / path)
        split = "test" if number % 100 == 0 else "train"
        clips.append(replace(clip, path=path, split=split, group=""))
    update = {
        "name": "long",
        "kind": "folder",
        "official": None,
        "views": ViewsConfig(flip="horizontal", phase=True, crop=224),
        "split": SplitConfig(rule="given"),
    }
    write_dataset(root, source.info.model_copy(update=update), clips)
    return read_folder(root)


@dataclass(frozen=True)
class Figures:
    """Seconds to a plan and to the first step; resident MiB and disk bytes early and at the end."""

    plan: float
    first_step: float
    steps: int
    seconds: float
    memory: tuple[float, float]
    disk: tuple[int, int]


def resident() -> float:
    """MiB of this process and those that decode."""
    own = [process.pid or 0 for process in multiprocessing.active_children()]
    pages = [int(Path(f"/proc/{pid}/statm").read_text().split()[1]) for pid in (os.getpid(), *own)]
    return sum(pages) * os.sysconf("SC_PAGE_SIZE") / 2**20


def used(folder: Path) -> int:
    """Bytes of all files of a folder but links."""
    return sum(p.lstat().st_size for p in folder.rglob("*") if p.is_file() and not p.is_symlink())


class _Enough(Exception):
    """All steps are done."""


def measure(source: Path, folder: Path, steps: int, length: int = LENGTH) -> Figures:
    """Figures of a trial on the long list; stops after so many steps of its first epoch."""
    configure(threads=1)
    long_list(read_folder(source), folder / "data", length)
    (folder / "long.yaml").write_text(SPEC)
    cache = folder / "cache"
    started = time.perf_counter()
    dataset = read_folder(folder / "data")
    sweep = load_sweep(str(folder / "long.yaml"))
    request = SweepRequest(sweep, str(folder / "data"), 1, 1, cache)
    (planned,) = build_plan(request, dataset, (), "").trials
    plan = time.perf_counter() - started
    config = small_batches(planned.config)
    opened = time.perf_counter()
    trial = TrialRun(config, cache, device="cpu")
    learner = trial.learner
    seen: list[tuple[float, float, int]] = []
    step = learner.batch_loss  # type: ignore[union-attr]

    def counted(batch: object) -> loop.StepResult:
        result = step(batch)  # type: ignore[arg-type]
        if len(seen) in (0, 20, steps - 1):
            seen.append((time.perf_counter(), resident(), used(cache)))
        else:
            seen.append((time.perf_counter(), 0.0, 0))
        if len(seen) == steps:
            raise _Enough
        return result

    learner.batch_loss = counted  # type: ignore[union-attr, method-assign, assignment]
    try:
        trial.train_epoch()
    except _Enough:
        pass
    early = seen[min(20, steps - 1)]
    return Figures(
        plan,
        seen[0][0] - opened,
        steps,
        seen[-1][0] - seen[0][0],
        (early[1], seen[-1][1]),
        (early[2], seen[-1][2]),
    )


def small_batches(config: TrialConfig) -> TrialConfig:
    """The trial with `BATCH` clips a step in fp32."""
    training = preset("tsm-k400").training.model_copy(
        update={"batch_size": BATCH, "precision": "fp32"}
    )
    setting: Setting = config.setting.model_copy(update={"training": training})
    return config.model_copy(update={"setting": setting})


def main(source: str, steps: str) -> None:
    """Print the figures."""
    with tempfile.TemporaryDirectory() as folder:
        print(measure(Path(source), Path(folder), int(steps)))
        shutil.rmtree(Path(folder) / "data")


if __name__ == "__main__":
    main(*sys.argv[1:])
