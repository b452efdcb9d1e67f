"""How fast clips are read, beside other ways on the same files; ``python -m benchmarks.reader``.

The files are real clips as `cmkd.data.reencode` writes them: 320 x 256, a GOP of 12. All
ways run in this process on one thread and take turns, clip by clip; times are CPU times, of each
clip and way the least of its rounds, to which other work on the machine adds least. A figure is
the median over the clips of the ratio of two ways on one clip.

Two things are measured, with two meanings of a frame:

- *Every frame of a file* as the decoder gives it. A frame is one of the file. Ours: planes of
  every I-frame; vectors, decoded planes and planes without residual of every P-frame. Beside it
  ``motion-vector-extractor`` (vectors and a BGR picture of every frame, no residual), and the bound
  that two bare decodes set, one as usual and one without residuals, of which nothing is looked at.
- *A trial's clip*: I-frames, accumulated motion and residuals of T sampled positions, and the
  teacher's frames at them, as arrays. Beside it the bound of two bare decodes of the frames that
  this needs; ``motion-vector-extractor`` going through as many frames; PyAV going from the first
  frame to the last sampled one, with ``to_ndarray("rgb24")`` of every frame, and of the sampled
  ones alone.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import cycle, islice
from pathlib import Path
from typing import NamedTuple

import av
import numpy as np
from av.video.codeccontext import VideoCodecContext
from av.video.reformatter import VideoReformatter

from benchmarks.prepare import CLIPS
from cmkd.config.data import EncodingConfig, InputConfig, ReaderConfig
from cmkd.data.clip import read_clip
from cmkd.data.mpeg4 import decode_plan, open_mpeg4
from cmkd.data.reencode import reencode
from cmkd.data.sampling import sample_clip

ROUNDS = 5
"""Of every clip and way."""
TITLE = "Reading clips of 320x256, GOP 12, on one thread; x 2 is twice as fast as the other way"
TRIALS = {
    "T = 8": InputConfig(num_frames=8),
    "T = 16 in 4 GOPs": InputConfig(num_frames=16, num_gops=4),
}
"""Inputs of a trial's clip."""
GESTURES = 8
"""Clips of EgoGestAR, evenly spread."""
FEW_READS = 1000
"""Clips that `make bench` reads to watch memory; 10,000 take ten times as long."""
PAGE = os.sysconf("SC_PAGE_SIZE")


@dataclass(frozen=True)
class TrialFigures:
    """Ratios of CPU times of another way and ours for a clip's sampled positions.

    Attributes:
        ms: of ours per clip, mean.
        decoded: share of the file's frames that ours decodes, mean.
        bound: two bare decodes of those frames, 1 at best.
        extractor: ``motion-vector-extractor`` on as many frames; None without it.
        every: PyAV with RGB of every frame up to the last sampled one.
        sampled: PyAV with RGB of the sampled frames alone.
    """

    ms: float
    decoded: float
    bound: float
    extractor: float | None
    every: float
    sampled: float


@dataclass(frozen=True)
class ReaderFigures:
    """What was measured on some clips.

    Attributes:
        frames: of all clips.
        per_second: frames of a file that we go through in a second of CPU.
        extractor: ratio of the times of ``motion-vector-extractor`` and ours; None without it.
        bound: ratio of the times of two bare decodes and ours, 1 at best.
        bound_extractor: ratio of the times of ``motion-vector-extractor`` and two bare decodes,
            which `extractor` cannot exceed.
        trials: by the names of `TRIALS`.
    """

    clips: int
    frames: int
    per_second: float
    extractor: float | None
    bound: float
    bound_extractor: float | None
    trials: Mapping[str, TrialFigures]


@dataclass(frozen=True)
class MemoryFigures:
    """MiB that a process holds which reads clips one after the other.

    Attributes:
        early: after a tenth of the reads.
        late: after all.
        peak: at most.
    """

    reads: int
    early: float
    late: float
    peak: float


