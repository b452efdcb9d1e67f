"""Miniatures of the published data sets: real clips under official names, prepared and verified."""

from __future__ import annotations

import csv
import json
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from cmkd.cli.data import app
from cmkd.config.data import ReaderConfig
from cmkd.data.annotations import OFFICIAL
from cmkd.data.dataset import Dataset, open_dataset
from cmkd.data.decoded_cache import ensure_arrays
from cmkd.errors import DataError, InputError

SMALL = ("--width", "80", "--height", "64", "--gop", "12", "--frames", "24", "--qscale", "5")
PULLING = "Pulling something from left to right", "Pulling something from right to left"
GROUPS = ("01", "02", "03", "04", "05", "06")


@pytest.fixture
def root(shared_video: Path, tmp_path: Path) -> Callable[[dict[str, str]], Path]:
    """Makes a folder of links: official name -> real clip."""

    def make(clips: dict[str, str]) -> Path:
        for name, real in clips.items():
            link = tmp_path / "videos" / name
            link.parent.mkdir(parents=True, exist_ok=True)
            link.symlink_to(shared_video / "clips" / real)
        return tmp_path / "videos"

    return make


def ucf101(root: Callable[[dict[str, str]], Path], annotations: Path) -> Path:
    real = {
        "ApplyEyeMakeup": "mmaction2_test.avi",
        "SoccerJuggling": "v_SoccerJuggling_g23_c01.avi",
    }
    annotations.mkdir()
    (annotations / "classInd.txt").write_text("1 ApplyEyeMakeup\r\n2 SoccerJuggling\r\n")
    names = [
        (f"{c}/v_{c}_g{g}_c01.avi", index, g) for index, c in enumerate(real, 1) for g in GROUPS
    ]
    for number in ("01", "02", "03"):
        train = [f"{name} {index}" for name, index, group in names if group != number]
        test = [name for name, _, group in names if group == number]
        (annotations / f"trainlist{number}.txt").write_text("\r\n".join(train) + "\r\n")
        (annotations / f"testlist{number}.txt").write_text("\r\n".join(test) + "\r\n")
    return root({name: real[name.partition("/")[0]] for name, _, _ in names})


def hmdb51(root: Callable[[dict[str, str]], Path], annotations: Path) -> Path:
    real = {
        "wave": "TrumanShow_wave_f_nm_np1_fr_med_26.avi",
        "cartwheel": "hmdb51_Turnk_r_Pippi_Michel_cartwheel_f_cm_np2_le_med_6.avi",
    }
    annotations.mkdir()
    clips = {}
    for label, video in real.items():
        names = [f"{film}_{label}_f_nm_np1_fr_med_{n}.avi" for film in "ABCDE" for n in (0, 1)]
        clips |= {f"{label}/{name}": video for name in names}
        for number in (1, 2, 3):
            flags = [
                0 if name[0] == "E" else 2 if name[0] == "ABC"[number - 1] else 1 for name in names
            ]
            lines = [f"{name} {flag} " for name, flag in zip(names, flags, strict=True)]
            (annotations / f"{label}_test_split{number}.txt").write_text("\n".join(lines) + "\n")
    return root(clips)


def kinetics400(root: Callable[[dict[str, str]], Path], annotations: Path) -> Path:
    annotations.mkdir()
    clips: dict[str, str] = {}
    rows: dict[str, list[str]] = {"train": [], "validate": []}
    for label, real in {
        "cleaning pool": "mmaction2_part_0.mp4",
        "waving": "WUzgd7C1pWA.mp4",
    }.items():
        for number in range(5):
            part = "validate" if number == 4 else "train"
            name = f"-{label[:3]}{number}"
            rows[part].append(f"{label},{name},{number},{number + 10},{part}")
            clips[f"{part}/{label}/{name}_{number:06d}_{number + 10:06d}.mp4"] = real
    for part, lines in rows.items():
        head = "label,youtube_id,time_start,time_end,split"
        (annotations / f"{part}.csv").write_text("\n".join([head, *lines]) + "\n")
    return root(clips)


