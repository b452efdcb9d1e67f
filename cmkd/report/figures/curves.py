"""Figures of curves: accuracy along the weights of the losses, and training over the epochs."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import TypeVar

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch

from cmkd.config.trial import Setting
from cmkd.report.arms import family_of_arm
from cmkd.report.evidence import trials_of
from cmkd.report.figures.style import (
    BLUE,
    GREY,
    MOST_LINES,
    NORMAL,
    draw_curves,
    legend,
    legend_room,
    marker,
    panels,
    plain,
    style,
    whole_ticks,
)
from cmkd.report.tables import Score, Table

METRICS: Mapping[str, str] = {
    "val_acc": "validation accuracy (%)",
    "loss_ce": "training cross-entropy",
}
"""Drawn metrics; the total loss is not comparable between arms."""
_ACROSS = 5
"""Arms side by side, at most."""


def training_curves(table: Table, metric: str) -> dict[str, pd.DataFrame]:
    """Values of `metric` by arm: epochs x complete seeds, a seed's being the mean over its folds.

    Over the epochs that all trials of an arm logged; an arm with fewer than two has no curve.
    """
    run_ids = [trial.run_id for trial in table.evidence.trials]
    found = table.store.metric_arrays(run_ids, [metric]) if table.store is not None else {}
    if metric not in found:
        return {}
    places, steps, logged = found[metric].T
    epochs, columns = np.unique(steps.astype(int), return_inverse=True)
    values = np.full((len(run_ids), len(epochs)), np.nan)
    values[places.astype(int), columns] = logged
    line_of = {run_id: line for line, run_id in enumerate(run_ids)}
    curves = {}
    for own in table.measured:
        complete = set(own.seeds)
        trials = [one for one in trials_of(table.evidence, own.arm) if one.seed in complete]
        by_trial = pd.DataFrame(
            values[[line_of[trial.run_id] for trial in trials]],
            index=[trial.seed for trial in trials],
            columns=epochs,
        ).dropna(axis=1)
        if trials and len(by_trial.columns) > 1:
            curves[own.arm.name] = by_trial.groupby(level=0).mean().T
    return curves


def draw_training(
    curves: Mapping[str, Mapping[str, pd.DataFrame]], references: Mapping[str, str]
) -> Figure:
    """Validation accuracy and training loss of every arm, each beside its reference.

    Args:
        curves: `training_curves` by metric.
        references: arm -> the arm drawn behind it.
    """
    arms = list(curves["val_acc"])
    # As many arms on every line, as far as their number allows.
    across = math.ceil(len(arms) / math.ceil(len(arms) / _ACROSS))
    bands = [arms[start : start + across] for start in range(0, len(arms), across)]
    most = max(len(curve.columns) for curve in curves["val_acc"].values())
    several = f" (the first {MOST_LINES})" if most > MOST_LINES else ""
    handles = [
        Line2D([], [], color=BLUE, linewidth=1.8, label="mean over seeds"),
        Line2D([], [], color=BLUE, linewidth=0.6, alpha=0.6, label=f"one seed{several}"),
        Line2D([], [], color=GREY, linestyle="--", linewidth=1.2, label="control, mean"),
    ]
    figure, grid = panels(
        [1.1] * (len(METRICS) * len(bands)),
        [1] * across,
        left=0.65,
        bottom=0.5 + legend_room(len(handles)),
        top=0.55,
        gap=(0.12, 0.8 if len(bands) > 1 else 0.4),
        sharex=True,
    )
    for number, (metric, label) in enumerate(METRICS.items()):
        shown = []
        for band, line in zip(bands, grid[number :: len(METRICS)], strict=True):
            for axes, arm in zip(line, band, strict=False):
                _draw_training(axes, curves[metric], arm, references.get(arm, arm))
                shown.append(axes)
                axes.tick_params(labelleft=axes is line[0], labelbottom=True)
                if number == 0:
                    axes.set_title(plain(arm.replace("[", "\n[")), fontsize=NORMAL)
                else:
                    axes.set_xlabel("epoch", fontsize=NORMAL)
            line[0].set_ylabel(label.replace(" ", "\n", 1), fontsize=NORMAL)
            for axes in line[len(band) :]:
                axes.set_axis_off()
        # One scale for all arms, whatever line they stand on.
        ends = [axes.get_ylim() for axes in shown]
        for axes in shown:
            axes.set_ylim(min(low for low, _ in ends), max(high for _, high in ends))
    legend(figure, handles)
    return figure


def _draw_training(
    axes: Axes, curves: Mapping[str, pd.DataFrame], arm: str, reference: str
) -> None:
    if arm in curves:
        draw_curves(axes, curves[arm].index, curves[arm].T.to_numpy())
    if reference != arm and reference in curves:
        mean = curves[reference].mean(axis=1)
        axes.plot(mean.index, mean, color=GREY, linestyle="--", linewidth=1.2)
    whole_ticks(axes)
    style(axes, grid="both")


Value = TypeVar("Value")
Weights = tuple[float, float]
"""λ1 and λ2."""
SYMBOLS = ("λ1", "λ2")


def along_weights(
    values: Mapping[Weights, Value],
) -> dict[str, tuple[float, dict[float, Value]]]:
    """By symbol, the other weight, and two or more values by ascending weight.

    λ1 at λ2 = 0, and λ2 at the λ1 with most of its values.
    """
    ordered = sorted(values)
    found = {SYMBOLS[0]: (0.0, {at[0]: values[at] for at in ordered if at[1] == 0})}
    held = Counter(at[0] for at in values if at[1] > 0)
    if held:
        usual = held.most_common(1)[0][0]
        second = {at[1]: values[at] for at in ordered if at[0] == usual}
        found[SYMBOLS[1]] = (usual, second)
    return {symbol: search for symbol, search in found.items() if len(search[1]) > 1}


def searched_scores(table: Table) -> dict[Weights, Score]:
    """Scores of the largest set of students that differ in their two weights alone."""
    family = next((row.family for row in table.rows if row.family is not None), None)
    kinds: dict[Setting, dict[Weights, Score]] = {}
    for own in table.measured:
        setting = own.arm.setting
        method = setting.method
        is_student = setting.model == "student" and method.decoder
        if is_student and family_of_arm(setting) == family and own.seeds:
            unweighted = method.model_copy(update={"lambda_1": 0.0, "lambda_2": 0.0})
            kind = setting.model_copy(update={"method": unweighted})
            weights = (method.lambda_1, method.lambda_2)
            kinds.setdefault(kind, {}).setdefault(weights, own.selected)
    return max(kinds.values(), key=len, default={})


def printed_values(table: Table, column: str) -> dict[Weights, float]:
    """Printed accuracies of the students with a decoder and without KD of logits."""
    found = {}
    for row in table.published.rows:
        value = row.printed[column] if row.printed is not None else None
        named = row.ours.method if row.ours is not None else {}
        if value is not None and named.get("decoder", True) and not named.get("logits"):
            weights = (float(named.get("lambda_1", 0.0)), float(named.get("lambda_2", 0.0)))
            found[weights] = value
    return found


def draw_searches(table: Table) -> Figure:
    """One line of panels per weight: ours, and each printed column on an axis of its own."""
    ours = along_weights(searched_scores(table))
    printed = {
        column: along_weights(printed_values(table, column)) for column in table.published.columns
    }
    symbols = [symbol for symbol in SYMBOLS if symbol in ours]
    handles = [
        marker("D", BLUE, "mean over seeds"),
        marker("o", BLUE, "one seed"),
        Patch(color=BLUE, alpha=0.18, label="95 % interval"),
        marker("D", GREY, "printed in the paper", "white"),
    ]
    figure, grid = panels(
        [1.6] * len(symbols),
        [2.2, *(1 for _ in printed)],
        left=0.6,
        bottom=0.5 + legend_room(len(handles)),
        top=0.55,
        gap=(0.42, 0.5),
        sharey="col",
    )
    for (first, *others), symbol in zip(grid, symbols, strict=True):
        held, scores = ours[symbol]
        _draw_scores(first, scores)
        _finish(first, symbol, held, list(scores))
        first.set_ylabel(plain(f"accuracy on {table.evidence.data} (%)"), fontsize=NORMAL)
        for axes, searches in zip(others, printed.values(), strict=True):
            if symbol not in searches:
                axes.set_axis_off()
                continue
            held, values = searches[symbol]
            axes.plot([*values], [*values.values()], "D-", color=GREY, mfc="white", ms=5, lw=1.4)
            _finish(axes, symbol, held, list(values))
    for axes, title in zip(
        grid[0], ("measured here", *(f"paper,\n{column}" for column in printed)), strict=True
    ):
        axes.set_title(plain(title), fontsize=NORMAL)
    legend(figure, handles)
    return figure


def _draw_scores(axes: Axes, scores: Mapping[float, Score]) -> None:
    weights, means = list(scores), [np.mean(score.per_seed) for score in scores.values()]
    for weight, score in scores.items():
        axes.plot([weight] * len(score.per_seed), score.per_seed, "o", color=BLUE, alpha=0.4, ms=3)
    spans = [score.interval for score in scores.values()]
    low = [span.low if span else math.nan for span in spans]
    high = [span.high if span else math.nan for span in spans]
    axes.fill_between(weights, low, high, color=BLUE, alpha=0.18, linewidth=0)
    axes.vlines(weights, low, high, color=BLUE, linewidth=1.2)
    axes.plot(weights, means, "D-", color=BLUE, markersize=5, linewidth=1.4)


def _finish(axes: Axes, symbol: str, held: float, weights: Sequence[float]) -> None:
    """A logarithmic axis on which 0 has a place, with ticks at the weights that were tried."""
    axes.set_xscale("symlog", linthresh=min(weight for weight in weights if weight > 0))
    axes.set_xticks(weights, [f"{weight:g}" for weight in weights])
    axes.minorticks_off()
    axes.margins(x=0.08)
    style(axes, grid="y")
    other = SYMBOLS[1] if symbol == SYMBOLS[0] else SYMBOLS[0]
    axes.set_xlabel(f"{symbol}, at {other} = {held:g}", fontsize=NORMAL)
