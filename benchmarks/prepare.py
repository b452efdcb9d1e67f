"""What the preparation of real clips takes, beside the `ffmpeg` program at the same transcode."""

from __future__ import annotations

import os
import shutil
import statistics
import subprocess
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from cmkd.config.data import EncodingConfig
from cmkd.data.reencode import reencode

CLIPS = (
    "v_SoccerJuggling_g23_c01.avi",
    "mmaction2_test.avi",
    "SchoolRulesHowTheyHelpUs_wave_f_nm_np1_ba_med_0.avi",
    "RATRACE_wave_f_nm_np1_fr_goo_37.avi",
    "R6llTwEh07w.mp4",
    "mmaction2_demo.mp4",
)
"""Two each of UCF-101, HMDB-51 and Kinetics-400."""
ROUNDS = 5


@dataclass(frozen=True)
class PrepareFigures:
    """Seconds of CPU for all clips in one process on one thread, and medians of the ratios."""

    ours: float
    ffmpeg: float
    cpu_ratio: float
    wall_ratio: float


def measure_prepare(folder: Path) -> PrepareFigures | str:
    """Both in turn, clip by clip, `ROUNDS` times; or why nothing can be measured here."""
    beside = Path(__file__).resolve().parents[2] / "shared" / "video"
    clips = Path(os.environ.get("CMKD_SHARED_VIDEO", beside)) / "clips"
    if shutil.which("ffmpeg") is None:
        return "there is no program ffmpeg"
    if not all((clips / name).is_file() for name in CLIPS):
        return f"there are no real clips at {clips}"
    encoding = EncodingConfig()
    reencode(*_files(clips / CLIPS[0], folder), encoding)
    rounds = []
    for _ in range(ROUNDS):
        ours, ffmpeg = _Cost(0.0, 0.0), _Cost(0.0, 0.0)
        for name in CLIPS:
            files = _files(clips / name, folder)
            command = _command(files[0], folder / "ffmpeg.mp4", encoding)
            ours += _cost(lambda files=files: reencode(*files, encoding))
            ffmpeg += _cost(lambda command=command: subprocess.run(command, check=True))
        rounds.append((ours, ffmpeg))
    return PrepareFigures(
        statistics.median(ours.cpu for ours, _ in rounds),
        statistics.median(ffmpeg.cpu for _, ffmpeg in rounds),
        statistics.median(ours.cpu / ffmpeg.cpu for ours, ffmpeg in rounds),
        statistics.median(ours.wall / ffmpeg.wall for ours, ffmpeg in rounds),
    )


@dataclass(frozen=True)
class _Cost:
    cpu: float
    wall: float

    def __add__(self, other: _Cost) -> _Cost:
        return _Cost(self.cpu + other.cpu, self.wall + other.wall)


def _cost(work: Callable[[], object]) -> _Cost:
    """Of this process and its children."""
    before, started = os.times(), time.perf_counter()
    work()
    after = os.times()
    return _Cost(sum(after[:4]) - sum(before[:4]), time.perf_counter() - started)


def _files(source: Path, folder: Path) -> tuple[Path, Path, Path]:
    """Source, output and a record that is not there."""
    record = folder / f"{source.name}.json"
    record.unlink(missing_ok=True)
    return source, folder / f"{source.name}.mp4", record


def _command(source: Path, output: Path, encoding: EncodingConfig) -> list[str]:
    """The same size, filter of its kind, encoder and options, on one thread."""
    size = f"scale={encoding.width}:{encoding.height}:flags=bilinear"
    quantiser = str(encoding.qscale)
    return [
        *("ffmpeg", "-nostdin", "-y", "-loglevel", "error", "-threads", "1", "-i", str(source)),
        *("-an", "-filter_threads", "1", "-vf", size, "-threads", "1", "-c:v", "mpeg4"),
        *("-pix_fmt", "yuv420p", "-g", str(encoding.gop), "-bf", "0"),
        *("-q:v", quantiser, "-qmin", quantiser, "-qmax", quantiser),
        *("-sc_threshold", "1000000000", "-dct", "int", "-idct", "simple"),
        *("-flags", "+qscale+bitexact", "-fflags", "+bitexact", str(output)),
    ]
