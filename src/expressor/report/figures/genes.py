"""The genes, one row each: correlation with its interval, and whether the prediction can be trusted."""

import numpy as np
from matplotlib.axes import Axes

from expressor.report.colours import INKS
from expressor.report.figures.sheet import SIZE, dress, label_ticks, new_axes, say_nothing_to_show
from expressor.report.run import Run


def gene_bars(run: Run, *, top: int = 40, ax: Axes | None = None) -> Axes:
    """Draw the correlation of the ``top`` genes with its interval: trusted genes filled, the others hollow.

    Dots and lines are of tissue held out of the fit; a tick is the correlation in the tissue of this run, where it was measured.

    Parameters
    ----------
    run
        The run.
    top
        At most so many genes, in the order of the gene table (trusted first, then by correlation).
    ax
        Axes to draw on; new ones by default.
    """
    table = run.gene_table[np.isfinite(run.gene_table["pcc"])].head(top)
    ax = new_axes(ax, width=4.6, height=0.6 + 0.17 * max(len(table), 4))
    if table.empty:
        return say_nothing_to_show(ax, "No correlations are known")
    rows = np.arange(len(table))
    trusted = np.array([one is True for one in table["trusted"]])
    for mine, colour, label in ((trusted, INKS["accent"], "trusted"), (~trusted, INKS["muted"], "not trusted")):
        if not mine.any():
            continue
        part = table[mine]
        ax.hlines(rows[mine], part["pcc_low"], part["pcc_high"], color=colour, linewidth=1.3, alpha=0.55)
        face = colour if label == "trusted" else "white"
        ax.plot(
            part["pcc"],
            rows[mine],
            "o",
            color=colour,
            markerfacecolor=face,
            markersize=4.2,
            linestyle="none",
            label=label,
        )
    here = run.correlation_here.reindex(table.index)
    if here.notna().any():
        ax.plot(
            here,
            rows,
            "|",
            color=INKS["eosin"],
            markersize=6,
            markeredgewidth=1.6,
            linestyle="none",
            label="in this tissue",
        )
    ax.axvline(0, color=INKS["rule"], linewidth=0.8, zorder=0)
    label_ticks(ax, [str(gene) for gene in table.index])
    ax.set_ylim(len(table) - 0.4, -0.6)
    dress(ax, x="Correlation with what was measured (95 % interval)", grid="x")
    ax.tick_params(axis="y", length=0, labelsize=SIZE - 1.5)
    ax.spines["left"].set_visible(False)
    ax.legend(
        frameon=False, fontsize=SIZE - 1, loc="lower left", bbox_to_anchor=(0, 1.0), ncols=3, labelcolor=INKS["muted"],
        borderpad=0, handletextpad=0.2, columnspacing=1.2,
    )  # fmt: skip
    return ax
