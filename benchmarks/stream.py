"""``python -m benchmarks.stream FOLDER``: training on as many clips as Kinetics-400 has.

They are links to the clips of a prepared data set in FOLDER. A tiny network reads inputs of full
size; printed are the times to a plan and to the first step, memory and disk.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from benchmarks.servers import resident_mebibytes
from cmkd.config.data import SplitConfig, ViewsConfig
from cmkd.config.sweep import load_sweep
from cmkd.data.dataset import Dataset, read_folder, write_dataset
from cmkd.sweep.plan import SweepRequest, build_plan
from cmkd.training.loop import StepResult
from cmkd.training.runtime import configure
from cmkd.training.student import Batch, StudentLearner
from cmkd.training.trial import TrialRun

LENGTH = 240_000
WARM = 20
"""Steps after which memory has settled."""
SPEC = """\
name: long
description: a tiny network on inputs of full size
preset: tsm-k400
seeds: 1
base:
  inputs.views: fresh
  inputs.loaders: 1
  teacher.features: online
  training.batch_size: 2
  training.precision: fp32
blocks:
  baseline:
    student.backbone: [tiny_tsm]
    teacher.backbone: [tiny_tsm]
    method.decoder: [false]
    method.lambda_1: [0.0]
    method.lambda_2: [0.0]
"""


@dataclass(frozen=True)
class Footprint:
    """MiB of the process that trains and of all that decode, and bytes on disk, after a step."""

    moment: float
    training: float
    decoding: float
    disk: int


def long_list(source: Dataset, root: Path, length: int) -> Dataset:
    """A data set of `length` clips, linked to those of `source` in turn; one in 100 is tested."""
    clips = []
    for number in range(length):
        clip = source.clips[number % len(source.clips)]
        path = f"{number // 1000}/{number}.mp4"
        (root / path).parent.mkdir(parents=True, exist_ok=True)
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


def report(source: Path, folder: Path, steps: int, length: int = LENGTH) -> list[str]:
    """Lines on a trial that ends after so many steps of its first epoch; `folder` is empty."""
    configure(threads=1)
    long_list(read_folder(source), folder / "data", length)
    (folder / "long.yaml").write_text(SPEC)
    cache = folder / "cache"
    started = time.perf_counter()
    dataset = read_folder(folder / "data")
    sweep = load_sweep(str(folder / "long.yaml"))
    request = SweepRequest(sweep, str(folder / "data"), seeds=1, workers=1, cache=cache)
    (planned,) = build_plan(request, dataset, ()).trials
    plan = time.perf_counter() - started
    opened = time.perf_counter()
    learner = TrialRun(planned.config, cache, device="cpu").learner
    assert isinstance(learner, StudentLearner)
    seen = _steps(learner, cache, steps)
    first, early, late = seen[0], seen[min(WARM, steps - 1)], seen[-1]
    return [
        f"  a plan of {length} clips: {plan:.1f} s, the first step {first.moment - opened:.1f} s",
        f"  {steps} steps of 2 clips: {late.moment - first.moment:.0f} s",
        f"  MiB after {WARM} steps and after all: trains {early.training:.0f}, "
        f"{late.training:.0f}; decodes {early.decoding:.0f}, {late.decoding:.0f}",
        f"  MiB on disk besides the clips: {early.disk / 2**20:.1f}, {late.disk / 2**20:.1f}",
    ]


class _EnoughError(Exception):
    """All steps are done."""


def _steps(learner: StudentLearner, cache: Path, steps: int) -> list[Footprint]:
    seen: list[Footprint] = []
    step = learner.batch_loss

    def noted(batch: Batch) -> StepResult:
        result = step(batch)
        own = [process.pid for process in multiprocessing.active_children() if process.pid]
        is_shown = len(seen) in (0, WARM, steps - 1)
        seen.append(
            Footprint(
                time.perf_counter(),
                resident_mebibytes(os.getpid()) if is_shown else 0.0,
                sum(map(resident_mebibytes, own)) if is_shown else 0.0,
                _bytes_in(cache) if is_shown else 0,
            )
        )
        if len(seen) == steps:
            raise _EnoughError
        return result

    learner.batch_loss = noted  # type: ignore[method-assign]
    try:
        learner.train_epoch()
    except _EnoughError:
        pass
    return seen


def _bytes_in(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def main(arguments: Sequence[str] | None = None) -> None:
    """Print the figures."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.stream", description=__doc__)
    parser.add_argument("source", type=Path, help="prepared data set, 224 pixels or more a side")
    parser.add_argument("--steps", type=int, default=2000)
    parser.add_argument("--length", type=int, default=LENGTH, help="clips")
    chosen = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory(prefix="cmkd-stream-") as folder:
        print("\n".join(report(chosen.source, Path(folder), chosen.steps, chosen.length)))


if __name__ == "__main__":
    main()
