"""One page in LaTeX, HTML, CSV and JSON: nothing lost, nothing that its format would execute."""

from __future__ import annotations

import csv
import io
import json
import re
import shutil
import subprocess
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from cmkd.config.paths import packaged
from cmkd.report import latex
from cmkd.report.evidence import collect
from cmkd.report.latex import escape
from cmkd.report.page import (
    COLUMNS,
    Cell,
    Grid,
    Line,
    Page,
    Picture,
    render_csv,
    render_html,
    render_json,
)
from cmkd.report.paper import TABLES, all_works
from cmkd.report.table_page import build_page
from cmkd.report.tables import build_table
from cmkd.stats import Interval, without_outliers

if TYPE_CHECKING:
    from conftest import MemoryStore

HOSTILE = 'a|b<script>alert("1")</script>&\\input{/etc/passwd}$x_1^2$~%#\n# x\u202e{'


def hostile_page() -> Page:
    cell = Cell(HOSTILE, "measured", 1.0, trials=(HOSTILE,), best=True, arm=HOSTILE)
    grid = Grid("main", HOSTILE, HOSTILE, (HOSTILE, HOSTILE), (Line((cell, cell), HOSTILE),))
    return Page("4", HOSTILE, HOSTILE, HOSTILE, (grid,), (HOSTILE,), (HOSTILE,))


@pytest.fixture
def page(full_store: MemoryStore) -> Page:
    """Table 4 of the store that is full."""
    evidence = collect(full_store, full_store.sweep, "made-up")
    return build_page(build_table(TABLES["4"], evidence), version="cmkd 1")


def test_csv_has_every_cell_with_its_numbers_and_trials(page: Page) -> None:
    head, *rows = csv.reader(io.StringIO(render_csv(page)))
    assert tuple(head) == COLUMNS
    assert len(rows) == sum(len(grid.columns) * len(grid.lines) for grid in page.grids)
    cells = [dict(zip(head, row, strict=True)) for row in rows]
    both = [one for one in cells if (one["grid"], one["line"]) == ("main", "4")]
    printed, selected, delta = both[3], both[7], both[10]
    assert (printed["column"], printed["value"], printed["source"]) == (
        "Paper: UCF-101",
        "95.8",
        "published",
    )
    assert (selected["column"], selected["n"], selected["best"]) == (
        "made-up: selected epoch",
        "3",
        "1",
    )
    assert float(selected["value"]) == pytest.approx(250 / 3)
    assert float(selected["sd"]) == pytest.approx((100 / 3) ** 0.5)
    assert selected["trials"].split() == [f"trial-run-both-{seed}-0" for seed in range(3)]
    assert (delta["text"], float(delta["value"])) == ("+30.0 [−4.8, +64.8]", pytest.approx(30))
    assert float(delta["low"]) == pytest.approx(-4.81215, abs=1e-4)
    assert len(delta["trials"].split()) == 6


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("=1+1", "'=1+1"),
        ("@SUM(A1)", "'@SUM(A1)"),
        ("-cmd", "'-cmd"),
        ("+x", "'+x"),
        ("-2+3+cmd|' /C calc'!A0", "'-2+3+cmd|' /C calc'!A0"),
        ('+1+HYPERLINK("http://x","y")', '\'+1+HYPERLINK("http://x","y")'),
        ("+1 (2)+cmd|' /C calc'!A0", "'+1 (2)+cmd|' /C calc'!A0"),
        ("-1 to x|' /C calc'!A0", "'-1 to x|' /C calc'!A0"),
        ("+4.2", "+4.2"),
        ("-4.2", "-4.2"),
        ("+4.2 [+1, +2]", "+4.2 [+1, +2]"),
        ("+4.2 [−1.0, +2.0] ⚠", "+4.2 [−1.0, +2.0] ⚠"),
        ("+4.2 to control_long", "+4.2 to control_long"),
        ("+4.2 to gate[gate=off]", "+4.2 to gate[gate=off]"),
        ("+4.2 (1 pair) ⚠", "+4.2 (1 pair) ⚠"),
        (
            "+4.2 [+1.0, +7.0] to control_long (3 pairs)",
            "+4.2 [+1.0, +7.0] to control_long (3 pairs)",
        ),
        ("-", "-"),
        ("−1.0", "−1.0"),
    ],
)
def test_no_cell_of_csv_is_a_formula(text: str, shown: str) -> None:
    grid = Grid("main", "", "", ("c",), (Line((Cell(text),)),))
    rows = list(csv.reader(io.StringIO(render_csv(Page("4", "", "", "", (grid,), (), ())))))
    assert rows[1][COLUMNS.index("text")] == shown


