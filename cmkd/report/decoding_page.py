"""The page of what it costs to get at the inputs; no table of the paper."""

from __future__ import annotations

from collections.abc import Iterator

from cmkd.report.decoding import NAMES, Decoding, WayCost
from cmkd.report.page import Cell, Grid, Line, Page
from cmkd.report.text import DASH, plural

NAME = "decoding"
TITLE = "What it costs to get at the inputs (not in the paper)"
_TIMES = "\N{MULTIPLICATION SIGN}"


def build_decoding_page(measured: Decoding, *, version: str) -> Page:
    """Put a measurement into words; `version` names what wrote the report."""
    columns = (
        "Way of decoding",
        "CPU ms per clip [middle half of clips]",
        "To full decoding",
        "Frames decoded",
        "kB decoded, compressed",
        "kB kept",
        "Error of I-frames",
        "Error of P-frames",
    )
    lines = tuple(Line(tuple(_cells(one))) for one in measured.ways)
    return Page(
        name=NAME,
        heading=f"Decoding on {measured.data}",
        headline="The paper has no such table.",
        notice="Its argument for the compressed domain is that decoding is saved; this is what "
        "is saved, or not, on one thread of a CPU. No accuracy rests on these numbers.",
        grids=(Grid("main", TITLE, f"{TITLE}. {what_text(measured)}", columns, lines),),
        circumstances=(
            *reading_lines(measured),
            f"Measured by {measured.version} on {measured.platform}; report by {version}.",
        ),
        notes=(),
    )


def what_text(measured: Decoding) -> str:
    """What was measured, and on what."""
    some = (
        f"{measured.clips} of {plural(measured.of_clips, 'clip')}, evenly spread,"
        if measured.clips < measured.of_clips
        else f"all {plural(measured.clips, 'clip')}"
    )
    return (
        f"Means over {some} of {measured.data} ({measured.data_kind}, data_id {measured.data_id}; "
        f"{measured.width}x{measured.height}, GOP {measured.gop}, {measured.length:.0f} frames a "
        f"clip on average), {measured.num_frames} sampled positions a clip. CPU, one thread; the "
        "file is opened, decoded and turned into arrays."
    )


def reading_lines(measured: Decoding) -> Iterator[str]:
    """How the columns are to be read."""
    yield (
        "Full decoding goes from the first frame to the last sampled one and converts only the "
        "sampled frames. Ours decodes the GOPs that hold a sampled frame, once as usual and once "
        "without residuals, traces motion back to the I-frame and pools it; what both decoders "
        "read counts once."
    )
    yield (
        "To full decoding: ratio of CPU times on the same clip, median over clips; above 1 a way "
        "costs more than full decoding does."
    )
    yield (
        "Reduced-resolution decoding (lowres) is measured for its cost alone: nothing is trained "
        "on it, and its effect on accuracy is not known. Its error is the mean distance, in grey "
        "levels of 255, to whole pictures averaged to the same size. That of I-frames is the "
        "smaller inverse DCT's; what P-frames have more has drifted in, since their motion is "
        "compensated on small pictures."
    )


def _cells(one: WayCost) -> Iterator[Cell]:
    yield Cell(NAMES[one.way])
    spread = f"[{one.ms_low:.1f}, {one.ms_high:.1f}]"
    yield Cell(f"{one.ms:.1f} {spread}", "measured", one.ms, low=one.ms_low, high=one.ms_high)
    yield Cell(f"{one.ratio:.2f} {_TIMES}", "measured", one.ratio)
    yield Cell(f"{one.frames:.1f}", "measured", one.frames)
    for count in (one.bytes_read, one.bytes_kept):
        yield Cell(f"{count / 1000:,.0f}", "measured", count)
    for error in (one.error_intra, one.error):
        yield Cell(DASH) if error is None else Cell(f"{error:.1f}", "measured", error)
