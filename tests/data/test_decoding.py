"""What ways of decoding cost: what is counted is exact, and the command writes it down."""

from __future__ import annotations

import shutil
from pathlib import Path

import av
import numpy as np
import pytest
from typer.testing import CliRunner

from cmkd.cli.main import app
from cmkd.config.data import EncodingConfig, SplitConfig, ViewsConfig
from cmkd.data.codec import decode_positions, decode_rgb, encode
from cmkd.data.decoding import ROUNDS, WAYS, DecodingCost, measure_decoding
from cmkd.data.manifest import ClipEntry, DatasetPlan, file_sha256, write_dataset
from cmkd.errors import DataError, InputError
from cmkd.report.decoding import read_decoding

T = 4
# Of 24 frames in two GOPs: the last frame of each quarter.
POSITIONS, INTRA = (5, 11, 17, 23), (0, 12)
ENCODING = EncodingConfig(width=64, height=64, gop=12, qscale=2)


@pytest.fixture(scope="module")
def measured(good: Path) -> dict[str, DecodingCost]:
    """Every way on one clip, by name."""
    return {one.way: one for one in measure_decoding([good], T).ways}


def sizes(path: Path) -> list[int]:
    with av.open(str(path)) as container:
        return [packet.size for packet in container.demux(video=0) if packet.size]


def test_frames_and_bytes_are_those_that_are_decoded(
    good: Path, measured: dict[str, DecodingCost]
) -> None:
    whole = sizes(good)
    assert list(measured) == list(WAYS) and len(whole) == 24
    for way in ("rgb", "half", "quarter", "compressed", "motion"):
        assert (measured[way].frames, measured[way].bytes_read) == (24, sum(whole)), way
    assert measured["iframes"].frames == 2
    assert measured["iframes"].bytes_read == whole[0] + whole[12]


def test_only_needed_frames_are_counted(good: Path, panning: list, tmp_path: Path) -> None:
    # The second sampled frame of two is the last but four: those after it are read by nobody.
    path = tmp_path / "long.mp4"
    encode([*panning, *panning, *panning[:1]], path, ENCODING)
    by_way = {one.way: one for one in measure_decoding([path], 2).ways}
    # Positions 23 and 47 (48 is an I-frame, so the P-frame before it): GOPs 12..23 and 36..47.
    whole = sizes(path)
    assert by_way["rgb"].frames == 48 and by_way["rgb"].bytes_read == sum(whole[:48])
    assert by_way["compressed"].frames == 24
    assert by_way["compressed"].bytes_read == sum(whole[12:24]) + sum(whole[36:48])
    assert by_way["iframes"].bytes_read == whole[12] + whole[36]


def test_what_is_kept_are_the_arrays_that_come_out(measured: dict[str, DecodingCost]) -> None:
    picture = 64 * 64 * 3
    motion, residual = 2 * 16 * 16 * 2, 3 * 32 * 32 * 2
    assert {way: one.bytes_kept for way, one in measured.items()} == {
        "rgb": T * picture,
        "half": T * picture / 4,
        "quarter": T * picture / 16,
        "compressed": 2 * picture + T * (motion + residual),
        "motion": T * motion,
        "iframes": 2 * picture,
    }


def test_times_are_those_of_this_process(measured: dict[str, DecodingCost]) -> None:
    assert measured["rgb"].ratio == 1
    for one in measured.values():
        assert one.ms_low == one.ms == one.ms_high > 0, "of a single clip"
        assert one.ratio == pytest.approx(one.ms / measured["rgb"].ms)