def test_json_is_the_page(page: Page) -> None:
    whole = json.loads(render_json(page))
    assert (whole["schema"], whole["name"], whole["heading"]) == (1, "4", "Table 4 on made-up")
    assert [grid["name"] for grid in whole["grids"]] == ["main", "last", "arms", "runs"]
    main = whole["grids"][0]
    assert "Selected epoch: best validation." in whole["how_to_read"]
    line = main["lines"][4]
    assert line["group"] == "TSM"
    assert line["cells"][3] == {"text": "—", "source": "published"}
    assert line["cells"][7]["value"] == pytest.approx(160 / 3)
    assert json.loads(render_json(hostile_page()))["notes"] == [HOSTILE]


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("50 % of a_b & c", r"50 \% of a\_b \& c"),
        ("\\input{x}", r"\textbackslash{}input\{x\}"),
        ("Δ −1.0 ± 2 [x]", r"$\Delta$ $-$1.0 $\pm$ 2 {[}x{]}"),
        ("λ1 × 3 — ⚠ ‡", r"$\lambda$1 $\times$ 3 --- $\triangle$ $\ddagger$"),
        ("two\nlines", "two lines"),
        ("é \u4e2d \x1b", "é ? ?"),
        ("<|>~^#$", r"\textless{}\textbar{}\textgreater{}\textasciitilde{}\textasciicircum{}\#\$"),
    ],
)
def test_latex_escapes(text: str, shown: str) -> None:
    assert escape(text) == shown


def test_latex_is_balanced_and_complete(page: Page) -> None:
    text = latex.render_latex(page)
    assert text.count(r"\begin{tabular}") == text.count(r"\end{tabular}") == 2
    for rule in (r"\toprule", r"\bottomrule"):
        assert text.count(rule) == 2
    # The halves are parted by a rule of their own; runs and arms are no part of a paper.
    main = text.partition(r"\end{tabular}")[0]
    assert main.count(r"\midrule") == 2
    assert r"\textbf{83.3 $\pm$ 5.8 {[}" in main
    # What the second float says, and names of arms, are no part of the first.
    assert r"\shortstack{made{-}up:\\selected epoch}" in main and "last epoch" not in main
    assert "c0ffee" in text and "run-both" not in text and r"setting\_id" not in text
    lines = [line for line in main.splitlines() if line.endswith(r"\\")]
    assert len(lines) == 1 + len(page.grids[0].lines)
    assert {len(re.findall(r"(?<!\\)&", line)) for line in lines} == {8}
    assert r"\caption{Performance comparison" in text and "Selected epoch: best validation" in text
    bare = re.sub(r"\\[{}\\]", "", text)
    assert bare.count("{") == bare.count("}")


def test_latex_of_a_grid_without_lines() -> None:
    grid = Grid("pairs", "t", "no pair was measured", ("Claim", "Pair"), ())
    text = latex.render_latex(Page("claims", "h", "l", "n", (grid,), (), ()))
    assert r"\begin{tabular}{ll}" in text and "no pair was measured" in text


def test_latex_takes_no_command_from_a_name() -> None:
    text = latex.render_latex(hostile_page())
    assert r"\input" not in text.partition("\n")[2]
    assert text.count("\n# x") == 0
    bare = re.sub(r"\\[{}]", "", text)
    assert bare.count("{") == bare.count("}")


