"""A page as LaTeX tables for ``\\input``; its first line names the packages that they need."""

from __future__ import annotations

import math
import unicodedata
from collections.abc import Sequence
from dataclasses import replace
from itertools import groupby

from cmkd.report.page import Cell, Grid, Line, Page

PROVENANCE = frozenset({"arms", "runs"})
"""Grids that a paper has no room for; the other formats have them."""

UPRIGHT = 110
"""Letters of a line that a page holds upright; a wider table lies on its side, or would be shrunk
until nobody can read it."""
LYING = 40
"""Lines of a table that lies on its side, at most; one that is longer is held upright after all."""
LONG = 40
"""Letters of a cell from which on its column is set in lines of about so many."""

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


def escape(text: str) -> str:
    """Text that LaTeX sets as itself; what T1 fonts lack is a question mark."""
    one_line = " ".join(text.split())
    return "".join(_SPECIAL.get(char) or _letter(char) for char in one_line)


def render_page(page: Page) -> str:
    """One float per grid; the notes stand under the first."""
    floats = [grid for grid in page.grids if grid.name not in PROVENANCE]
    lines = [r"% \usepackage[T1]{fontenc} \usepackage{array,booktabs,graphicx,rotating,textcomp}"]
    for grid in floats:
        first = grid is page.grids[0]
        under = (f"{page.headline} {page.notice}", *page.circumstances, *page.how, *page.notes)
        lines += _float(page.name, grid, under if first else ())
    return "\n".join(lines) + "\n"


def _float(name: str, whole: Grid, under: tuple[str, ...]) -> list[str]:
    grid = _narrow(whole)
    layout = "".join(_alignment([line.cells[i] for line in grid.lines]) for i in _columns(grid))
    label = name if grid.name == "main" else f"{name}-{grid.name}"
    groups = [
        " \\\\\n".join(_row(line) for line in lines) + r" \\"
        for _, lines in groupby(grid.lines, key=lambda line: line.group)
    ]
    is_upright = _letters_across(grid) <= UPRIGHT or _lines_down(grid) > LYING
    kind = "table" if is_upright else "sidewaystable"
    notes = [rf"\par {escape(text)}" for text in under]
    return [
        "",
        rf"\begin{{{kind}}}[htbp]",
        r"\centering",
        rf"\caption{{{escape(grid.caption)}}}",
        rf"\label{{tab:cmkd-{label}}}",
        r"\footnotesize",
        # Never wider than the text, and never enlarged to its width.
        r"\resizebox{\ifdim\width>\textwidth\textwidth\else\width\fi}{!}{%",
        rf"\begin{{tabular}}{{{layout}}}",
        r"\toprule",
        " & ".join(_head(column) for column in grid.columns) + r" \\",
        r"\midrule",
        "\n\\midrule\n".join(groups),
        r"\bottomrule",
        r"\end{tabular}}",
        *([r"\par\smallskip\parbox{\textwidth}{\scriptsize", *notes, "}"] if notes else []),
        rf"\end{{{kind}}}",
    ]


def _alignment(cells: Sequence[Cell]) -> str:
    if not _is_text(cells):
        return "r"
    if _longest(cells) <= LONG:
        return "l"
    # A letter is about half an em wide.
    return rf">{{\raggedright\arraybackslash}}p{{{LONG // 2}em}}"


def _is_text(cells: Sequence[Cell]) -> bool:
    return all(cell.value is None for cell in cells)


def _longest(cells: Sequence[Cell]) -> int:
    return max(len(cell.text) for cell in cells)


def _narrow(grid: Grid) -> Grid:
    """The grid without its spare columns."""
    kept = [i for i, column in enumerate(grid.columns) if column not in grid.spare]
    lines = (replace(line, cells=tuple(line.cells[i] for i in kept)) for line in grid.lines)
    return replace(grid, columns=tuple(grid.columns[i] for i in kept), lines=tuple(lines))


def _head(text: str) -> str:
    """The heading of a column, in two lines where it has several words."""
    first, second = _halves(text)
    return rf"\shortstack{{{escape(first)}\\{escape(second)}}}" if second else escape(first)


def _halves(text: str) -> tuple[str, str]:
    """The text parted at the blank that leaves the longer part shortest."""
    words = text.split()
    splits = [(" ".join(words[:i]), " ".join(words[i:])) for i in range(1, len(words) + 1)]
    return min(splits, key=lambda parts: max(map(len, parts)), default=("", ""))


def _letters_across(grid: Grid) -> int:
    """Letters of the longest line of each column, and two for the space beside it."""
    across = 0
    for i, head in enumerate(grid.columns):
        cells = [line.cells[i] for line in grid.lines]
        longest = min(_longest(cells), LONG) if _is_text(cells) else _longest(cells)
        across += 2 + max(longest, *map(len, _halves(head)))
    return across


def _lines_down(grid: Grid) -> int:
    texts = [i for i in _columns(grid) if _is_text([line.cells[i] for line in grid.lines])]
    longest = (max((len(line.cells[i].text) for i in texts), default=1) for line in grid.lines)
    return sum(max(1, math.ceil(letters / LONG)) for letters in longest)


def _columns(grid: Grid) -> range:
    return range(len(grid.columns))


def _row(line: Line) -> str:
    return " & ".join(_cell(cell) for cell in line.cells)


def _cell(cell: Cell) -> str:
    text = escape(cell.text)
    return rf"\textbf{{{text}}}" if cell.best else text


def _letter(char: str) -> str:
    """A letter as LaTeX sets it: beyond Latin-1 by its accent and base letter."""
    if char.isascii() and char.isprintable():
        return char
    if "\N{LATIN CAPITAL LETTER A WITH GRAVE}" <= char <= "ÿ":
        return char
    if char in _LETTERS:
        return _LETTERS[char]
    base, *accents = list(unicodedata.normalize("NFD", char))
    if len(accents) == 1 and accents[0] in _ACCENTS and base.isascii():
        letter = {"i": r"\i", "j": r"\j"}.get(base, base)
        return f"\\{_ACCENTS[accents[0]]}{{{letter}}}"
    return "?"


_ACCENTS = {
    "\N{COMBINING GRAVE ACCENT}": "`",
    "\N{COMBINING ACUTE ACCENT}": "'",
    "\N{COMBINING CIRCUMFLEX ACCENT}": "^",
    "\N{COMBINING TILDE}": "~",
    "\N{COMBINING DIAERESIS}": '"',
    "\N{COMBINING MACRON}": "=",
    "\N{COMBINING BREVE}": "u",
    "\N{COMBINING DOT ABOVE}": ".",
    "\N{COMBINING RING ABOVE}": "r",
    "\N{COMBINING DOUBLE ACUTE ACCENT}": "H",
    "\N{COMBINING CARON}": "v",
    "\N{COMBINING CEDILLA}": "c",
    "\N{COMBINING OGONEK}": "k",
}
_LETTERS = {
    "ł": r"\l{}",
    "Ł": r"\L{}",
    "đ": r"\dj{}",
    "Đ": r"\DJ{}",
    "ı": r"\i{}",
    "œ": r"\oe{}",
    "Œ": r"\OE{}",
    "\N{EN DASH}": "--",
    "\N{LEFT DOUBLE QUOTATION MARK}": "``",
    "\N{RIGHT DOUBLE QUOTATION MARK}": "''",
    "\N{RIGHT SINGLE QUOTATION MARK}": "'",
}