def test_the_error_of_small_pictures_is_their_distance_to_whole_ones(
    good: Path, measured: dict[str, DecodingCost]
) -> None:
    for way, factor in (("half", 2), ("quarter", 4)):
        frames = [frame.astype(float) for frame in decode_rgb(good)]
        averaged = [
            np.array(
                [
                    [
                        frame[y : y + factor, x : x + factor].mean((0, 1))
                        for x in range(0, 64, factor)
                    ]
                    for y in range(0, 64, factor)
                ]
            )
            for frame in frames
        ]
        small = decode_positions(good, range(24), lowres=factor // 2)
        distance = [np.abs(a - b).mean() for a, b in zip(averaged, small, strict=True)]
        one = measured[way]
        assert one.error_intra == pytest.approx(np.mean([distance[at] for at in INTRA]), abs=1e-3)
        assert one.error == pytest.approx(np.mean([distance[at] for at in POSITIONS]), abs=1e-3)
        assert one.error > 1 and one.error_intra > 1, "in a texture that is finer than that"
    for way in ("rgb", "compressed", "motion", "iframes"):
        assert measured[way].error_intra is measured[way].error is None


def test_clips_are_averaged_and_counted(good: Path, panning: list, tmp_path: Path) -> None:
    short = tmp_path / "short.mp4"
    encode(panning[:12], short, ENCODING)
    told: list[tuple[int, int]] = []
    both = measure_decoding([good, short], T, on_progress=lambda *at: told.append(at))
    assert told == [(1, 2), (2, 2)] and both.length == 18 and ROUNDS > 1
    rgb = both.ways[0]
    assert rgb.frames == 18 and rgb.bytes_read == (sum(sizes(good)) + sum(sizes(short))) / 2
    assert rgb.ms_low < rgb.ms < rgb.ms_high


def test_a_clip_that_is_too_short_is_named(good: Path) -> None:
    with pytest.raises(DataError, match="good.mp4: 25 P-frames cannot be sampled from 24 frames"):
        measure_decoding([good], 25)


@pytest.fixture
def dataset(good: Path, tmp_path: Path) -> Path:
    """A folder of five equal clips."""
    root = tmp_path / "five"
    clips = []
    for number in range(5):
        target = root / f"{number}.mp4"
        target.parent.mkdir(exist_ok=True)
        shutil.copy(good, target)
        clips.append(ClipEntry(target.name, number % 2, "", "", file_sha256(target)))
    plan = DatasetPlan("five", "folder", ("a", "b"), ENCODING, ViewsConfig(), SplitConfig(), {})
    write_dataset(root, plan.info(clips), clips)
    return root


def test_the_command_writes_what_the_report_reads(dataset: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    arguments = ["--decoding", str(dataset), "--clips", "3", "--frames", "4", "--out", str(out)]
    result = CliRunner().invoke(app, ["cost", *arguments])
    assert result.exit_code == 0, result.output
    assert [path.name for path in out.iterdir()] == ["decoding.json"], "networks are not counted"
    found = read_decoding(out / "decoding.json")
    assert found is not None
    assert (found.data, found.data_kind, found.clips, found.of_clips) == ("five", "folder", 3, 5)
    assert (found.num_frames, found.width, found.gop, found.length) == (4, 64, 12, 24)
    assert result.output.count("x full decoding") == len(found.ways) == len(WAYS)
    (line,) = (line for line in result.output.splitlines() if line.startswith("compressed"))
    assert f"{found.ways[3].ms:.1f} ms" in line and " 24.0 frames" in line


def test_a_damaged_clip_is_named_and_nothing_written(dataset: Path, tmp_path: Path) -> None:
    (dataset / "2.mp4").write_bytes(b"")
    with pytest.raises(DataError, match="2.mp4"):
        run("--decoding", str(dataset), "--frames", "4", "--out", str(tmp_path / "out"))
    assert not (tmp_path / "out").exists()


def test_networks_are_not_timed_at_the_same_time(dataset: Path) -> None:
    with pytest.raises(InputError, match="--decoding and --measure: .* one at a time"):
        run("--decoding", str(dataset), "--measure")


def run(*arguments: str) -> None:
    result = CliRunner().invoke(app, ["cost", *arguments])
    if result.exception is not None:
        raise result.exception
