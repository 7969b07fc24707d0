"""Methods beside each other, with their intervals; and the paired differences that decide whether one is better."""

import numpy as np
import pandas as pd
from matplotlib.axes import Axes

from expressor.report import evaluation as reading
from expressor.report.colours import INKS
from expressor.report.figures.sheet import SIZE, dress, label_ticks, new_axes, say_nothing_to_show

MARKS = (("o", INKS["accent"]), ("s", INKS["eosin"]), ("D", INKS["muted"]))


def method_comparison(evaluation: pd.DataFrame, *, metric: str | None = None, ax: Axes | None = None) -> Axes:
    """Draw every measured method's overall score with its 95 % interval, one mark a target scale.

    Parameters
    ----------
    evaluation
        A table as :mod:`expressor.report.evaluation` describes.
    metric
        Its name; by default the correlation.
    ax
        Axes to draw on; new ones by default.
    """
    table = reading.tidy(evaluation)
    metric = metric or reading.headline_metric(table)
    scores = reading.scores(table, metric) if metric else {}
    ax = new_axes(ax, width=5.2, height=1.3 + 0.32 * max(len(scores), 2))
    if not scores:
        return say_nothing_to_show(ax, "There is no evaluation")
    scales = [one for one in reading.scales(table) if any(one in by_scale for by_scale in scores.values())]
    for position, scale in enumerate(scales):
        mark, colour = MARKS[position % len(MARKS)]
        shift = (position - (len(scales) - 1) / 2) * 0.26
        for row, by_scale in enumerate(scores.values()):
            one = by_scale.get(scale)
            if one is None or not np.isfinite(one.value):
                continue
            if one.is_bounded:
                ax.plot([one.low, one.high], [row + shift] * 2, color=colour, linewidth=1.4, alpha=0.6)
            ax.plot([one.value], [row + shift], mark, color=colour, markersize=4.6)
        ax.plot([], [], mark, color=colour, linestyle="none", markersize=4.6, label=reading.scale_words(scale))
    ax.axvline(0, color=INKS["rule"], linewidth=0.8, zorder=0)
    label_ticks(ax, list(scores))
    ax.set_ylim(len(scores) - 0.4, -0.6)
    dress(ax, x=f"{reading.metric_words(metric or '')}, with 95 % interval", grid="x")
    ax.tick_params(axis="y", length=0)
    ax.legend(
        frameon=False,
        fontsize=SIZE - 1,
        labelcolor=INKS["muted"],
        loc="lower left",
        bbox_to_anchor=(0, 1.0),
        ncols=1,
        borderpad=0,
    )
    return ax


def paired_differences(evaluation: pd.DataFrame, *, metric: str | None = None, ax: Axes | None = None) -> Axes:
    """Draw the paired differences of methods with their 95 % intervals; an interval over zero decides nothing.

    Parameters
    ----------
    evaluation
        A table with rows whose ``reference`` names the other method (see :mod:`expressor.report.evaluation`).
    metric
        Its name; by default the correlation.
    ax
        Axes to draw on; new ones by default.
    """
    table = reading.tidy(evaluation)
    metric = metric or reading.headline_metric(table)
    found = reading.differences(table, metric) if metric else pd.DataFrame()
    ax = new_axes(ax, width=5.6, height=1.0 + 0.3 * max(len(found), 2))
    if found.empty:
        return say_nothing_to_show(ax, "There are no paired differences")
    several = found["scale"].nunique() > 1
    names = []
    for row, one in enumerate(found.to_dict("records")):
        low, high = float(one["low"]), float(one["high"])
        decided = low > 0 or high < 0
        colour = INKS["accent"] if decided else INKS["muted"]
        ax.plot([low, high], [row, row], color=colour, linewidth=1.4, alpha=0.7)
        face = colour if decided else "white"
        ax.plot([float(one["value"])], [row], "o", color=colour, markerfacecolor=face, markersize=4.6)
        words = f"{one['method']} \N{MINUS SIGN} {one['reference']}"
        names.append(f"{words} ({reading.scale_words(str(one['scale']))})" if several else words)
    ax.axvline(0, color=INKS["ink"], linewidth=0.8, zorder=0)
    label_ticks(ax, names)
    ax.set_ylim(len(found) - 0.4, -0.6)
    dress(ax, x=f"Difference in {reading.metric_words(metric or '')}, paired, with 95 % interval", grid="x")
    ax.tick_params(axis="y", length=0)
    return ax
