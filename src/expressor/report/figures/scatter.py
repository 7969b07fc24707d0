"""Predicted against measured, spot by spot, for one gene."""

import numpy as np
from matplotlib.axes import Axes

from expressor.core.errors import GeneError, nearest_names
from expressor.report.colours import INKS, value_range
from expressor.report.figures.sheet import dress, new_axes, say_nothing_to_show
from expressor.report.run import Run


def predicted_against_measured(run: Run, gene: str | None = None, *, ax: Axes | None = None) -> Axes:
    """Draw one gene's predicted against its measured values, one dot a spot; the diagonal is a perfect prediction.

    Parameters
    ----------
    run
        A run with measured values.
    gene
        The gene; by default the first of the gene table.
    ax
        Axes to draw on; new ones by default.

    Raises
    ------
    GeneError
        The gene is not among the predicted ones.
    """
    gene = str(run.gene_table.index[0]) if gene is None else gene
    if gene not in run.predictions.var_names:
        raise GeneError(
            f"{gene!r} is not among the predicted genes", nearest=nearest_names(gene, run.predictions.var_names)
        )
    ax = new_axes(ax, width=3.4, height=3.4)
    measured, predicted = run.values("measured", genes=[gene]), run.values("predicted", genes=[gene])
    if measured is None or predicted is None:
        return say_nothing_to_show(ax, "Nothing was measured in these sections")
    low, high = value_range(measured, predicted, percent=100.0)
    pad = 0.04 * (high - low)
    ax.plot([low, high], [low, high], color=INKS["muted"], linewidth=0.8, linestyle=(0, (4, 3)))
    known = np.isfinite(measured[:, 0]) & np.isfinite(predicted[:, 0])
    ax.plot(
        measured[known, 0], predicted[known, 0], "o", color=INKS["accent"], markersize=3.2, markeredgewidth=0,
        alpha=0.55 if known.sum() < 2000 else 0.2, linestyle="none", rasterized=bool(known.sum() > 4000),
    )  # fmt: skip
    ax.set_xlim(low - pad, high + pad)
    ax.set_ylim(low - pad, high + pad)
    ax.set_aspect("equal")
    dress(ax, x=f"Measured ({run.unit})", y="Predicted", title=gene)
    return ax
