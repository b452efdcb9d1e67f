"""What decoding costs as a page, a figure and files of a report: a table of no sweep."""

from __future__ import annotations

import copy
import csv
import io
import json
import re
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest
from matplotlib.text import Text
from typer.testing import CliRunner

from cmkd.cli.report import app
from cmkd.errors import InputError, TrialFailed
from cmkd.report.decoding import FILE, NAMES, Decoding, read_decoding
from cmkd.report.decoding_page import build_decoding_page
from cmkd.report.figures.decoding import decoding_picture, draw_decoding
from cmkd.report.writers.data import render_csv
from cmkd.report.writers.latex import render_page as render_latex

MS = {"rgb": 10.0, "half": 8.0, "quarter": 5.0, "compressed": 12.34, "motion": 7.0, "iframes": 2.0}
ERRORS = {"half": (1.26, 2.5), "quarter": (2.0, 4.0)}


def record() -> dict[str, Any]:
    """A measurement as ``cmkd cost --decoding`` writes it, made up."""
    ways = [
        {
            "way": way,
            "ms": ms,
            "ms_low": ms - 1,
            "ms_high": ms + 1,
            "ratio": ms / 10,
            "frames": 60.5,
            "bytes_read": 400_000.0,
            "bytes_kept": 1_500_000.0,
            "error_intra": ERRORS.get(way, (None, None))[0],
            "error": ERRORS.get(way, (None, None))[1],
        }
        for way, ms in MS.items()
    ]
    return {
        "data": "gestures",
        "data_id": "abc123",
        "data_kind": "folder",
        "clips": 50,
        "of_clips": 217,
        "length": 75.2,
        "num_frames": 8,
        "width": 320,
        "height": 256,
        "gop": 12,
        "platform": "Linux x86_64, Python 3.12.1",
        "version": "cmkd 0.9",
        "ways": ways,
    }


@pytest.fixture
def measured() -> Decoding:
    return Decoding.model_validate_json(json.dumps(record()))


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working directory without a store, with the measurement where a report looks for it."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    out = tmp_path / "out"
    out.mkdir()
    (out / FILE).write_text(json.dumps(record()))
    return out


def run(*arguments: str) -> tuple[str, BaseException | None]:
    result = CliRunner().invoke(app, [*arguments])
    return result.output, result.exception


def without(key: str) -> dict[str, Any]:
    broken = record()
    del broken[key]
    return broken


def changed(place: int, **values: Any) -> dict[str, Any]:
    broken = copy.deepcopy(record())
    broken["ways"][place].update(values)
    return broken


@pytest.mark.parametrize(
    ("content", "what"),
    [
        ("", "no costs of decoding: Invalid JSON"),
        ("[]", "no costs of decoding"),
        (json.dumps(without("gop")), "at gop"),
        (json.dumps(changed(0, ms="10")), "at ways.0.ms"),
        (json.dumps(changed(1, error=-1.0)), "at ways.1.error"),
        (json.dumps(changed(2, way="half")), "ways must be rgb, half, quarter, compressed"),
        (json.dumps(record() | {"ways": record()["ways"][:5]}), "once and in this order"),
        (json.dumps(record() | {"clips": 0}), "at clips"),
    ],
)
def test_a_wrong_file_is_refused(tmp_path: Path, content: str, what: str) -> None:
    path = tmp_path / FILE
    path.write_text(content)
    with pytest.raises(InputError, match=f"{FILE}.*{what}.*cmkd cost --decoding"):
        read_decoding(path)


def test_no_file_is_no_measurement_and_a_folder_no_file(tmp_path: Path) -> None:
    assert read_decoding(tmp_path / FILE) is None
    with pytest.raises(InputError, match="cannot be read"):
        read_decoding(tmp_path)


def test_the_table_has_what_was_measured(measured: Decoding) -> None:
    page = build_decoding_page(measured, version="cmkd 1")
    (grid,) = page.grids
    rows = {line.cells[0].text: [cell.text for cell in line.cells[1:]] for line in grid.lines}
    assert list(rows) == list(NAMES.values())
    assert rows[NAMES["compressed"]] == [
        *("12.3 [11.3, 13.3]", "1.23 ×", "60.5", "400", "1,500", "—", "—"),
    ]
    assert rows[NAMES["half"]][-2:] == ["1.3", "2.5"]
    cells = list(csv.DictReader(io.StringIO(render_csv(page))))
    (ours,) = (
        one
        for one in cells
        if one["row"] == NAMES["compressed"] and one["column"].startswith("CPU ms")
    )
    assert [ours[key] for key in ("value", "low", "high")] == ["12.34", "11.34", "13.34"]
    assert not any(one["trials"] for one in cells), "no trial stands behind it"


