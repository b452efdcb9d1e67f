"""A published data set in miniature, from official annotations to a table, by the command."""

from __future__ import annotations

import os
import subprocess
import sys
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


@pytest.mark.slow
def test_a_miniature_of_hmdb51_is_prepared_trained_and_reported(
    shared_video: Path, tmp_path: Path
) -> None:
    videos, annotations = tmp_path / "videos", tmp_path / "annotations"
    videos.mkdir()
    annotations.mkdir()
    real = {
        "wave": "TrumanShow_wave_f_nm_np1_fr_med_26.avi",
        "cartwheel": "hmdb51_Turnk_r_Pippi_Michel_cartwheel_f_cm_np2_le_med_6.avi",
    }
    for label, video in real.items():
        names = [f"{film}_{label}_f_nm_np1_fr_med_0.avi" for film in "ABCDEF"]
        for name in names:
            (videos / name).symlink_to(shared_video / "clips" / video)
        for number in (1, 2, 3):
            flags = [2 if name[0] == "ABC"[number - 1] else 1 for name in names]
            lines = "".join(f"{name} {flag} \n" for name, flag in zip(names, flags, strict=True))
            (annotations / f"{label}_test_split{number}.txt").write_text(lines)
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

    cmkd(
        "data", "prepare", str(videos), "--name", "mini", "--as", "hmdb51", "--subset",
        "--annotations", str(annotations), "--frames", "24", "--width", "80", "--height", "64",
    )  # fmt: skip
    assert "12 of 12 clips are intact" in cmkd("data", "verify", "mini")
    assert "3 of 3 done" in cmkd("sweep", "miniature.yaml", "--workers", "1"), "a trial per split"
    told = cmkd("report", "tables", "--sweep", "miniature.yaml", "--format", "md", "--no-plots")
    assert "mini" in told and "both" in told
