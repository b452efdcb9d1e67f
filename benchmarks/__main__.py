"""``python -m benchmarks``: print every figure once, as shares and ratios of this run."""

from __future__ import annotations

import tempfile
from pathlib import Path

from benchmarks import reader
from benchmarks.loaders import measure_loaders
from benchmarks.naive import measure_naive
from benchmarks.plain import measure_plain
from benchmarks.planning import measure_planning
from benchmarks.prepare import measure_prepare
from benchmarks.report import measure_reports, measure_results
from benchmarks.step import measure_steps
from benchmarks.sweep import SweepFigures, measure_sweep
from benchmarks.tracking import SLOW_SECONDS, measure_servers, measure_tracking

TRIAL_STEPS = 20 * 19
KD_PARTS = ("data", "forward", "losses", "backward", "optimiser")


def main() -> None:
    """Measure in a cache of its own, so that nothing is found ready."""
    with tempfile.TemporaryDirectory(prefix="cmkd-bench-") as name:
        folder = Path(name)
        steps = measure_steps(folder / "cache")
        _print_steps(steps)
        _print_tracking(measure_tracking(folder), steps)
        _print_sweep(measure_sweep(folder / "cache", folder))
        _print_servers(folder)
        _print_planning()
        _print_naive(folder)
        _print_plain(folder)
        _print_prepare(folder)
        _print_reader(folder)
        _print_loaders(folder)
        _print_reports(folder)


def _print_steps(steps: dict[str, dict[str, float]]) -> None:
    print("One training step, batch 32, one thread (share of the step)")
    for arm in ("baseline", "both KD terms"):
        parts = steps[arm]
        total = sum(parts.values())
        shares = "  ".join(f"{part} {100 * parts[part] / total:.1f} %" for part in KD_PARTS)
        print(f"  {arm:14s} {1000 * total:7.1f} ms   {shares}")
    whole = sum(steps["both KD terms"].values())
    teacher = steps["teacher"]["forward"]
    print(f"  teacher in the loop instead of cached features: x {(whole + teacher) / whole:.2f}")


def _print_tracking(seconds: float, steps: dict[str, dict[str, float]]) -> None:
    trial = TRIAL_STEPS * sum(steps["both KD terms"].values())
    print("One trial of Table 4 on the embedded set: 20 epochs of 19 steps")
    print(f"  training steps {trial:.1f} s, both KD terms")
    print(f"  tracking {seconds:.2f} s, {100 * seconds / trial:.2f} % (a thread of the driver)")


def _print_sweep(sweep: SweepFigures) -> None:
    beside = sweep.trial_wall * sweep.workers - sweep.train
    print(f"A sweep of {sweep.trials} trials on {sweep.workers} workers, from the command line")
    print(f"  wall {sweep.wall:.1f} s, of it trials {sweep.trial_wall:.1f} s")
    print(f"  efficiency, training steps / (wall of trials x workers): {sweep.efficiency:.3f}")
    print(f"  validation and checkpoints: {100 * (sweep.train - sweep.step) / sweep.train:.1f} %")
    print(f"  orchestration, tracking and testing per trial: {beside / sweep.trials:.2f} s")
    print(f"  start-up before the first trial: {sweep.wall - sweep.trial_wall:.1f} s")
    print(f"  the same command again, nothing to train: {sweep.repeat:.1f} s")


def _print_servers(folder: Path) -> None:
    fast, slow = measure_servers(folder / "cache", folder)
    print(f"The same sweep on a tracking server that takes {SLOW_SECONDS:g} s for every request")
    print(f"  an epoch: x {slow.epoch / fast.epoch:.2f} of that with a server that takes none")
    print(f"  requests per trial: {slow.requests:.0f}, with the fast one {fast.requests:.0f}")
    print(f"  after the last trial: {slow.drain:.1f} s, with the fast one {fast.drain:.1f} s")
    print(f"  which is 2 % of a sweep of {(slow.drain - fast.drain) / 0.02 / 60:.0f} min")


def _print_planning() -> None:
    plan = measure_planning()
    print(f"Expanding and planning {plan.trials} trials")
    print(f"  {plan.seconds:.1f} s, of it CPU {plan.cpu_seconds:.1f} s; {plan.mebibytes:.0f} MiB")


def _print_naive(folder: Path) -> None:
    place = folder / "naive"
    place.mkdir()
    naive = measure_naive(folder / "cache", place)
    print(f"{naive.trials} short trials, beside Ray Tune as its documentation has it")
    print(f"  ours {naive.ours:.1f} s, theirs {naive.naive:.1f} s: x {naive.ratio:.1f}")


def _print_plain(folder: Path) -> None:
    place = folder / "plain"
    place.mkdir()
    costs = measure_plain(folder / "cache", place)
    print("Four short trials, beside the same trials in a plain loop and by joblib, with MLflow")
    for way, cost in costs.items():
        ratio = cost.cpu / costs["loop"].cpu
        print(f"  {way:7s} CPU {cost.cpu:.1f} s, x {ratio:.2f} of the loop; wall {cost.wall:.1f} s")


def _print_prepare(folder: Path) -> None:
    place = folder / "prepare"
    place.mkdir()
    print("Preparing six real clips, in one process on one thread, beside the program ffmpeg")
    made = measure_prepare(place)
    if isinstance(made, str):
        print(f"  skipped: {made}")
        return
    print(f"  ours {made.ours:.2f} s of CPU, ffmpeg {made.ffmpeg:.2f} s")
    print(f"  CPU x {made.cpu_ratio:.2f}, wall x {made.wall_ratio:.2f} of ffmpeg's")


def _print_reader(folder: Path) -> None:
    place = folder / "reader"
    place.mkdir()
    print(reader.TITLE)
    print("\n".join(reader.report(place)))


def _print_loaders(folder: Path) -> None:
    print(
        "Clips of 8 frames that processes decode, 320x256, beside one process that does it itself"
    )
    found = measure_loaders(folder / "loaders")
    if isinstance(found, str):
        print(f"  skipped: {found}")
        return
    print(f"  itself {found.rates[0]:.1f} clips/s")
    for count, rate in found.rates.items():
        if count:
            ratio = found.ratios[count] / count
            print(f"  {count} processes {rate:.1f} clips/s, x {ratio:.2f} of {count} readers")
    for taken, share in found.waiting.items():
        print(f"  a device that takes {taken} clips/s waits {100 * share:.1f} % of its time")


def _print_reports(folder: Path) -> None:
    print("Reports on a store of made-up runs of 50 epochs")
    for name, cost in measure_reports(folder / "reports").items():
        seconds = f"{cost.seconds:.1f} s, of it CPU {cost.cpu_seconds:.1f} s"
        print(f"  {name}, {cost.runs} runs: {seconds}; {cost.mib:.0f} MiB")
    for name, (rows, seconds) in measure_results(folder / "results").items():
        print(f"  cmkd.results.{name}: {rows} rows, {seconds:.2f} s of CPU")


if __name__ == "__main__":
    main()