def real_clips(folder: Path) -> Mapping[str, Sequence[Path]] | str:
    """Real clips as they are prepared, by where they are from; or why there are none here."""
    beside = Path(__file__).resolve().parents[2] / "shared" / "video"
    video = Path(os.environ.get("CMKD_SHARED_VIDEO", beside))
    gestures = sorted((video / "egogestar").glob("*/*.mp4"))
    sources = {
        "UCF-101, HMDB-51, Kinetics-400": [video / "clips" / name for name in CLIPS],
        "EgoGestAR": gestures[:: max(1, len(gestures) // GESTURES)][:GESTURES],
    }
    if not all(paths and all(path.is_file() for path in paths) for paths in sources.values()):
        return f"there are no real clips at {video}"
    return {
        name: [_prepared(path, folder, number) for number, path in enumerate(paths)]
        for name, paths in sources.items()
    }


def _prepared(source: Path, folder: Path, number: int) -> Path:
    output = folder / f"{source.parent.name}-{number}.mp4"
    reencode(source, output, output.with_suffix(".json"), EncodingConfig())
    return output


def measure_reader(paths: Sequence[Path]) -> ReaderFigures:
    """Every way on every clip, in turns."""
    ways = _ways()
    times: dict[str, list[float]] = {way: [] for way in ways}
    lengths: list[int] = []
    shares: dict[str, list[float]] = {name: [] for name in TRIALS}
    for path in paths:
        with open_mpeg4(path) as video:
            kinds = list(video.kinds)
        samples = {name: _sample(kinds, inputs) for name, inputs in TRIALS.items()}
        for name, (_, needed) in samples.items():
            shares[name].append(len(needed) / len(kinds))
        lengths.append(len(kinds))
        laps: dict[str, list[float]] = {way: [] for way in ways}
        for _ in range(ROUNDS):
            for way, work in ways.items():
                started = time.process_time()
                work(path, samples)
                laps[way].append(time.process_time() - started)
        for way in ways:
            times[way].append(min(laps[way]))

    def ratio(other: str, ours: str, shares: Sequence[float] | None = None) -> float:
        pairs = zip(times[other], times[ours], shares or [1.0] * len(paths), strict=True)
        return statistics.median(share * one / own for one, own, share in pairs)

    has_extractor = "extractor" in ways
    return ReaderFigures(
        clips=len(paths),
        frames=sum(lengths),
        per_second=sum(lengths) / sum(times["planes"]),
        extractor=ratio("extractor", "planes") if has_extractor else None,
        bound=ratio("two decodes", "planes"),
        bound_extractor=ratio("extractor", "two decodes") if has_extractor else None,
        trials={
            name: TrialFigures(
                ms=1000 * statistics.fmean(times[f"trial {name}"]),
                decoded=statistics.fmean(shares[name]),
                bound=ratio(f"bound {name}", f"trial {name}"),
                extractor=ratio("extractor", f"trial {name}", shares[name])
                if has_extractor
                else None,
                every=ratio(f"every {name}", f"trial {name}"),
                sampled=ratio(f"sampled {name}", f"trial {name}"),
            )
            for name in TRIALS
        },
    )


class Sampled(NamedTuple):
    """Frames of a trial's clip: sampled positions, and all that they take to decode."""

    positions: Sequence[int]
    needed: Sequence[int]


Work = Callable[[Path, Mapping[str, Sampled]], None]
"""Gets a file, and its frames by the names of `TRIALS`."""


def _sample(kinds: Sequence[str], inputs: InputConfig) -> Sampled:
    positions = sample_clip(kinds, inputs.num_frames, inputs.num_gops).positions
    runs = decode_plan(kinds, positions)
    return Sampled(positions, [index for run in runs for index in run.frames])


def _ways() -> dict[str, Work]:
    ways: dict[str, Work] = {"planes": _planes, "two decodes": _two_decodes}
    try:
        from mvextractor.videocap import VideoCap
    except ImportError:
        pass
    else:
        ways["extractor"] = lambda path, _: _extract(VideoCap(), path)
    for name, inputs in TRIALS.items():
        reading = ReaderConfig(inputs=inputs)
        ways[f"trial {name}"] = lambda path, _, reading=reading: _drop(read_clip(path, reading))
        ways[f"bound {name}"] = lambda path, at, name=name: _bound(path, at[name].needed)
        ways[f"every {name}"] = lambda path, at, name=name: _every(path, at[name].positions[-1])
        ways[f"sampled {name}"] = lambda path, at, name=name: _sampled(path, at[name].positions)
    return ways


def _drop(_read: object) -> None:
    """What was read is let go, as a loader does after it has copied a batch."""


def _planes(path: Path, _at: Mapping[str, Sampled]) -> None:
    with open_mpeg4(path) as video:
        intra = [at for at, kind in enumerate(video.kinds) if kind == "I"]
        others = [at for at, kind in enumerate(video.kinds) if kind == "P"]
        for frame in video.frames(intra, others):
            assert frame.picture is not None and (frame.kind == "I" or frame.warped is not None)


def _two_decodes(path: Path, _at: Mapping[str, Sampled]) -> None:
    for options in ({}, {"skip_idct": "nokey"}):
        for _ in _decoded(path, options):
            pass


def _bound(path: Path, needed: Sequence[int]) -> None:
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        packets = [packet for packet in container.demux(stream) if packet.size]
        for options in ({}, {"skip_idct": "nokey"}):
            codec = VideoCodecContext.create("mpeg4", "r")
            codec.extradata, codec.thread_count = stream.codec_context.extradata, 1
            codec.options = options
            for index in needed:
                codec.decode(packets[index])
            codec.decode(None)


def _every(path: Path, last: int) -> None:
    for _, frame in zip(range(last + 1), _decoded(path, {}), strict=False):
        frame.to_ndarray(format="rgb24")


def _sampled(path: Path, positions: Sequence[int]) -> None:
    reformatter, wanted, kept = VideoReformatter(), set(positions), []
    for number, frame in zip(range(positions[-1] + 1), _decoded(path, {}), strict=False):
        if number in wanted:
            kept.append(reformatter.reformat(frame, format="rgb24").to_ndarray())
    np.stack(kept)


def _decoded(path: Path, options: dict[str, str]):  # type: ignore[no-untyped-def]
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        stream.codec_context.thread_count = 1
        stream.codec_context.options = options
        yield from container.decode(stream)


def _extract(extractor, path: Path) -> None:  # type: ignore[no-untyped-def]
    opened = extractor.open(str(path))
    assert opened, path
    while extractor.read()[0]:
        pass
    extractor.release()


def measure_memory(paths: Sequence[Path], reads: int) -> MemoryFigures:
    """Read `paths` over and over in a process of its own, which imports the reader alone."""
    command = [sys.executable, "-m", "benchmarks.reader", "--read", str(reads), *map(str, paths)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return MemoryFigures(**json.loads(done.stdout))


def _read_over_and_over(paths: Sequence[Path], reads: int) -> MemoryFigures:
    reading = ReaderConfig(inputs=TRIALS["T = 8"])
    early = peak = held = 0.0
    for number, path in enumerate(islice(cycle(paths), reads), 1):
        read_clip(path, reading, frames=False)
        held = int(Path("/proc/self/statm").read_text().split()[1]) * PAGE / 2**20
        peak = max(peak, held)
        early = held if number <= max(1, reads // 10) else early
    return MemoryFigures(reads, early, held, peak)


def lines_of(name: str, figures: ReaderFigures) -> list[str]:
    """For people."""
    extractor = "is not installed"
    if figures.extractor is not None and figures.bound_extractor is not None:
        extractor = f"x {figures.extractor:.2f} (two bare decodes: x {figures.bound_extractor:.2f})"
    rows = [
        f"  {figures.clips} clips of {name}, {figures.frames} frames",
        f"    every frame, I, vectors and residual: {figures.per_second:.0f} frames/s of CPU",
        f"      of two bare decodes: x {figures.bound:.2f}",
        f"      of motion-vector-extractor: {extractor}",
    ]
    for name, trial in figures.trials.items():
        ahead = "is not installed" if trial.extractor is None else f"x {trial.extractor:.2f}"
        rows += [
            f"    a trial's clip, {name}: {trial.ms:.0f} ms, {100 * trial.decoded:.0f} % of "
            f"the frames decoded",
            f"      of two bare decodes of these frames: x {trial.bound:.2f}",
            f"      of motion-vector-extractor on as many frames: {ahead}",
            f"      of full decoding with every frame to RGB: x {trial.every:.2f}",
            f"      of full decoding with the sampled frames to RGB: x {trial.sampled:.2f}",
        ]
    return rows


def memory_line(memory: MemoryFigures) -> str:
    """For people."""
    return (
        f"  memory while reading {memory.reads} clips, T = 8: {memory.early:.0f} MiB "
        f"after a tenth, {memory.late:.0f} after all, {memory.peak:.0f} at most"
    )


def report(folder: Path, reads: int = FEW_READS) -> list[str]:
    """All figures as lines, or the reason why there are none."""
    clips = real_clips(folder)
    if isinstance(clips, str):
        return [f"  skipped: {clips}"]
    rows = [row for name, paths in clips.items() for row in lines_of(name, measure_reader(paths))]
    every = [path for paths in clips.values() for path in paths]
    return [*rows, memory_line(measure_memory(every, reads))]


def main(arguments: Sequence[str] | None = None) -> None:
    """Print the figures, or read as the process whose memory is watched."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.reader", description=__doc__)
    parser.add_argument("--reads", type=int, default=FEW_READS, help="clips to watch memory with")
    parser.add_argument("--read", type=int, help=argparse.SUPPRESS)
    parser.add_argument("paths", nargs="*", type=Path, help=argparse.SUPPRESS)
    chosen = parser.parse_args(arguments)
    if chosen.read is not None:
        print(json.dumps(asdict(_read_over_and_over(chosen.paths, chosen.read))))
        return
    with tempfile.TemporaryDirectory(prefix="cmkd-reader-") as folder:
        print(TITLE)
        print("\n".join(report(Path(folder), chosen.reads)))


if __name__ == "__main__":
    main()
