"""Families of orthologous genes: which member a transferred model listens to, beside the one that sequence puts first."""

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.lines import Line2D

from expressor.report.colours import INKS
from expressor.report.figures.sheet import SIZE, dress, new_axes, say_nothing_to_show


def gene_families(
    edges: pd.DataFrame, genes: list[str], *, species: tuple[str, str] = ("source", "target"), ax: Axes | None = None
) -> Axes:
    """Draw genes of the source and their orthologs, joined by lines as wide as the edges are important.

    Parameters
    ----------
    edges
        One row an edge: ``source``, ``target``, ``confidence``, ``importance``, ``change``, as in ``edges_`` of a fitted TRON.
        Where there is ``same_sign`` (of ``edge_stability``), edges whose change had another sign in some fit are drawn dashed.
    genes
        Genes of the source to show, from above, such as the column ``source`` of ``TRON.families``.
    species
        Names of the two species.
    ax
        Axes to draw on; new ones by default.

    Returns
    -------
    The axes. Widths are relative to the most important edge of each gene; a filled dot is the ortholog of largest confidence.
    """
    shown = [one for one in dict.fromkeys(genes) if (edges["source"] == one).any()]
    n = int(edges["source"].isin(shown).sum())
    ax = new_axes(ax, width=4.6, height=0.7 + 0.2 * max(n + len(shown), 4))
    if not shown:
        return say_nothing_to_show(ax, "No family to show")
    place = 0.0
    for gene in shown:
        part = edges[edges["source"] == gene].sort_values("confidence", ascending=False, kind="stable")
        most = max(float(part["importance"].max()), 1e-12)
        rows = place + np.arange(len(part))
        middle = float(rows.mean())
        _write(ax, -0.03, middle, gene, "right")
        best = part["confidence"].max() if (part["confidence"] < part["confidence"].max()).any() else np.inf
        for row, (_, edge) in zip(rows, part.iterrows()):
            share = float(edge["importance"]) / most
            stable = "same_sign" not in part or float(edge["same_sign"]) == 1.0
            colour = INKS["accent"] if edge["change"] >= 0 else INKS["eosin"]
            ax.plot([0, 1], [middle, row], color=colour, linewidth=0.4 + 3.6 * share, alpha=0.85,
                    linestyle="-" if stable else (0, (2, 1.5)), solid_capstyle="round")  # fmt: skip
            face = INKS["ink"] if edge["confidence"] >= best else "white"
            ax.plot(1, row, "o", color=INKS["ink"], markerfacecolor=face, markersize=4, zorder=3)
            _write(ax, 1.03, float(row), str(edge["target"]), "left")
        place += len(part) + 1.0
    ax.set_ylim(place - 0.4, -1.2)
    ax.set_xlim(-0.45, 1.45)
    dress(ax)
    ax.set_axis_off()
    for x, name, side in ((-0.03, species[0], "right"), (1.03, species[1], "left")):
        ax.text(x, -0.9, name, ha=side, va="center", color=INKS["muted"], fontsize=SIZE, parse_math=False)
    _legend(ax)
    return ax


def _write(ax: Axes, x: float, y: float, text: str, side: str) -> None:
    ax.text(x, y, text, ha=side, va="center", color=INKS["ink"], fontsize=SIZE, style="italic", parse_math=False)


def _legend(ax: Axes) -> None:
    marks = [
        Line2D([], [], color=INKS["accent"], linewidth=2.5, label="weight raised"),
        Line2D([], [], color=INKS["eosin"], linewidth=2.5, label="weight lowered"),
        Line2D([], [], color=INKS["ink"], marker="o", linestyle="none", markersize=4, label="best match"),
    ]
    ax.legend(handles=marks, frameon=False, fontsize=SIZE - 1, loc="upper center", bbox_to_anchor=(0.5, 0.0), ncols=3,
              labelcolor=INKS["muted"], borderpad=0, handletextpad=0.4, columnspacing=1.2)  # fmt: skip