def ssv2(root: Callable[[dict[str, str]], Path], annotations: Path) -> Path:
    annotations.mkdir()
    prefix = "something-something-v2"
    (annotations / f"{prefix}-labels.json").write_text(
        json.dumps({PULLING[0]: "0", PULLING[1]: "1"})
    )
    entries: dict[str, list[dict[str, str]]] = {"train": [], "validation": []}
    for number in range(10):
        template = PULLING[number % 2].replace("something", "[something]")
        part = "validation" if number > 7 else "train"
        entries[part].append({"id": str(number), "label": "pulling it", "template": template})
    for part, listed in entries.items():
        (annotations / f"{prefix}-{part}.json").write_text(json.dumps(listed))
    return root({f"{number}.mp4": "mmaction2_part_0.mp4" for number in range(10)})


def prepare(folder: Path, annotations: Path, name: str, *options: str) -> Result:
    given = ("--name", "mini", "--as", name, "--annotations", str(annotations), "--workers", "2")
    return CliRunner().invoke(app, ["prepare", str(folder), *given, *SMALL, *options])


def manifest(dataset: Dataset) -> list[dict[str, str]]:
    with (dataset.root / "manifest.csv").open(newline="") as stream:
        return list(csv.DictReader(stream))


@pytest.mark.parametrize(
    ("make", "folds", "sizes", "classes"),
    [
        (ucf101, 3, (8, 2, 2), ("ApplyEyeMakeup", "SoccerJuggling")),
        (hmdb51, 3, (8, 4, 4), ("cartwheel", "wave")),
        (kinetics400, 1, (6, 2, 2), ("cleaning pool", "waving")),
        (ssv2, 1, (6, 2, 2), PULLING),
    ],
)
def test_a_miniature_is_prepared_verified_and_read(
    make: Callable[..., Path],
    root: Callable[[dict[str, str]], Path],
    tmp_path: Path,
    folds: int,
    sizes: tuple[int, int, int],
    classes: tuple[str, str],
) -> None:
    folder = make(root, tmp_path / "annotations")
    result = prepare(
        folder, tmp_path / "annotations", make.__name__, "--subset", "--flip", "--views", "2"
    )
    assert result.exit_code == 0, (result.output, result.exception)
    train, val, test = sizes
    lines = [f"fold {fold}: {train} train, {val} validate, {test} test" for fold in range(folds)]
    shown = [line.partition(";")[0] for line in result.stdout.splitlines()[-folds:]]
    assert shown == lines

    cache = tmp_path / "cache"
    dataset = open_dataset("mini", cache)
    assert dataset.info.classes == classes and dataset.info.split.rule == "given"
    part, total = dataset.info.official, len(dataset.clips)
    assert dataset.info.kind == "official" and part is not None and not part.complete
    assert (part.clips, part.annotated) == (total, total)
    assert f"{part.words}\n" in result.stdout and f"a SUBSET ({total} of the {total}" in part.words
    splits = [dataset.split(fold) for fold in range(folds)]
    for split in splits:
        groups = [
            {dataset.clips[at].group for at in part} - {""}
            for part in (split.train, split.val, split.test)
        ]
        assert not groups[0] & groups[1] and not (groups[0] | groups[1]) & groups[2]
        assert {dataset.clips[at].label for at in split.val} == {0, 1}
    verified = CliRunner().invoke(app, ["verify", "mini", "--workers", "2"])
    assert verified.stdout.splitlines()[-1] == f"mini: {total} of {total} clips are intact"
    arrays = ensure_arrays(dataset, ReaderConfig(), cache, workers=2)
    row = arrays.row(splits[0].train[0], 1)
    assert arrays.frames.shape[1:] == (8, 3, 64, 80) and arrays.frames[row].any()
    mirrored = [
        arrays.labels[arrays.row(at, 1)] != dataset.clips[at].label for at in splits[0].train
    ]
    assert any(mirrored) == (make is ssv2), "only there a mirror image may be of another class"


def test_the_split_is_part_of_the_identity_and_encodes_nothing_anew(
    root: Callable[[dict[str, str]], Path], tmp_path: Path
) -> None:
    folder = hmdb51(root, tmp_path / "a")
    ids = {}
    for split in ("all", "1", "2"):
        result = prepare(folder, tmp_path / "a", "hmdb51", "--subset", "--split", split)
        assert result.exit_code == 0, (result.output, result.exception)
        dataset = open_dataset("mini", tmp_path / "cache")
        ids[split] = dataset.id
        assert dataset.num_folds == (3 if split == "all" else 1)
        reused = 0 if split == "all" else len(dataset.clips)
        assert f"({reused} of them before)" in result.stdout
    assert len(set(ids.values())) == 3
    assert {row["split"] for row in manifest(dataset)} == {"train", "test"}
    assert not any("/E_" in row["path"] for row in manifest(dataset)), "flag 0 is unused"


