"""Damaged files, drawn by seed: no crash, no hang, and nothing damaged goes on unseen."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from cmkd.config.data import DatasetInfo, EncodingConfig, ReaderConfig, SplitConfig, ViewsConfig
from cmkd.data.clip import read_clip
from cmkd.data.dataset import read_folder, write_dataset
from cmkd.data.inspect import verify
from cmkd.data.reencode import MIN_FRAMES, Encoded, reencode
from cmkd.data.splits import ClipEntry
from cmkd.data.video import container_fault, scan
from cmkd.data.workers import run_tasks
from cmkd.errors import CmkdError, DataError
from cmkd.io import file_sha256

SMALL = EncodingConfig(width=64, height=64, gop=12, qscale=5)
SOURCES = ("mmaction2_part_0.mp4", "TrumanShow_wave_f_nm_np1_fr_med_26.avi")
"""H.264 with B-frames in MP4, and MPEG-4 Part 2 with B-frames in AVI."""
SECONDS = 60.0

few_or_many = pytest.mark.parametrize(
    "seeds", [range(20), pytest.param(range(20, 220), marks=pytest.mark.slow)], ids=["20", "200"]
)
Damage = Callable[[bytes, random.Random], bytes]


def flip_bits(whole: bytes, draw: random.Random) -> bytes:
    content = bytearray(whole)
    for _ in range(draw.choice((1, 8, 64))):
        content[draw.randrange(len(content))] ^= 1 << draw.randrange(8)
    return bytes(content)


def cut_off(whole: bytes, draw: random.Random) -> bytes:
    return whole[: draw.randrange(len(whole))]


def zero_bytes(whole: bytes, draw: random.Random) -> bytes:
    at, length = draw.randrange(len(whole)), draw.choice((1, 64, 4096))
    zeroed = whole[:at] + bytes(length) + whole[at + length :]
    return zeroed[: len(whole)]


def lose_bytes(whole: bytes, draw: random.Random) -> bytes:
    at = draw.randrange(len(whole))
    return whole[:at] + whole[at + draw.choice((1, 32, 2048)) :]


def another_head(whole: bytes, draw: random.Random) -> bytes:
    """The start of a file of another kind before what is left of this one."""
    heads = (b"\x1aE\xdf\xa3", b"RIFF\0\0\0\0AVI LIST", b"\0\0\0\x18ftypmp42", b"GIF89a", b"text\n")
    return draw.choice(heads) + whole[draw.choice((0, 16, 512)) :]


DAMAGES: tuple[Damage, ...] = (flip_bits, cut_off, zero_bytes, lose_bytes, another_head)


def damaged(whole: bytes, seed: int) -> bytes:
    draw = random.Random(seed)
    return DAMAGES[seed % len(DAMAGES)](whole, draw)


@few_or_many
def test_damaged_videos_are_refused_or_make_whole_clips(
    shared_video: Path, tmp_path: Path, seeds: range
) -> None:
    tasks = []
    for seed in seeds:
        real = shared_video / "clips" / SOURCES[seed // len(DAMAGES) % len(SOURCES)]
        source = tmp_path / f"{seed:03}{real.suffix}"
        source.write_bytes(damaged(real.read_bytes(), seed))
        output = tmp_path / "out" / f"{source.name}.mp4"
        tasks.append((source, output, tmp_path / f"{seed}.json"))
    made, refused = [], []
    for number, result in run_tasks(reencoded, tasks, workers=1, timeout=SECONDS):
        source, output, _ = tasks[number]
        if isinstance(result, Encoded):
            made.append((output, result))
            found = scan(source)
            assert not found.corrupt and found.error is None, "what the decoder sees, is refused"
            assert result.frames == len(found.kinds) >= max(MIN_FRAMES, found.frames_declared - 1)
        else:
            refused.append(result)
            assert not output.exists(), "nothing is left of a refused file"
    for error in refused:
        assert isinstance(error, DataError) and len(str(error)) > 20
        assert "did not finish" not in str(error) and "crashed" not in str(error)
    assert len(made) + len(refused) == len(tasks)
    assert len(refused) > 0.6 * len(tasks)
    # A flip may leave a valid bitstream, whose pictures nobody can tell from the intended ones.
    assert made, "and some are drawn here"
    clips = [ClipEntry(out.name, n % 2, "", "", done.sha256) for n, (out, done) in enumerate(made)]
    assert not list(check(tmp_path / "out", clips))


@pytest.mark.parametrize("share", [0.02, 0.3, 0.7, 0.99])
def test_what_counts_no_frames_is_refused_when_it_was_cut_off(
    shared_video: Path, tmp_path: Path, share: float
) -> None:
    """Matroska declares no number of frames, and FFmpeg decodes what is left without an error."""
    real = shared_video / "clips" / "flipping_a_pancake.mkv"
    whole = real.read_bytes()
    source = tmp_path / "cut.mkv"
    source.write_bytes(whole[: round(share * len(whole))])
    assert scan(source).error is None and scan(real).frames_declared == 0
    with pytest.raises(DataError, match="container is damaged .File ended prematurely"):
        reencode(source, tmp_path / "out.mp4", tmp_path / "record", SMALL)


def test_no_intact_file_is_called_damaged(shared_video: Path) -> None:
    clips = shared_video / "clips"
    real = [*clips.glob("*.[am]*"), *clips.glob("edge_cases/*.mov"), *clips.glob("*.mkv")]
    videos = [file for file in real if file.name != "manifest.csv"]
    assert len(videos) > 20
    assert {file.name: fault for file in videos if (fault := container_fault(file))} == {}


@few_or_many
def test_damaged_clips_never_pass_for_whole_ones(
    tmp_path: Path, panning: list, good: Path, seeds: range
) -> None:
    whole, sha256 = good.read_bytes(), file_sha256(good)
    clips = []
    for seed in seeds:
        content = damaged(whole, seed)
        if content != whole:
            (tmp_path / f"{seed:03}.mp4").write_bytes(content)
            clips.append(ClipEntry(f"{seed:03}.mp4", seed % 2, "", "", sha256))
    assert len(clips) > 0.9 * len(seeds)
    assert list(check(tmp_path, clips)) == [clip.path for clip in clips], "the hash tells"
    results = list(
        run_tasks(read, [tmp_path / clip.path for clip in clips], workers=1, timeout=SECONDS)
    )
    for number, result in results:
        if isinstance(result, CmkdError):
            assert isinstance(result, DataError) and clips[number].path in str(result)
    assert len(results) == len(clips)
    assert sum(isinstance(result, DataError) for _, result in results) > 0.6 * len(clips)


def reencoded(task: tuple[Path, Path, Path]) -> Encoded:
    """Re-encode (source, output, record)."""
    return reencode(*task, SMALL)


def read(path: Path) -> None:
    """Read a clip as a trial does."""
    read_clip(path, ReaderConfig())


def check(root: Path, clips: list[ClipEntry]) -> Iterator[str]:
    """Paths that `cmkd data verify` complains of, when the manifest says what `clips` do."""
    info = DatasetInfo(
        name="mine",
        kind="folder",
        classes=("a", "b"),
        encoding=SMALL,
        views=ViewsConfig(),
        split=SplitConfig(),
        digest="",
    )
    write_dataset(root, info, clips)
    for path, problems in verify(read_folder(root), workers=1).items():
        yield path
        assert all("did not finish" not in text and "crashed" not in text for text in problems)
