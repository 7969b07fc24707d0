"""Along training: how many auxiliary genes were kept, and the correlation on spots that were kept apart."""

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator

from expressor.report.colours import INKS
from expressor.report.figures.sheet import SIZE, dress, new_axes, say_nothing_to_show


def k_path(history: pd.DataFrame, *, kept: int | None = None, ax: Axes | None = None) -> Axes:
    """Draw the number of auxiliary genes kept, ``k``, along the search for it.

    Parameters
    ----------
    history
        One row an epoch with a column ``k``. Where there is a column ``threshold`` (the cut that is learnt), rows without one
        are of later trainings, which take ``k`` as it is, and are left out.
    kept
        The ``k`` of the fitted model, which may be that of an earlier epoch than the last.
    ax
        Axes to draw on; new ones by default.
    """
    ax = new_axes(ax, width=4.4, height=2.6)
    found = search_of_k(history)
    if found.empty:
        return say_nothing_to_show(ax, "The history holds no k")
    _path(ax, found, y="Auxiliary genes kept (k)", from_zero=True, colour=INKS["accent"], form="{:,.0f}")
    if kept is not None and kept != found.iloc[-1]:
        ax.axhline(kept, color=INKS["eosin"], linewidth=1.0, linestyle=(0, (4, 3)))
        ax.annotate(
            f"{kept:,} kept", (1.0, kept), xycoords=("axes fraction", "data"), xytext=(0, 3), textcoords="offset points",
            ha="right", color=INKS["eosin"], fontsize=SIZE - 1,
        )  # fmt: skip
    return ax


def search_of_k(history: pd.DataFrame) -> pd.Series:
    """Return ``k`` of the epochs in which it was searched for, float64; empty where the history does not hold it."""
    if "k" not in history.columns:
        return pd.Series(dtype=float)
    k = pd.to_numeric(history["k"], errors="coerce")
    if "threshold" in history.columns:
        learnt = pd.to_numeric(history["threshold"], errors="coerce").notna()
        k = k[learnt] if learnt.any() else k
    return k.dropna().astype(float)


def learning(history: pd.DataFrame, *, ax: Axes | None = None) -> Axes:
    """Draw the mean correlation on the validation spots, ``val_pcc``, along training."""
    ax = new_axes(ax, width=4.4, height=2.6)
    known = pd.Series(dtype=float)
    if "stage" in history.columns and (history["stage"] == "select").any():
        history = history[history["stage"] == "select"]
    if "val_pcc" in history.columns:
        known = pd.to_numeric(history["val_pcc"], errors="coerce").dropna()
    if known.empty:
        return say_nothing_to_show(ax, "The history holds no val_pcc")
    return _path(ax, known, y="Correlation, validation spots", from_zero=False, colour=INKS["eosin"], form="{:.3f}")


def _path(ax: Axes, known: pd.Series, *, y: str, from_zero: bool, colour: str, form: str) -> Axes:
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
