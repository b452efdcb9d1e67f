"""A page as LaTeX tables for ``\\input``; its first line names the packages that they need.

The tables fit documents of one column and of two.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from itertools import groupby

from cmkd.report.page import Cell, Grid, Page

PROVENANCE = frozenset({"arms", "runs"})
"""Grids that a paper has no room for; the other formats have them."""

COLUMN = 55
"""Letters of a line in one of two columns; a wider table goes over both."""
UPRIGHT = 110
"""Letters of a line that a page holds upright; a wider table lies on its side."""
LYING = 40
"""Most lines of a table that lies on its side; a longer one stands upright."""
LONG = 40
"""Most letters of a line in a column of text; longer cells are broken."""

_SPECIAL = {
    "\\": r"\textbackslash{}",
    "{": r"\{",
    "}": r"\}",
    "$": r"\$",
    "&": r"\&",
    "%": r"\%",
    "#": r"\#",
    "_": r"\_",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "|": r"\textbar{}",
    '"': r"\textquotedbl{}",
    "[": "{[}",
    "]": "{]}",
    "-": "{-}",
    "\N{EM DASH}": "---",
    "\N{MINUS SIGN}": "$-$",
    "\N{PLUS-MINUS SIGN}": r"$\pm$",
    "\N{MULTIPLICATION SIGN}": r"$\times$",
    "\N{GREEK CAPITAL LETTER DELTA}": r"$\Delta$",
    "\N{GREEK SMALL LETTER LAMDA}": r"$\lambda$",
    "\N{WARNING SIGN}": r"$\triangle$",
    "\N{DAGGER}": r"$\dagger$",
    "\N{DOUBLE DAGGER}": r"$\ddagger$",
    "\N{SECTION SIGN}": r"\S{}",
    "`": r"\textasciigrave{}",
    "'": r"\textquotesingle{}",
}
_LATIN = re.compile("[ -~\u00c0-\u017f\u2013\u2019\u201c\u201d]")
"""ASCII, Latin-1 and Latin Extended-A letters, and quotes, as LaTeX reads them in UTF-8."""


def escape(text: str) -> str:
    """Text that LaTeX sets as itself; a letter beyond the Latin ones of T1 is a question mark."""
    one_line = " ".join(text.split())
    return "".join(
        _SPECIAL.get(char) or (char if _LATIN.fullmatch(char) else "?") for char in one_line
    )


_CITED = re.compile(r" ?\[(\d+)\]")
_WORK = re.compile(r'(?P<authors>[^"]+), "(?P<title>[^"]+)", (?P<where>.+),? (?P<year>\d{4})')


def render_bib(works: Mapping[str, str]) -> str:
    """BibTeX with keys `cmkd:N` of works: number -> 'Authors, "title", venue year'."""
    entries = []
    for number, work in works.items():
        found = _WORK.fullmatch(work)
        assert found, f'citation {number}: {work!r} is not: Authors, "title", venue year'
        authors = " and ".join(
            re.split(r", | and ", found["authors"].replace(" et al.", ", others"))
        )
        fields = {
            "author": escape(authors),
            "title": f"{{{escape(found['title'])}}}",
            "howpublished": escape(found["where"].rstrip(",")),
            "year": found["year"],
        }
        lines = (f"  {name} = {{{value}}}" for name, value in fields.items())
        entries.append(f"@misc{{cmkd:{number},\n" + ",\n".join(lines) + "\n}\n")
    return "\n".join(entries)


def render_latex(page: Page) -> str:
    """One float per grid; the notes stand under the first."""
    lines = [r"% \usepackage[T1]{fontenc} \usepackage{array,booktabs,graphicx,rotating,textcomp}"]
    notes = (
        f"{page.headline} {page.notice}",
        *page.warnings,
        *page.circumstances,
        *page.how,
        *page.notes,
    )
    for grid in page.grids:
        if grid.name not in PROVENANCE:
            lines += _float(page, grid, notes if grid is page.grids[0] else ())
    return "\n".join(lines) + "\n"


def _float(page: Page, grid: Grid, under: Sequence[str]) -> list[str]:
    kept = grid.shown
    columns = [[line.cells[i] for line in grid.lines] for i in kept]
    heads = [_halves(grid.columns[i]) for i in kept]
    label = page.name if grid.name == "main" else f"{page.name}-{grid.name}"
    groups = [
        "\n".join(
            " & ".join(_cell(line.cells[i], is_cited=page.is_cited and not i) for i in kept)
            + r" \\"
            for line in lines
        )
        for _, lines in groupby(grid.lines, key=lambda line: line.group)
    ]
    # Two letters of space beside each column.
    across = sum(
        2 + max(_width(cells), *map(len, head)) for cells, head in zip(columns, heads, strict=True)
    )
    is_upright = across <= UPRIGHT or _lines_down(columns) > LYING
    kind = "table" if across <= COLUMN else "table*" if is_upright else "sidewaystable*"
    width = r"\columnwidth" if across <= COLUMN else r"\textwidth"
    notes = [rf"\par {escape(text)}" for text in under]
    return [
        "",
        rf"\begin{{{kind}}}[htbp]",
        r"\centering",
        rf"\caption{{{escape(grid.caption)}}}",
        rf"\label{{tab:cmkd-{label}}}",
        r"\footnotesize",
        # Never wider than the text, and never enlarged to its width.
        rf"\resizebox{{\ifdim\width>{width}{width}\else\width\fi}}{{!}}{{%",
        rf"\begin{{tabular}}{{{''.join(map(_alignment, columns))}}}",
        r"\toprule",
        " & ".join(map(_head, heads)) + r" \\",
        r"\midrule",
        "\n\\midrule\n".join(groups),
        r"\bottomrule",
        r"\end{tabular}}",
        *(
            [rf"\par\smallskip\parbox{{{width}}}{{\scriptsize\raggedright", *notes, "}"]
            if notes
            else []
        ),
        rf"\end{{{kind}}}",
    ]


def _cell(cell: Cell, *, is_cited: bool) -> str:
    text = escape(cell.text)
    if is_cited:
        text = "".join(
            escape(part) if place % 2 == 0 else rf"~\cite{{cmkd:{part}}}"
            for place, part in enumerate(_CITED.split(cell.text))
        )
    return rf"\textbf{{{text}}}" if cell.best else text


def _head(halves: tuple[str, str]) -> str:
    """The heading of a column, in two lines where it has several words."""
    first, second = map(escape, halves)
    return rf"\shortstack{{{first}\\{second}}}" if second else first


def _halves(text: str) -> tuple[str, str]:
    """The text parted at the blank that leaves the longer part shortest."""
    words = text.split()
    splits = [(" ".join(words[:i]), " ".join(words[i:])) for i in range(1, len(words) + 1)]
    return min(splits, key=lambda parts: max(map(len, parts)), default=("", ""))


def _is_text(cells: Sequence[Cell]) -> bool:
    return all(cell.value is None for cell in cells)


def _longest(cells: Sequence[Cell]) -> int:
    return max((len(cell.text) for cell in cells), default=0)


def _width(cells: Sequence[Cell]) -> int:
    """Letters across a column."""
    return min(_longest(cells), LONG) if _is_text(cells) else _longest(cells)


def _lines_down(columns: Sequence[Sequence[Cell]]) -> int:
    """Lines of print, where long texts take several."""
    texts = [cells for cells in columns if _is_text(cells)]
    broken = sum(max(1, math.ceil(_longest(row) / LONG)) for row in zip(*texts, strict=True))
    return max(broken, len(columns[0]))


def _alignment(cells: Sequence[Cell]) -> str:
    if not _is_text(cells):
        return "r"
    if _longest(cells) <= LONG:
        return "l"
    # A letter is about half an em wide.
    return rf">{{\raggedright\arraybackslash}}p{{{LONG // 2}em}}"