def test_it_says_what_was_measured_and_what_was_not(measured: Decoding) -> None:
    page = build_decoding_page(measured, version="cmkd 1")
    assert "not in the paper" in page.grids[0].title and "The paper has no such" in page.headline
    caption = page.grids[0].caption
    for part in ("50 of 217 clips", "gestures (folder, data_id abc123", "CPU, one thread"):
        assert part in caption
    assert "8 sampled positions" in caption and "75 frames a clip" in caption
    said = " ".join(page.circumstances)
    assert "nothing is trained on it, and its effect on accuracy is not known" in said
    assert "Measured by cmkd 0.9 on Linux x86_64, Python 3.12.1; report by cmkd 1." in said
    whole = measured.model_copy(update={"clips": 217})
    assert "over all 217 clips" in build_decoding_page(whole, version="").grids[0].caption


def test_the_figure_is_legible_and_the_same_each_time(measured: Decoding) -> None:
    one, other = decoding_picture(measured), decoding_picture(measured)
    assert (one.svg, one.png) == (other.svg, other.png)
    assert ElementTree.fromstring(one.svg).tag.endswith("svg") and one.png.startswith(b"\x89PNG")
    assert one.alt.startswith(one.title) and "ours: I-frames, motion, residuals 12.3 ms" in one.alt
    for part in ("gestures", "one thread", "nothing is trained on it", "Not in the paper"):
        assert part in one.caption
    figure = draw_decoding(measured)
    texts = [text for text in figure.findobj(Text) if text.get_text()]
    assert min(text.get_fontsize() for text in texts) >= 7 and figure.get_figwidth() <= 7.2
    time, size = figure.axes
    drawn = {tuple(line.get_xdata()) for line in time.get_lines()}
    assert {(12.34,), (11.34, 13.34), (10.0, 10.0)} <= drawn
    assert not time.xaxis.get_minorticklocs().size and not size.xaxis.get_minorticklocs().size


def test_ours_is_told_apart_without_colour(measured: Decoding) -> None:
    time, _ = draw_decoding(measured).axes
    markers = {
        line.get_ydata()[0]: line.get_marker()
        for line in time.get_lines()
        if line.get_marker() != "None"
    }
    assert markers == {place: "D" if place == 3 else "o" for place in range(6)}


def test_a_report_has_it_in_every_format(folder: Path) -> None:
    output, error = run("tables", "--out", str(folder))
    assert error is None
    kinds = ("md", "tex", "csv", "json", "png", "svg")
    names = {f"decoding_gestures.{kind}" for kind in kinds} | {"report_gestures.html", FILE}
    assert {path.name for path in folder.iterdir()} == names
    assert "> **The paper has no such table.**" in output and "left out: " in output
    text = (folder / "decoding_gestures.md").read_text()
    assert "](decoding_gestures.svg)" in text and "12.3" in text
    html = (folder / "report_gestures.html").read_text()
    assert html.count("data:image/svg+xml;base64,") == 1 and 'id="table-decoding"' in html
    assert json.loads((folder / "decoding_gestures.json").read_text())["name"] == "decoding"


def test_it_stands_beside_tables(folder: Path) -> None:
    options = ("--format", "md,html", "--no-plots", "--out", str(folder))
    assert run("tables", "--table", "1", "--table", "decoding", *options)[1] is None
    names = {path.name for path in folder.iterdir()}
    html = "report_1_decoding_synthetic.html"
    assert names == {"table_1_synthetic.md", "decoding_gestures.md", html, FILE}
    text = (folder / html).read_text()
    assert text.index('id="table-1"') < text.index('id="table-decoding"')


def test_other_tables_are_written_without_it(folder: Path) -> None:
    assert run("tables", "--table", "1", "--format", "md", "--out", str(folder))[1] is None
    assert {path.name for path in folder.iterdir()} == {"table_1_synthetic.md", FILE}


def test_what_was_not_measured_names_the_command(folder: Path) -> None:
    (folder / FILE).unlink()
    _, error = run("tables", "--table", "decoding", "--out", str(folder))
    assert isinstance(error, InputError)
    assert f"measure it with: cmkd cost --decoding DATA --out {folder}" in str(error)
    assert list(folder.iterdir()) == []


def test_verify_holds_it_against_the_measurement(folder: Path) -> None:
    assert run("tables", "--out", str(folder))[1] is None
    output, error = run("verify", str(folder))
    assert error is None and "7 files" in output
    (folder / FILE).write_text(json.dumps(changed(3, ms=13.0)))
    output, error = run("verify", str(folder))
    assert isinstance(error, TrialFailed) and "decoding_gestures.md: line" in output


def test_verify_knows_what_is_not_of_the_report(folder: Path) -> None:
    assert run("tables", "--out", str(folder))[1] is None
    (folder / "table_4_made_up.md").write_text("made up")
    (folder / "notes.md").write_text("of the user's own")
    output, error = run("verify", str(folder))
    assert isinstance(error, TrialFailed)
    assert f"{folder}/table_4_made_up.md: is not of this report" in output
    assert "notes.md" not in output


def test_latex_is_balanced(measured: Decoding) -> None:
    text = render_latex(build_decoding_page(measured, version="cmkd 1"))
    assert r"\label{tab:cmkd-decoding}" in text and r"12.3 {[}11.3, 13.3{]}" in text
    bare = re.sub(r"\\[{}\\]", "", text)
    assert bare.count("{") == bare.count("}")
