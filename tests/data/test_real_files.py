"""Containers of the wild: dropped frames, edit lists, varying rates, cut files, playlists."""

from __future__ import annotations

import struct
from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest

from cmkd.config.data import EncodingConfig
from cmkd.data.reencode import reencode
from cmkd.data.video import container_fault, decode_rgb
from cmkd.errors import DataError

SMALL = EncodingConfig(width=64, height=64, gop=12, qscale=5)


def made(source: Path, folder: Path) -> int:
    """Frames of a file after its preparation."""
    return reencode(source, folder / "out.mp4", folder / "record.json", SMALL).frames


def written(path: Path, frames: Sequence[np.ndarray], times: Sequence[int]) -> Path:
    """A file whose frames are shown at these ticks of 1/25 s."""
    with av.open(str(path), "w") as output:
        stream = output.add_stream("mpeg4", rate=25)
        stream.width, stream.height, stream.pix_fmt = 64, 64, "yuv420p"
        stream.codec_context.time_base = Fraction(1, 25)
        for rgb, time in zip(frames, times, strict=True):
            frame = av.VideoFrame.from_ndarray(rgb, format="rgb24")
            frame.pts, frame.time_base = time, Fraction(1, 25)
            output.mux(stream.encode(frame))
        output.mux(stream.encode(None))
    return path


def cut(path: Path, share: float) -> Path:
    whole = path.read_bytes()
    short = path.with_stem(f"{path.stem}_cut")
    short.write_bytes(whole[: int(share * len(whole))])
    return short


DROPPED = [0, 1, 2, 4, 5, 6, 7, 8, 9, 11, *range(13, 27)]


@pytest.mark.parametrize("suffix", [".avi", ".mp4", ".mkv"])
def test_dropped_frames_pass_and_cut_files_do_not(
    tmp_path: Path, panning: list[np.ndarray], suffix: str
) -> None:
    """AVI counts the chunks of dropped frames, which hold nothing."""
    path = written(tmp_path / f"clip{suffix}", panning, DROPPED)
    if suffix == ".avi":
        with av.open(str(path)) as container:
            assert container.streams.video[0].frames == 27
    assert made(path, tmp_path) == len(panning)
    for share in (0.5, 0.9):
        with pytest.raises(DataError, match="clip_cut"):
            made(cut(path, share), tmp_path / "cut")


def test_frames_that_are_dropped_at_the_end_pass(tmp_path: Path, panning: list) -> None:
    path = written(tmp_path / "clip.avi", panning, range(len(panning)))
    content = bytearray(path.read_bytes())
    for mark, offset in ((b"avih", 24), (b"strh", 40)):  # dwTotalFrames, dwLength
        at = content.index(mark) + offset
        assert struct.unpack_from("<I", content, at)[0] == len(panning)
        struct.pack_into("<I", content, at, len(panning) + 8)
    path.write_bytes(content)
    assert made(path, tmp_path) == len(panning)
    with pytest.raises(DataError, match="clip_cut"):
        made(cut(path, 0.9), tmp_path / "cut")


def test_an_edit_list_hides_frames(tmp_path: Path, panning: list) -> None:
    """Negative times become an edit list, whose hidden frames are in the container's count."""
    path = written(tmp_path / "clip.mp4", panning, range(-4, 20))
    assert container_fault(path) is None
    assert 20 <= made(path, tmp_path) <= 24


def test_the_times_of_a_varying_rate_pass(tmp_path: Path, panning: list) -> None:
    times = np.cumsum(np.arange(len(panning)) % 5 + 1).tolist()
    assert made(written(tmp_path / "clip.mp4", panning, times), tmp_path) == len(panning)


def test_hmdb51s_own_files(shared_video: Path, tmp_path: Path) -> None:
    sample = sorted((shared_video / "jhmdb").glob("*/*.avi"))
    assert len(sample) > 50
    assert {path.name: fault for path in sample if (fault := container_fault(path))} == {}
    fewer = 0
    for path in sample[::24]:
        with av.open(str(path), metadata_errors="replace") as container:
            fewer += container.streams.video[0].frames > made(path, tmp_path / path.stem)
        copy = tmp_path / path.name
        copy.write_bytes(path.read_bytes())
        with pytest.raises(DataError):
            made(cut(copy, 0.9), tmp_path / "cut")
    assert fewer, "some declare more frames than there are"


@pytest.mark.parametrize("suffix", [".mp4", ".avi"])
def test_a_playlist_opens_no_other_file(tmp_path: Path, good: Path, suffix: str) -> None:
    path = tmp_path / f"list{suffix}"
    path.write_text(f"ffconcat version 1.0\nfile '{good}'\n")
    with pytest.raises(DataError, match="not a video container.*convert it"):
        list(decode_rgb(path))


def test_a_picture_that_changes_its_size_is_refused(tmp_path: Path) -> None:
    path, data = tmp_path / "clip.mpg", b""
    for side in (64, 96):
        part = tmp_path / f"{side}.m2v"
        with av.open(str(part), "w", format="mpeg2video") as output:
            stream = output.add_stream("mpeg2video", rate=25)
            stream.width = stream.height = side
            stream.pix_fmt = "yuv420p"
            for _ in range(12):
                picture = np.full((side, side, 3), side, np.uint8)
                output.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
            output.mux(stream.encode(None))
        data += part.read_bytes()
    path.write_bytes(data)
    with pytest.raises(DataError, match="clip.mpg: frame .* from 64x64 to 96x96.*cut it"):
        list(decode_rgb(path))
