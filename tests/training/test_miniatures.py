"""Published data sets in miniature, from their official files to a table, by the command.

The videos are real clips of the data sets under official names, the annotations the official ones
where they are at hand: UCF-101 and HMDB-51 whole, rows of Kinetics, labels of SSV2.
"""

from __future__ import annotations

import csv
import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path

import pytest

SPEC = """
name: miniature
description: one student for one epoch on a few real clips
data: mini
seeds: 1
base:
  training.epochs: 1
  student.width: 4
  teacher.width: 4
  teacher.training.epochs: 1
  method.heads: 1
  method.hidden: 4
blocks:
  both: {method.lambda_1: [0.1], method.lambda_2: [1.0]}
"""

Miniature = tuple[Path, Mapping[str, str]]
"""Folder of annotations, and official name -> real clip."""


def ucf101(official: Path, _made: Path) -> Miniature:
    """Of each official test list one group a class, and three groups that always train."""
    real = {
        "ApplyEyeMakeup": "mmaction2_test.avi",
        "SoccerJuggling": "v_SoccerJuggling_g23_c01.avi",
    }
    groups = ("01", "08", "15", "22", "23", "24")
    clips = {f"{c}/v_{c}_g{group}_c01.avi": clip for c, clip in real.items() for group in groups}
    return official / "ucf101" / "ucfTrainTestlist", clips


def hmdb51(official: Path, _made: Path) -> Miniature:
    """Of each official split a film that it alone tests, and four that none of them tests."""
    folder = official / "hmdb51" / "testTrainMulti_7030_splits"
    real = {
        "wave": "TrumanShow_wave_f_nm_np1_fr_med_26.avi",
        "cartwheel": "hmdb51_Turnk_r_Pippi_Michel_cartwheel_f_cm_np2_le_med_6.avi",
    }
    wanted = (["211", "121", "112"], ["111"] * 4)
    clips = {}
    for label, clip in real.items():
        flags: dict[str, str] = {}
        for number in (1, 2, 3):
            for line in (folder / f"{label}_test_split{number}.txt").read_text().splitlines():
                name, flag = line.split()
                flags[name] = flags.get(name, "") + flag
        films: set[str] = set()
        for pattern in (*wanted[0], *wanted[1]):
            name = next(
                name
                for name, own in flags.items()
                if own == pattern and name.partition(f"_{label}_")[0] not in films
            )
            films.add(name.partition(f"_{label}_")[0])
            clips[f"{label}/{name}"] = clip
    return folder, clips


def kinetics400(official: Path, made: Path) -> Miniature:
    """Rows of the official format and of two of its classes, most of them called train."""
    real = {"cleaning pool": "mmaction2_part_0.mp4", "arm wrestling": "mmaction2_demo.mp4"}
    clips, used = {}, dict.fromkeys(real, 0)
    with (official / "kinetics" / "kinetics-600_val.csv").open(newline="") as stream:
        reader = csv.DictReader(stream)
        rows = [row for row in reader if row["label"] in real]
        columns = list(reader.fieldnames or ())
    with (made / "kinetics.csv").open("w", newline="") as stream:
        writer = csv.DictWriter(stream, columns)
        writer.writeheader()
        for row in rows:
            used[row["label"]] += 1
            part = "val" if used[row["label"]] > 6 else "train"
            writer.writerow({**row, "split": part})
            if used[row["label"]] <= 8:
                start, end = int(row["time_start"]), int(row["time_end"])
                name = f"{row['youtube_id']}_{start:06d}_{end:06d}.mp4"
                clips[f"{part}/{row['label']}/{name}"] = real[row["label"]]
    return made, clips


def ssv2(official: Path, made: Path) -> Miniature:
    """All labels, and entries of two of them."""
    labels = official / "ssv2" / "labels.reconstructed.json"
    (made / "something-something-v2-labels.json").symlink_to(labels)
    real = {
        "Pulling [something] from left to right": "mmaction2_part_0.mp4",
        "Approaching [something] with your camera": "SOX5yA1l24A.mp4",
    }
    entries: dict[str, list[dict[str, str]]] = {"train": [], "validation": []}
    clips = {}
    for number in range(16):
        template = list(real)[number % 2]
        part = "validation" if number > 11 else "train"
        entries[part].append({"id": str(number), "label": "any", "template": template})
        clips[f"{number}.mp4"] = real[template]
    for part, listed in entries.items():
        (made / f"something-something-v2-{part}.json").write_text(json.dumps(listed))
    return made, clips


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize(
    ("make", "name", "folds"),
    [(ucf101, "UCF-101", 3), (hmdb51, "HMDB-51", 3), (kinetics400, "Kinetics-400", 1)]
    + [(ssv2, "SSV2", 1)],
)
def test_a_miniature_is_prepared_verified_trained_and_reported(
    make: Callable[[Path, Path], Miniature],
    name: str,
    folds: int,
    shared_video: Path,
    tmp_path: Path,
) -> None:
    made = tmp_path / "annotations"
    made.mkdir()
    annotations, clips = make(shared_video / "annotations", made)
    videos = linked(tmp_path / "videos", shared_video / "clips", clips.items())
    (tmp_path / "miniature.yaml").write_text(SPEC)

    def cmkd(*arguments: str) -> str:
        done = subprocess.run(
            [sys.executable, "-m", "cmkd", *arguments],
            cwd=tmp_path,
            env={**os.environ, "CMKD_CACHE": str(tmp_path / "cache")},
            capture_output=True,
            text=True,
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    prepared = cmkd(
        "data", "prepare", str(videos), "--name", "mini", "--as", make.__name__, "--subset",
        "--annotations", str(annotations), "--frames", "24", "--width", "80", "--height", "64",
    )  # fmt: skip
    assert f"{len(clips)} prepared (0 of them before)" in prepared
    assert f"a SUBSET ({len(clips):,} of the " in prepared and f"{name}, official " in prepared
    whole = f"{len(clips)} of {len(clips)} clips are intact"
    assert whole in cmkd("data", "verify", "mini", "--workers", "1")
    swept = cmkd("sweep", "miniature.yaml", "--workers", "1")
    assert f"{folds} of {folds} done" in swept, "a trial per split"
    cmkd("report", "tables", "--sweep", "miniature.yaml", "--format", "md", "--no-plots")
    (page,) = (tmp_path / "reports" / "generated").glob("sweep_*mini*.md")
    text = page.read_text()
    assert f"**These are NOT results on {name}: mini is a SUBSET of it.**" in text
    assert f"({len(clips):,} of the " in text


def linked(folder: Path, real: Path, clips: Iterable[tuple[str, str]]) -> Path:
    """A folder of links: official name -> real clip."""
    for name, clip in clips:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).symlink_to(real / clip)
    return folder