@pytest.mark.slow
@pytest.mark.skipif(not shutil.which("pdflatex"), reason="needs pdflatex, of TeX Live")
@pytest.mark.parametrize("option", ["", "[twocolumn]"])
def test_latex_compiles(page: Page, tmp_path: Path, option: str) -> None:
    (tmp_path / "a.tex").write_text(latex.render_latex(page), encoding="utf-8")
    (tmp_path / "b.tex").write_text(latex.render_latex(hostile_page()), encoding="utf-8")
    (tmp_path / "works.bib").write_text(latex.render_bib(all_works()), encoding="utf-8")
    packages = r"\usepackage[T1]{fontenc}\usepackage{array,booktabs,graphicx,rotating,textcomp}"
    works = r"\bibliographystyle{plain}\bibliography{works}"
    body = rf"\begin{{document}}\input{{a}}\input{{b}}{works}\end{{document}}"
    (tmp_path / "all.tex").write_text(rf"\documentclass{option}{{article}}{packages}{body}")
    command = ["pdflatex", "-interaction=nonstopmode", "-halt-on-error", "all.tex"]
    for program in (command, ["bibtex", "all"], command, command):
        done = subprocess.run(program, cwd=tmp_path, capture_output=True, text=True, timeout=120)
        assert done.returncode == 0, done.stdout[-2000:]
    log = (tmp_path / "all.log").read_text(encoding="latin-1")
    assert "Overfull" not in log and "undefined" not in log


def test_latex_cites_the_works_of_the_paper(page: Page) -> None:
    main = page.grids[0].lines[0].cells[0].text
    assert "[" in main
    text = latex.render_latex(page)
    cited = set(re.findall(r"\\cite\{cmkd:(\d+)\}", text))
    keys = set(re.findall(r"@misc\{cmkd:(\d+),", latex.render_bib(all_works())))
    assert cited == {"17", "18"} and cited <= keys and len(keys) == 15
    assert "cmkd:" not in latex.render_latex(replace(page, is_cited=False))


def test_html_draws_every_interval_to_the_scale_of_its_column(page: Page) -> None:
    def difference(value: float) -> Cell:
        return Cell(f"{value:+}", "measured", value, interval=Interval(value - 1, value + 1))

    values = (1.0, 2.0, 3.0, 2.5, 7.0, -76.0)
    lines = tuple(Line((Cell("arm"), difference(value))) for value in values)
    grid = Grid("main", "t", "c", ("Method", "Δ to control"), lines)
    text = render_html([replace(page, grids=(grid,))], {}, title="t")
    marks = re.findall(r'<i style="left: ([\d.]+)%"></i><i style="left: ([\d.]+)%">', text)
    # From zero to 8, the end of the longest interval but for the outlier, which is at the edge.
    assert [float(mean) for mean, _ in marks] == [12.5, 25.0, 37.5, 31.2, 87.5, 0.0]
    assert {float(zero) for _, zero in marks} == {0.0}


class Outline(HTMLParser):
    """The tags of a page in order, with their attributes, and whether all are closed."""

    VOID = frozenset({"meta", "img"})

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text: list[str] = []
        self._open: list[str] = []
        self.feed(text)
        self.close()
        assert not self._open

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in self.VOID:
            self._open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self._open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text.append(data)


def test_html_is_well_formed_and_accessible(page: Page) -> None:
    pictures = [
        Picture("more", "More", HOSTILE, HOSTILE, b"<svg/>", b""),
        Picture("", "Arms", "all arms", "n = 3", b"<svg/>", b""),
    ]
    outline = Outline(render_html([page], {page.key: pictures}, title="t"))
    names = [tag for tag, _ in outline.tags]
    assert names[0] == "html" and outline.tags[0][1] == {"lang": "en"}
    assert names.count("h1") == 1 and names.count("table") == names.count("caption") == 4
    heads = [attrs.get("scope") for tag, attrs in outline.tags if tag == "th"]
    lines = sum(len(grid.lines) for grid in page.grids)
    assert heads.count("row") == lines
    assert heads.count("col") == sum(len(grid.shown) for grid in page.grids)
    assert len(heads) == heads.count("row") + heads.count("col")
    images = [attrs for tag, attrs in outline.tags if tag == "img"]
    assert [one["src"] for one in images] == ["data:image/svg+xml;base64,PHN2Zy8+"] * 2
    # The figure without a name is the table's own, and stands above it.
    assert [one["alt"] for one in images] == ["all arms", HOSTILE]
    assert names.count("figcaption") == 2 and f" {HOSTILE}" in outline.text
    assert (
        names.index("figure")
        < names.index("table")
        < names.index("figcaption", names.index("table"))
    )
    anchors = {attrs["href"] for tag, attrs in outline.tags if tag == "a"}
    assert anchors == {f"#{attrs['id']}" for tag, attrs in outline.tags if "id" in attrs}
    best = [attrs for tag, attrs in outline.tags if attrs.get("class") == "measured best"]
    # "both" is 6.7 points above the next, at the selected epoch and in the grid of the last.
    assert len(best) == 2
    assert best[0]["data-trials"] == " ".join(f"trial-run-both-{seed}-0" for seed in range(3))


