"""A data set of 300,000 files is planned in half a gigabyte and some times its listing's CPU."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

CLASSES, CLIPS = 400, 750
MEASURE = """
import json, os, resource, sys, time
from pathlib import Path
from cmkd.config.data import EncodingConfig, SplitConfig, ViewsConfig
from cmkd.data.sources import OfficialRequest
from cmkd.data.prepare import PrepareRequest, plan_clips
root = Path(sys.argv[1])
official = OfficialRequest("kinetics400", Path(sys.argv[2]), "val") if sys.argv[2:] else None
split = SplitConfig(rule="given") if official else SplitConfig()
request = PrepareRequest(
    root, root.parent / "out", "large", EncodingConfig(), ViewsConfig(), split, official
)
start = time.process_time()
for folder, _, names in os.walk(root):
    for name in names:
        os.stat(os.path.join(folder, name))
listed = time.process_time() - start
start = time.process_time()
listing = plan_clips(request)
peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
print(json.dumps([len(listing.sources), (time.process_time() - start) / listed, peak]))
"""


def measured(*arguments: Path) -> tuple[int, float, float]:
    """Clips planned, times the CPU that listing their files takes, and MiB at most."""
    command = [sys.executable, "-c", MEASURE, *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    clips, ratio, peak = json.loads(done.stdout)
    return clips, ratio, peak


@pytest.fixture(scope="module")
def kinetics(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Empty files under the names of Kinetics, and their annotations."""
    root = tmp_path_factory.mktemp("large")
    rows: dict[str, list[str]] = {"train": [], "val": []}
    for number in range(CLASSES):
        label = f"class {number:03}"
        folder = root / "videos" / label
        folder.mkdir(parents=True)
        for clip in range(CLIPS):
            part = "train" if clip % 12 else "val"
            rows[part].append(f"{label},{number:03}_{clip:07},10,20,{part}")
            (folder / f"{number:03}_{clip:07}_000010_000020.mp4").touch()
    for part, lines in rows.items():
        head = "label,youtube_id,time_start,time_end,split"
        (root / f"{part}.csv").write_text("\n".join([head, *lines]) + "\n")
    yield root
    shutil.rmtree(root)  # pytest would keep the files of its last runs


@pytest.mark.slow
@pytest.mark.parametrize("official", [True, False], ids=["annotations", "folders"])
def test_planning_300_000_files(kinetics: Path, official: bool) -> None:
    clips, ratio, peak = measured(kinetics / "videos", *([kinetics] if official else []))
    assert clips == CLASSES * CLIPS
    assert ratio < 12, "8 and 6 when it was written"
    assert peak < 500, "MiB"