def test_a_refused_file_leaves_a_subset(
    root: Callable[[dict[str, str]], Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = ssv2(root, tmp_path / "a")
    small = replace(OFFICIAL["ssv2"], classes=2, sizes={"val": ((8, 0, 2),)})
    monkeypatch.setitem(OFFICIAL, "ssv2", small)
    whole = prepare(folder, tmp_path / "a", "ssv2")
    told = "SSV2, official validation part as test, "
    assert f"{told}complete (10 clips)\n" in whole.stdout
    (folder / "0.mp4").unlink()
    (folder / "0.mp4").write_bytes(b"no video")
    assert f"{told}a SUBSET (9 of the 10 " in prepare(folder, tmp_path / "a", "ssv2").stdout


def test_nothing_starts_before_every_problem_is_listed(
    root: Callable[[dict[str, str]], Path], tmp_path: Path
) -> None:
    folder = ucf101(root, tmp_path / "a")
    (folder / "ApplyEyeMakeup" / "v_ApplyEyeMakeup_g01_c01.avi").unlink()
    result = prepare(folder, tmp_path / "a", "ucf101", "--split", "1")
    assert isinstance(result.exception, DataError) and result.exception.exit_code == 2
    output = tmp_path / "cache" / "data" / "mini"
    assert f"4 problems: has 2 classes, ucf101 has 101: {tmp_path / 'a'}; " in str(result.exception)
    assert f"{output / 'problems.csv'} lists all of them with remedies" in str(result.exception)
    with (output / "problems.csv").open(newline="") as stream:
        listed = {row["reason"]: (row["path"], row["remedy"]) for row in csv.DictReader(stream)}
    assert len(listed) == 4
    assert listed["no such video"] == ("v_ApplyEyeMakeup_g01_c01", "download it, or give --subset")
    assert [path.name for path in output.iterdir()] == ["problems.csv"], "nothing else was done"


def test_half_a_pair_cannot_be_mirrored(
    root: Callable[[dict[str, str]], Path], tmp_path: Path
) -> None:
    folder = ssv2(root, tmp_path / "a")
    for number in range(1, 10, 2):
        (folder / f"{number}.mp4").unlink()
    labels = {PULLING[0]: "0", PULLING[1]: "1", "Holding something": "2"}
    (tmp_path / "a" / "something-something-v2-labels.json").write_text(json.dumps(labels))
    train = tmp_path / "a" / "something-something-v2-train.json"
    held = [
        {"id": "0h", "template": "Holding [something]"},
        {"id": "1h", "template": "Holding [something]"},
    ]
    train.write_text(json.dumps([*json.loads(train.read_text()), *held]))
    for entry in held:
        (folder / f"{entry['id']}.mp4").symlink_to((folder / "0.mp4").resolve())
    flipped = prepare(folder, tmp_path / "a", "ssv2", "--subset", "--flip")
    assert isinstance(flipped.exception, DataError)
    assert f"of classes that are not there: {PULLING[1]}; leave out --flip" in str(
        flipped.exception
    )
    plain = prepare(folder, tmp_path / "a", "ssv2", "--subset")
    assert plain.exit_code == 0, (plain.output, plain.exception)
    dataset = open_dataset("mini", tmp_path / "cache")
    assert dataset.info.flip_labels == {} and dataset.info.classes == (
        PULLING[0],
        "Holding something",
    )


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--as", "ucf11"], "--as ucf11: is not one of .* did you mean 'ucf101'"),
        (["--as", "ucf101"], "needs --annotations"),
        (["--split", "1"], "are for --as SET"),
        (["--given", "--leave-one-group-out"], "--given and --leave-one-group-out: give one"),
        (["--subset"], "are for --as SET"),
        (["--as", "ssv2", "--annotations", ".", "--split", "1"], "--split 1: ssv2 has val, test"),
        (["--as", "ssv2", "--annotations", ".", "--folds", "3"], "--as ssv2 and --folds: give one"),
        (["--as", "ssv2", "--annotations", ".", "--train-only", "x"], "--as ssv2 and --train-only"),
    ],
)
def test_options_that_do_not_go_together(tmp_path: Path, options: list[str], message: str) -> None:
    result = CliRunner().invoke(
        app, ["prepare", str(tmp_path / "none"), "--name", "mini", *options]
    )
    assert isinstance(result.exception, InputError)
    assert re.search(message, str(result.exception))
