"""The figure of what it costs to get at the inputs: time, and bytes, by way of decoding."""

from __future__ import annotations

from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import NullLocator

from cmkd.report.decoding import NAMES, Decoding
from cmkd.report.decoding_page import TITLE, what_text
from cmkd.report.figures.style import (
    BLUE,
    GREY,
    NORMAL,
    SMALL,
    VERMILLION,
    WIDTH,
    plain,
    save,
    style,
)
from cmkd.report.page import Picture


def decoding_picture(measured: Decoding) -> Picture:
    """The figure with what has to be said about it."""
    title = f"Decoding on {measured.data}: time and bytes per clip"
    ways = "; ".join(
        f"{NAMES[one.way]} {one.ms:.1f} ms, {one.ratio:.2f} times full decoding"
        for one in measured.ways
    )
    alt = f"{title}. {ways}; the values are those of the table"
    caption = (
        f"{what_text(measured)} Bars of time reach over the middle half of the clips. "
        "Reduced-resolution decoding is measured for its cost alone; nothing is trained on it. "
        "Not in the paper."
    )
    return Picture("", title, alt, caption, *save(draw_decoding(measured)))


def draw_decoding(measured: Decoding) -> Figure:
    """Time on the left, bytes on the right; ways from top to bottom as in the table."""
    ways = measured.ways
    figure = Figure(figsize=(WIDTH, 1.7 + 0.3 * len(ways)), layout="constrained")
    time, size = figure.subplots(1, 2, sharey=True)
    for place, one in enumerate(ways):
        ours = one.way == "compressed"
        colour, marker = (VERMILLION, "D") if ours else (BLUE, "o")
        time.plot([one.ms_low, one.ms_high], [place, place], color=colour, linewidth=2)
        time.plot(one.ms, place, marker, color=colour, markersize=6, zorder=3)
        reach = [one.bytes_read / 1000, one.bytes_kept / 1000]
        size.plot(reach, [place, place], color=GREY, linewidth=1)
        size.plot(reach[0], place, "s", color=GREY, markersize=6, zorder=3)
        size.plot(reach[1], place, "^", color=colour, mfc="white", markersize=7, zorder=3)
    usual = next(one for one in ways if one.way == "rgb")
    time.axvline(usual.ms, color=GREY, linewidth=1, linestyle="--", zorder=1)
    time.set_yticks(range(len(ways)), [plain(_broken(NAMES[one.way])) for one in ways])
    time.set_ylim(len(ways) - 0.5, -0.5)
    time.set_xlim(left=0)
    time.set_xlabel("CPU ms per clip, one thread", fontsize=NORMAL)
    size.set_xscale("log")
    kilobytes = [count / 1000 for one in ways for count in (one.bytes_read, one.bytes_kept)]
    low, high = min(kilobytes) / 1.5, max(kilobytes) * 1.5
    size.set_xlim(low, high)
    ticks = [step * 10.0**power for power in range(-3, 7) for step in (1, 3)]
    size.set_xticks([one for one in ticks if low < one < high], minor=False)
    size.xaxis.set_major_formatter("{x:g}")
    size.xaxis.set_minor_locator(NullLocator())
    size.set_xlabel("kB per clip (logarithmic)", fontsize=NORMAL)
    for axes in (time, size):
        axes.tick_params(labelsize=SMALL)
        style(axes, grid="x")
    figure.suptitle(plain(f"{TITLE}: {measured.data}"), fontsize=NORMAL, fontweight="bold")
    handles = [
        Line2D([], [], ls="", marker="D", color=VERMILLION, ms=6, label="ours"),
        Line2D([], [], ls="", marker="o", color=BLUE, ms=6, label="other ways"),
        Line2D([], [], color=GREY, ls="--", lw=1, label="full decoding"),
        Line2D([], [], ls="", marker="s", color=GREY, ms=6, label="compressed, decoded"),
        Line2D([], [], ls="", marker="^", color=BLUE, mfc="white", ms=7, label="arrays kept"),
    ]
    figure.legend(
        handles=handles, loc="outside lower center", ncols=5, frameon=False, fontsize=SMALL
    )
    return figure


def _broken(name: str) -> str:
    """In two lines where it is long."""
    first, comma, rest = name.partition(", ")
    if comma and len(name) > 24:
        return f"{first},\n{rest}"
    first, bracket, rest = name.partition(" (")
    return f"{first}\n({rest}" if bracket else name
