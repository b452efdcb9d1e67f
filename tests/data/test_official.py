"""Published data sets from their official annotation files: every clip, or every mistake."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from cmkd.data.annotations import OFFICIAL, read_hmdb51, read_kinetics, read_ssv2, read_ucf101
from cmkd.data.sources import AnnotationProblems, OfficialRequest, Source, find_official
from cmkd.errors import DataError, InputError


def write(folder: Path, **files: str) -> Path:
    """Files by name; ``__`` stands for a dot, as in ``train__json``."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in files.items():
        (folder / name.replace("__", ".")).write_text(text, encoding="utf-8", newline="")
    return folder


def videos(root: Path, *paths: str) -> Path:
    root.mkdir(exist_ok=True)
    for path in paths:
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).touch()
    return root


def ucf(folder: Path) -> Path:
    return write(
        folder,
        classInd__txt="1 Archery\r\n2 Basketball\r\n",
        trainlist01__txt="Archery/v_Archery_g08_c01.avi 1\r\nBasketball/v_Basketball_g08_c02.avi 2",
        testlist01__txt="Archery/v_Archery_g01_c01.avi\r\n",
    )


def kinetics(folder: Path) -> Path:
    head = "label,youtube_id,time_start,time_end,split\n"
    return write(
        folder,
        train__csv=head + "archery,-abc,5,15,train\nyoga,_d e,12,22,train\n",
        val__csv=head + '"archery",xyz,0,10,validate\n',
        test__csv=head + ",uvw,3,13,test\n",
    )


def ssv2(folder: Path) -> Path:
    entry = '{"id":"%s","template":"Pulling [something] from %s"}'
    left, right = "left to right", "right to left"
    return write(
        folder,
        labels__json=json.dumps({f"Pulling something from {right}": "1",
                                 f"Pulling something from {left}": "0"}),
        train__json=f"[{entry % ('1', left)},{entry % ('2', right)}]",
        validation__json=f"[{entry % ('3', left)}]",
    )  # fmt: skip


def subset(name: str, annotations: Path, split: str | None = None) -> OfficialRequest:
    return OfficialRequest(name, annotations, split or OFFICIAL[name].splits[0], subset=True)


def problems(root: Path, request: OfficialRequest) -> dict[str, list[str]]:
    with pytest.raises(AnnotationProblems) as caught:
        find_official(root, request)
    found: dict[str, list[str]] = {}
    for problem in caught.value.problems:
        assert problem.remedy
        found.setdefault(problem.reason, []).append(problem.path)
    return found


@pytest.mark.parametrize("split", ["1", "2", "3", "all"])
@pytest.mark.parametrize(
    ("name", "folder"),
    [("ucf101", "ucf101/ucfTrainTestlist"), ("hmdb51", "hmdb51/testTrainMulti_7030_splits")],
)
def test_the_official_files_are_complete(
    shared_video: Path, tmp_path: Path, name: str, folder: str, split: str
) -> None:
    annotations = shared_video / "annotations" / folder
    read = OFFICIAL[name].read(annotations, split)
    assert not read.problems
    label_map = shared_video / "annotations" / "label_maps" / f"{name}_label_map.txt"
    assert list(read.classes) == label_map.read_text().split()
    sizes = [
        (count["train"], count["val"], count["test"])
        for fold in range(3 if split == "all" else 1)
        for count in [Counter(clip.split.split()[fold] for clip in read.clips)]
    ]
    assert tuple(sizes) == OFFICIAL[name].sizes[split]
    # With no video at all, these are the only complaints: classes and counts are as they should.
    found = problems(tmp_path, OfficialRequest(name, annotations, split))
    assert set(found) == {"no such video"}
    assert len(found["no such video"]) == len(read.clips)


def test_hmdb51_matches_its_videos(shared_video: Path, tmp_path: Path) -> None:
    annotations = shared_video / "annotations" / "hmdb51" / "testTrainMulti_7030_splits"
    named = [clip.names[0] for clip in read_hmdb51(annotations, "2").clips]
    root = videos(tmp_path / "v", *(f"any/{name}.avi" for name in named))
    listing = find_official(root, OfficialRequest("hmdb51", annotations, "2"))
    assert len(listing.sources) == 5100 and len(listing.classes) == 51 and not listing.left_out