def test_html_asks_the_network_for_nothing(page: Page) -> None:
    text = render_html([page, hostile_page()], {}, title=HOSTILE)
    outline = Outline(text)
    assert not {tag for tag, _ in outline.tags} & {"script", "link", "iframe", "object", "base"}
    policy = next(a["content"] for _, a in outline.tags if a.get("http-equiv"))
    assert policy == "default-src 'none'; style-src 'unsafe-inline'; img-src data:"
    assert "url(" not in text and "@import" not in text
    assert not [a for _, a in outline.tags if a.get("href", "#").partition("#")[0]]  # type: ignore[union-attr]
    assert not [a for _, a in outline.tags if any(key.startswith("on") for key in a)]
    assert HOSTILE in outline.text


def test_html_follows_the_readers_colours(page: Page) -> None:
    text = render_html([page], {}, title="t")
    assert "color-scheme: light dark" in text and "prefers-color-scheme: dark" in text


def test_a_table_of_long_lines_lies_on_its_side(page: Page) -> None:
    def kind(letters: int, lines: int = 1) -> str:
        cells = tuple(Cell("x" * letters) for _ in range(4))
        grid = Grid("main", "t", "c", ("a", "b", "c", "d"), (Line(cells, ""),) * lines)
        text = latex.render_latex(replace(page, grids=(grid,)))
        return text.partition("\\begin{")[2].partition("}")[0]

    assert (kind(10), kind(20), kind(40)) == ("table", "table*", "sidewaystable*")
    # A page on its side is not as high: of many lines, also of long texts, some would be cut off.
    assert (kind(40, 40), kind(40, 41), kind(81, 14)) == ("sidewaystable*", "table*", "table*")


def test_latex_sets_long_texts_in_lines_of_their_own_column() -> None:
    sentence = Cell("spatial KD improves on the baseline " * 6)
    number = Cell("1.0 [0.0, 2.0], which is an average over 300 seeds of 3 folds", "measured", 1.0)
    line = Line((Cell("short"), sentence, number), "")
    grid = Grid("main", "t", "c", ("Claim", "Sentence", "Mean"), (line,))
    text = latex.render_latex(Page("4", "h", "l", "n", (grid,), (), ()))
    wide = r">{\raggedright\arraybackslash}p{20em}"
    assert rf"\begin{{tabular}}{{l{wide}r}}" in text
    # Its lines of 40 letters are what counts for the width of the page, not its 200 letters.
    assert r"\begin{sidewaystable*}" in text
    short = Grid("main", "t", "c", ("Claim", "Sentence"), (Line((Cell("a"), sentence), ""),))
    assert r"\begin{table}" in latex.render_latex(Page("4", "h", "l", "n", (short,), (), ()))


def test_an_outlier_does_not_set_the_range() -> None:
    assert without_outliers([87.7, 94.8, 90.5, 95.5, 88.8, 90.3, 87.2, 12.2]) == (87.2, 95.5)
    assert without_outliers([1.0, 2.0, 4.0]) == (1.0, 4.0)
    assert without_outliers([3.0]) == (3.0, 3.0)


def test_a_table_of_ones_own_cites_no_work_of_the_paper(
    full_store: MemoryStore, tmp_path: Path
) -> None:
    own = tmp_path / "own.yaml"
    text = packaged("reports", "published", "table_4.yaml").read_text(encoding="utf-8")
    assert "Lin, Gan and Han" in text
    own.write_text(text.replace("Lin, Gan and Han", "Somebody else"), encoding="utf-8")
    evidence = collect(full_store, full_store.sweep, "made-up")
    for published, is_cited in (("table_4", True), (str(own), False)):
        table = build_table(replace(TABLES["4"], published=published), evidence)
        assert (r"\cite{cmkd:17}" in latex.render_latex(build_page(table, version="t"))) is is_cited
