"""Restored values: against what was hidden, gene by gene; correlations of all genes; error by the size of the panel."""

from collections.abc import Sequence

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from expressor.report.colours import INKS
from expressor.report.figures.sheet import SIZE, dress, new_axes, say_nothing_to_show

COLUMNS = 4


def restored_against_measured(
    measured: np.ndarray,
    restored: np.ndarray,
    genes: Sequence[str],
    *,
    correlations: Sequence[float],
    lower: np.ndarray | None = None,
    upper: np.ndarray | None = None,
    unit: str = "",
) -> np.ndarray:
    """Draw one small scatter a gene: restored against measured, over the samples where the gene was hidden.

    Parameters
    ----------
    measured, restored
        (sample, gene) in ``unit``; NaN where nothing was hidden.
    genes
        Their names.
    correlations
        (gene,) Pearson's r, for the titles.
    lower, upper
        Bounds of the intervals, drawn as lines; none by default.
    unit
        Of the values.

    Returns
    -------
    numpy.ndarray
        The axes.
    """
    rows = -(-len(genes) // COLUMNS)
    figure = Figure(figsize=(2.1 * COLUMNS, 2.25 * rows + 0.3), layout="constrained")
    axes = np.atleast_1d(figure.subplots(rows, COLUMNS, squeeze=False)).ravel()
    for place, ax in enumerate(axes):
        if place >= len(genes):
            ax.set_axis_off()
            continue
        m, r = measured[:, place], restored[:, place]
        known = np.isfinite(m) & np.isfinite(r)
        if not known.any():
            say_nothing_to_show(ax, "never hidden")
            continue
        ends = np.array([min(m[known].min(), r[known].min()), max(m[known].max(), r[known].max())])
        ax.plot(ends, ends, color=INKS["muted"], linewidth=0.8, linestyle=(0, (4, 3)))
        if lower is not None and upper is not None:
            ax.vlines(m[known], lower[known, place], upper[known, place], color=INKS["soft"], linewidth=0.7, alpha=0.6)
        ax.plot(m[known], r[known], "o", color=INKS["accent"], markersize=2.6, linestyle="none", alpha=0.85)
        r_text = f"{correlations[place]:.2f}" if np.isfinite(correlations[place]) else "undefined"
        dress(ax, title=f"{genes[place]}  r {r_text}")
        ax.title.set_fontsize(SIZE)
    figure.supxlabel(f"Measured{f', {unit}' if unit else ''}", color=INKS["muted"], fontsize=SIZE)
    figure.supylabel("Restored", color=INKS["muted"], fontsize=SIZE)
    return axes


def gene_correlations(values: np.ndarray, *, ax: Axes | None = None) -> Axes:
    """Draw the correlations of all genes, sorted, as a line from best to worst; NaN are left out and counted.

    Parameters
    ----------
    values
        (gene,) Pearson's r of restored with measured.
    ax
        Axes to draw on; new ones by default.
    """
    ax = new_axes(ax, width=4.2, height=3.0)
    known = np.sort(values[np.isfinite(values)])[::-1]
    if not len(known):
        return say_nothing_to_show(ax, "No gene has a defined correlation")
    share = (np.arange(len(known)) + 0.5) / len(known)
    ax.fill_between(share, 0, known, color=INKS["soft"], alpha=0.5, linewidth=0)
    ax.plot(share, known, color=INKS["accent"], linewidth=1.6)
    middle = float(np.median(known))
    ax.annotate(
        f"median {middle:.2f}",
        (0.5, middle),
        xytext=(8, 8),
        textcoords="offset points",
        color=INKS["ink"],
        fontsize=SIZE,
    )
    ax.plot([0.5], [middle], "o", color=INKS["eosin"], markersize=5)
    ax.axhline(0, color=INKS["rule"], linewidth=0.8)
    ax.set_xlim(0, 1)
    ax.set_ylim(min(0.0, float(known.min())) - 0.02, 1.02)
    ax.xaxis.set_major_formatter(lambda value, _: f"{100 * value:.0f} %")
    dress(ax, x="Genes, best first", y="r of restored with measured", grid="y")
    return ax


def panel_size_curve(table: pd.DataFrame, *, ax: Axes | None = None) -> Axes:
    """Draw the error of restoring all other genes against how many genes are measured.

    Parameters
    ----------
    table
        A row a random panel: ``size`` and ``rmse`` (of the middle gene) in standard deviations.
    ax
        Axes to draw on; new ones by default.
    """
    ax = new_axes(ax, width=4.2, height=3.0)
    if not len(table):
        return say_nothing_to_show(ax, "Too few genes were measured in all samples")
    means = table.groupby("size")["rmse"].agg(["mean", "min", "max"])
    sizes = means.index.to_numpy(dtype=float)
    ax.axhline(1.0, color=INKS["eosin"], linewidth=1.0, linestyle=(0, (4, 3)))
    ax.annotate("each gene's mean", (1.0, 1.0), xycoords=("axes fraction", "data"), xytext=(-2, 4), textcoords="offset points",
                ha="right", color=INKS["eosin"], fontsize=SIZE - 1)  # fmt: skip
    ax.vlines(sizes, means["min"], means["max"], color=INKS["soft"], linewidth=2.2)
    ax.plot(sizes, means["mean"], "o-", color=INKS["accent"], linewidth=1.6, markersize=5)
    ax.set_xscale("log", base=2)
    ax.set_xticks(sizes)
    ax.set_xticklabels([f"{int(one):,}" for one in sizes])
    ax.minorticks_off()
    ax.set_ylim(0, max(1.1, float(means["max"].max()) * 1.05))
    dress(ax, x="Genes measured (random panels)", y="Error, standard deviations", grid="y")
    return ax