def test_who_has_every_clip_has_the_whole_set(shared_video: Path, tmp_path: Path) -> None:
    annotations = shared_video / "annotations" / "ucf101" / "ucfTrainTestlist"
    named = [clip.names[0] for clip in read_ucf101(annotations, "all").clips]
    root = videos(tmp_path / "v", *(f"any/{name}.avi" for name in named))
    part = find_official(root, OfficialRequest("ucf101", annotations, "2")).official
    assert part is not None
    assert part.words == "UCF-101, official split 2, complete (13,320 clips)"
    part = find_official(root, subset("ucf101", annotations)).official
    assert part is not None and part.complete, "nothing was left out, whatever was allowed"
    assert part.words == "UCF-101, official splits 1, 2 and 3, complete (13,320 clips)"
    (root / "any" / f"{named[0]}.avi").unlink()
    part = find_official(root, subset("ucf101", annotations)).official
    assert part is not None and not part.complete
    assert part.words.endswith("a SUBSET (13,319 of the 13,320 clips of these annotation files)")


def test_shortened_annotations_make_no_whole_set(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Kinetics has no counts that every release shares, but no class is as small as these."""
    root = videos(tmp_path / "v", "-abc.mp4", "_d e.mp4", "xyz.mp4")
    part = find_official(root, subset("kinetics400", kinetics(tmp_path / "a"))).official
    assert part is not None and (part.clips, part.annotated) == (3, 3) and not part.complete
    head = "label,youtube_id,time_start,time_end,split\n"
    classes = [f"class {number:03}" for number in range(400)]

    def whole(train: int) -> bool:
        rows = [f"{c},{c}-{n},0,9,train\n" for c in classes for n in range(train)]
        tests = [f"{c},{c}-v,0,9,val\n" for c in classes]
        files = write(
            tmp_path / str(train), train__csv=head + "".join(rows), val__csv=head + "".join(tests)
        )
        names = [row.split(",")[1] for row in rows + tests]
        listing = find_official(
            videos(tmp_path / f"v{train}", *(f"{name}.mp4" for name in names)),
            OfficialRequest("kinetics400", files, "val"),
        )
        return listing.official is not None and listing.official.complete

    monkeypatch.setitem(OFFICIAL, "kinetics400", replace(OFFICIAL["kinetics400"], least=3))
    assert not whole(2) and whole(3)


def test_kinetics_rows_of_the_official_format(shared_video: Path) -> None:
    found = read_kinetics(shared_video / "annotations" / "kinetics", "test")
    assert not found.problems and not found.classes, "a validation file alone has no classes"
    assert len(found.clips) == 29093 and {clip.split for clip in found.clips} == {"val"}
    first = found.clips[0]
    assert first.names == ("yq_M1PMw2hY_000038_000048", "yq_M1PMw2hY_38_48", "yq_M1PMw2hY")
    assert (first.label, first.group) == ("abseiling", "val/yq_M1PMw2hY")


def test_ssv2_samples_of_the_official_format(shared_video: Path, tmp_path: Path) -> None:
    samples = shared_video / "annotations" / "ssv2"
    folder = tmp_path / "ssv2"
    folder.mkdir()
    for name, sample in {
        "something-something-v2-labels.json": "labels.reconstructed.json",
        "something-something-v2-train.json": "train.sample.json",
        "something-something-v2-validation.json": "validation.sample.json",
        "something-something-v2-test-answers.csv": "test-answers.sample.csv",
    }.items():
        (folder / name).symlink_to(samples / sample)
    found = read_ssv2(folder, "test")
    label_map = shared_video / "annotations" / "label_maps" / "sthv2_label_map.txt"
    assert not found.problems
    assert list(found.classes) == label_map.read_text().splitlines()
    assert [clip.split for clip in found.clips] == ["train"] * 4 + ["val"] * 4 + ["test"] * 4
    assert {clip.label for clip in found.clips} <= set(found.classes)
    assert {clip.split for clip in read_ssv2(folder, "val").clips} == {"train", "test"}


def test_ssv2_mirrors_the_classes_that_tdn_swaps(shared_video: Path) -> None:
    label_map = shared_video / "annotations" / "label_maps" / "sthv2_label_map.txt"
    classes = label_map.read_text().splitlines()
    swapped = {(classes.index(a), classes.index(b)) for a, b in OFFICIAL["ssv2"].mirrored.items()}
    pairs = {(86, 87), (93, 94), (166, 167)}
    assert swapped == pairs | {(b, a) for a, b in pairs}
    assert not any(OFFICIAL[name].mirrored for name in ("ucf101", "hmdb51", "kinetics400"))


def test_videos_are_found_in_any_folder(tmp_path: Path) -> None:
    root = videos(
        tmp_path / "v", "Archery/v_Archery_g08_c01.avi", "a/b/v_Basketball_g08_c02.MP4",
        "v_Archery_g01_c01.webm", ".hidden/v_Archery_g01_c01.avi", "a/v_Archery_g01_c01.txt",
        "Archery/v_Archery_g25_c07.avi",
    )  # fmt: skip
    listing = find_official(root, subset("ucf101", ucf(tmp_path / "a"), "1"))
    assert listing.classes == ("Archery", "Basketball") and not listing.left_out
    assert listing.sources == (
        Source("Archery/v_Archery_g08_c01.avi", "Archery", "Archery_g08", "train"),
        Source("a/b/v_Basketball_g08_c02.MP4", "Basketball", "Basketball_g08", "train"),
        Source("v_Archery_g01_c01.webm", "Archery", "Archery_g01", "test"),
    )


@pytest.mark.parametrize("names", [("-abc_000005_000015", "_d e"), ("-abc", "_d e_12_22")])
def test_kinetics_files_have_several_names(tmp_path: Path, names: tuple[str, str]) -> None:
    root = videos(tmp_path / "v", f"train/archery/{names[0]}.mp4", f"x/{names[1]}.mkv", "xyz.mp4")
    listing = find_official(root, subset("kinetics400", kinetics(tmp_path / "a")))
    assert [(s.label, s.group, s.split) for s in listing.sources] == [
        ("archery", "train/-abc", "train"),
        ("yoga", "train/_d e", "train"),
        ("archery", "val/xyz", "test"),
    ]


def test_a_subset_leaves_out_what_is_not_there(tmp_path: Path) -> None:
    root = videos(tmp_path / "v", "1.webm", "2.webm")
    listing = find_official(root, subset("ssv2", ssv2(tmp_path / "a")))
    assert listing.left_out == () and listing.missing == 1
    left, right = "Pulling something from left to right", "Pulling something from right to left"
    assert listing.classes == (left, right)
    assert listing.mirrored == {left: right, right: left}


def test_all_mistakes_are_listed_at_once(tmp_path: Path) -> None:
    annotations = ucf(tmp_path / "a")
    (annotations / "trainlist01.txt").write_text(
        "Archery/v_Archery_g08_c01.avi 1\nArchery/v_Archery_g08_c01.avi 1\n"
        "Bowling/v_Bowling_g01_c01.avi 3\nArchery/v_Archery_g09_c01.avi 2\nBasketball/what.avi 2\n"
    )
    root = videos(tmp_path / "v", "x/v_Archery_g08_c01.avi", "y/v_Archery_g08_c01.avi")
    found = problems(root, OfficialRequest("ucf101", annotations, "1"))
    assert found == {
        "clip is listed twice in one split": ["trainlist01.txt:2"],
        "label is not one of classInd.txt": ["trainlist01.txt:3", "trainlist01.txt:4"],
        "name is not v_CLASS_gXX_cYY.avi": ["trainlist01.txt:5"],
        "has 2 classes, ucf101 has 101": [str(annotations)],
        "fold 0 has 1 train clips, ucf101 has 9537": [str(annotations)],
        "fold 0 has 1 test clips, ucf101 has 3783": [str(annotations)],
        "video is there more than once": ["v_Archery_g08_c01"],
        "no such video": ["v_Archery_g01_c01"],
    }


def spoil_hmdb(folder: Path) -> None:
    name = "A_film_wave_f_nm_np1_fr_goo_0.avi"
    write(folder, wave_test_split1__txt=f"{name} 1\nB_wave.avi 1\n{name} 7\n{name} 2 \n")


def spoil_kinetics(folder: Path) -> None:
    kinetics(folder)
    head = "label,youtube_id,time_start,time_end,split\n"
    write(
        folder,
        other__csv="label,id\na,b\n",
        val__csv=head + "juggling,q,0,10,val\n,r,0,10,val\nyoga,s,x,10,val\nyoga,-abc,5,15,val\n",
        train__csv=head + "yoga,-abc,5,15,train\narchery,t,1,2,dev\n",
    )


def spoil_ssv2(folder: Path) -> None:
    ssv2(folder)
    write(folder, train__json='[{"id":"1"},7]', validation__json="{}", old_labels__json="{}")


def spoil_ssv2_text(folder: Path) -> None:
    write(folder, labels__json="{", train__json="[]", validation__json="[]")


def spoil_ssv2_indices(folder: Path) -> None:
    ssv2(folder)
    write(folder, labels__json='{"Pulling something from left to right": "first"}')


@pytest.mark.parametrize(
    ("name", "split", "spoil", "expected"),
    [
        (
            "hmdb51", "1", spoil_hmdb,
            {
                "is no line 'SOURCE_CLASS_..._N.avi FLAG'": 2,
                "clip is listed twice in one split": 1,
            },
        ),
        ("hmdb51", "1", lambda folder: folder.mkdir(), {"has no file CLASS_test_splitN.txt": 1}),
        (
            "ucf101", "2", ucf,
            {"annotation file cannot be read (No such file or directory)": 2},
        ),
        (
            "kinetics400", "val", spoil_kinetics,
            {
                "has no column split, time_end, time_start, youtube_id": 1,
                "has no label": 1,
                "has no usable split, time_start or time_end": 2,
                "label 'juggling' is not among the classes": 1,
                "is annotated more than once": 1,
            },
        ),
        (
            "ssv2", "val", spoil_ssv2,
            {
                "holds 2 files *labels.json instead of one": 1,
                "has no id or no template": 2,
                "is no JSON list": 1,
            },
        ),
        (
            "ssv2", "val", spoil_ssv2_indices,
            {
                "has an index that is no number": 1,
                "label 'Pulling something from left to right' is not among the classes": 2,
                "label 'Pulling something from right to left' is not among the classes": 1,
            },
        ),
        (
            "ssv2", "test", spoil_ssv2_text,
            {
                "annotation file cannot be read (Expecting property name enclosed in double "
                "quotes: line 1 column 2 (char 1))": 1,
                "holds 0 files *test-answers.csv instead of one": 1,
            },
        ),
    ],
)  # fmt: skip
def test_annotations_that_cannot_be_used(
    tmp_path: Path,
    name: str,
    split: str,
    spoil: Callable[[Path], object],
    expected: dict[str, int],
) -> None:
    spoil(tmp_path / "a")
    root = videos(tmp_path / "v", "-abc.mp4", "q.mp4")
    found = problems(root, subset(name, tmp_path / "a", split))
    assert {reason: len(places) for reason, places in found.items()} == expected


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("", "has no column label, split, time_end, time_start, youtube_id"),
        ("x" * 200_000, "is no CSV (field larger than field limit (131072))"),
        ("label,youtube_id,time_start,time_end,split\n\nyoga,i,0,1\n",
         "has no usable split, time_start or time_end"),
    ],
)  # fmt: skip
def test_tables_that_are_none(tmp_path: Path, text: str, problem: str) -> None:
    folder = write(tmp_path / "a", val__csv=text)
    found = read_kinetics(folder, "val").problems
    assert [refusal.reason for refusal in found] == [problem]
    assert "usable" not in problem or found[0].path == "val.csv:3"


def test_latin_1_is_no_annotation(tmp_path: Path) -> None:
    folder = ucf(tmp_path / "a")
    (folder / "classInd.txt").write_bytes(b"1 \xe9\n")
    found = problems(videos(tmp_path / "v"), subset("ucf101", folder, "1"))
    assert "annotation file cannot be read (not UTF-8)" in found


def test_what_is_no_choice(tmp_path: Path) -> None:
    folder = ucf(tmp_path / "a")
    with pytest.raises(InputError, match="--split 4: ucf101 has all, 1, 2, 3"):
        find_official(tmp_path, subset("ucf101", folder, "4"))
    with pytest.raises(DataError, match="cannot be read"):
        find_official(tmp_path / "none", subset("ucf101", folder, "1"))
    with pytest.raises(DataError, match="videos of 0 classes"):
        find_official(videos(tmp_path / "v"), subset("ucf101", folder, "1"))


def test_the_summary_counts_and_names_examples(tmp_path: Path) -> None:
    annotations = kinetics(tmp_path / "a")
    rows = "".join(f"yoga,v{number},0,10,train\n" for number in range(9))
    with (annotations / "train.csv").open("a") as stream:
        stream.write(rows)
    with pytest.raises(AnnotationProblems, match=r"13 problems: .*has 2 classes, kinetics400 has "
                       r"400: .*; no such video: -abc_000005_000015, .* and 9 more"):  # fmt: skip
        find_official(videos(tmp_path / "v"), OfficialRequest("kinetics400", annotations, "val"))


def test_ucf_groups_are_of_one_class(tmp_path: Path) -> None:
    groups = {clip.group for clip in read_ucf101(ucf(tmp_path / "a"), "1").clips}
    assert groups == {"Archery_g08", "Basketball_g08", "Archery_g01"}
