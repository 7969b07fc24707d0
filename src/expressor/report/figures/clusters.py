"""Clusters: where cells stand, how known types fall into them, how many there are."""

from collections.abc import Sequence

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.patheffects import withStroke
from matplotlib.ticker import MaxNLocator

from expressor.core.errors import DataError
from expressor.report.colours import CATEGORIES, INKS, VALUE_MAP
from expressor.report.figures.sheet import SIZE, dress, label_ticks, new_axes, say_nothing_to_show

MANY = 4000
"""Points beyond which they are drawn as an image inside the figure."""


def cell_map(places: np.ndarray, groups: Sequence[str], *, title: str = "", ax: Axes | None = None) -> Axes:
    """Draw cells in two dimensions, coloured by group, each group's name at the cell nearest to the median place of its cells.

    Parameters
    ----------
    places
        (cell, 2), without unit.
    groups
        (cell,) names; colours repeat after nine groups, names do not. An empty name is drawn in grey and not named.
    title
        Above the axes.
    ax
        Axes to draw on; new ones by default.

    Raises
    ------
    DataError
        The lengths differ.
    """
    names = np.asarray(groups).astype(str)
    _check_same_cells(places, names)
    ax = new_axes(ax, width=4.4, height=4.2)
    if not len(places):
        return say_nothing_to_show(ax, "No cells")
    kinds = [one for one in _by_size(names) if one]
    size = float(np.clip(220 / np.sqrt(len(places)), 1.5, 6.0))
    for number, one in enumerate(["", *kinds]):
        colour = CATEGORIES[(number - 1) % len(CATEGORIES)] if one else INKS["rule"]
        x, y = places[names == one].T
        ax.plot(x, y, "o", color=colour, markersize=size, markeredgewidth=0, alpha=0.8, linestyle="none",
                rasterized=len(places) > MANY)  # fmt: skip
    for one in kinds:
        own = places[names == one]
        x, y = own[
            ((own - np.median(own, axis=0)) ** 2).sum(axis=1).argmin()
        ]  # a cell of the group, not a gap between parts
        ax.text(x, y, one, ha="center", va="center", fontsize=SIZE, color=INKS["ink"], parse_math=False,
                path_effects=[withStroke(linewidth=2.5, foreground=INKS["paper"])])  # fmt: skip
    dress(ax, title=title)
    ax.set_xticks([])
    ax.set_yticks([])
    return ax


def cluster_agreement(known: Sequence[str], clusters: Sequence[str], *, ax: Axes | None = None) -> Axes:
    """Draw which share of each known type's cells is in which cluster, one row a type; rows add to 1.

    Parameters
    ----------
    known, clusters
        (cell,) names.
    ax
        Axes to draw on; new ones by default.

    Raises
    ------
    DataError
        The lengths differ.
    """
    types, groups = np.asarray(known).astype(str), np.asarray(clusters).astype(str)
    _check_same_cells(types, groups)
    shares = pd.crosstab(types, groups, normalize="index")
    # Rows stand in the order of the cluster that holds most of them, so that agreement runs down the diagonal.
    columns = sorted(shares.columns, key=lambda one: (len(one), one))
    shares = shares[columns]
    rows = sorted(shares.index, key=lambda one: (int(shares.loc[one].to_numpy().argmax()), one))
    shares = shares.loc[rows]
    ax = new_axes(ax, width=2.0 + 0.34 * len(columns), height=1.1 + 0.27 * len(rows))
    ax.imshow(shares.to_numpy(), cmap=VALUE_MAP, vmin=0.0, vmax=1.0, aspect="auto")
    for i, j in np.argwhere(shares.to_numpy() >= 0.005):
        value = shares.iloc[i, j]
        ax.text(j, i, f"{100 * value:.0f}", ha="center", va="center", fontsize=SIZE - 2,
                color="black" if value > 0.6 else "white")  # fmt: skip
    dress(ax, x="Cluster")
    label_ticks(ax, [str(one) for one in columns], axis="x")
    label_ticks(ax, [str(one) for one in rows])
    return ax


def cluster_counts(history: pd.DataFrame, chosen: int, *, ax: Axes | None = None) -> Axes:
    """Draw the mean silhouette of each number of clusters that was tried, and the one that was chosen.

    Parameters
    ----------
    history
        ``n_clusters`` and ``silhouette`` (-1 to 1), one row a number.
    chosen
        The number that was chosen.
    ax
        Axes to draw on; new ones by default.
    """
    ax = new_axes(ax, width=4.0, height=2.6)
    tried = history.dropna(subset=["silhouette"]).sort_values("n_clusters")
    if tried.empty:
        return say_nothing_to_show(ax, "No numbers of clusters were compared")
    ax.plot(tried["n_clusters"], tried["silhouette"], "o-", color=INKS["accent"], markersize=4, linewidth=1.2)
    ax.axvline(chosen, color=INKS["eosin"], linewidth=0.9, linestyle=(0, (4, 3)))
    ax.xaxis.set_major_locator(MaxNLocator(integer=True))
    dress(ax, x="Number of clusters", y="Mean silhouette", grid="y")
    return ax


def _by_size(names: np.ndarray) -> list[str]:
    kinds, counts = np.unique(names, return_counts=True)
    return [str(kinds[i]) for i in np.lexsort((kinds, -counts))]


def _check_same_cells(one: np.ndarray, other: np.ndarray) -> None:
    if len(one) != len(other):
        raise DataError("the two are not of the same cells", expected=f"{len(one)} of each", got=len(other))
