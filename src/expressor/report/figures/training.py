"""Along training: how many auxiliary genes were kept, and the correlation on the selection split."""

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator

from expressor.report.colours import INKS
from expressor.report.figures.sheet import SIZE, dress, new_axes, say_nothing_to_show


def k_path(history: pd.DataFrame, *, ax: Axes | None = None) -> Axes:
    """Draw the number of auxiliary genes kept, ``k``, along training.

    Parameters
    ----------
    history
        One row an epoch with a column ``k``; rows without one (of other stages) are left out.
    ax
        Axes to draw on; new ones by default.
    """
    ax = new_axes(ax, width=4.4, height=2.6)
    return _path(ax, history, "k", y="Auxiliary genes kept (k)", from_zero=True, colour=INKS["accent"], form="{:,.0f}")


def learning(history: pd.DataFrame, *, ax: Axes | None = None) -> Axes:
    """Draw the mean correlation on the selection split, ``val_pcc``, along training."""
    ax = new_axes(ax, width=4.4, height=2.6)
    return _path(
        ax, history, "val_pcc", y="Correlation, selection split", from_zero=False, colour=INKS["eosin"], form="{:.3f}"
    )


def _path(ax: Axes, history: pd.DataFrame, column: str, *, y: str, from_zero: bool, colour: str, form: str) -> Axes:
    known = (
        pd.to_numeric(history[column], errors="coerce").dropna()
        if column in history.columns
        else pd.Series(dtype=float)
    )
    if known.empty:
        return say_nothing_to_show(ax, f"The history holds no {column}")
    values = known.to_numpy(dtype=float)
    steps = np.arange(1, len(values) + 1)
    ax.plot(steps, values, color=colour, linewidth=1.6, marker="o" if len(values) < 40 else "", markersize=2.6)
    ax.plot(steps[-1:], values[-1:], "o", color=colour, markersize=5)
    ax.annotate(
        form.format(values[-1]), (steps[-1], values[-1]), xytext=(7, 0), textcoords="offset points",
        va="center", color=colour, fontsize=SIZE, annotation_clip=False,
    )  # fmt: skip
    if from_zero:
        ax.set_ylim(0, max(values.max() * 1.08, 1.0))
    ax.set_xlim(0.5, len(values) * 1.14 + 0.5)
    ax.yaxis.set_major_formatter(lambda value, _: form.format(value) if from_zero else f"{value:.2f}")
    ax.xaxis.set_major_locator(MaxNLocator(integer=True))
    dress(ax, x="Epoch", y=y, grid="y")
    return ax
