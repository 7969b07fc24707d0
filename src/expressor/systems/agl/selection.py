"""Choices made on training spots before any network is trained: genes, their ranking, and who fits, selects and stops."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import pandas as pd
from anndata import AnnData
from scipy.spatial import cKDTree

from expressor.core.errors import DataError, GeneError, check_choice, nearest_names
from expressor.core.rng import stream
from expressor.data import fields, keys
from expressor.data.spatial import coordinates, microns_per_pixel, section_of, sections
from expressor.genes import panels

RANKINGS = ("hvg", "dispersion", "coexpression", "moran", "detection", "mean")
"""Scores by which auxiliary genes can be ranked, best first."""
TARGET_RANKINGS = ("dispersion", "hvg", "variance", "mean")
"""Scores by which target genes can be chosen, best first."""
SPLITS = ("auto", "sections", "blocks", "random")
Score = Callable[[AnnData, Sequence[str]], Any]

_SHARES = (0.6, 0.2, 0.2)
_BLOCKS_ACROSS = 5


@dataclass(frozen=True)
class Genes:
    """The genes of a fit.

    Attributes
    ----------
    primary
        Names of the target genes, best first or as the user gave them.
    auxiliary
        Names of the auxiliary genes, best rank first.
    """

    primary: tuple[str, ...]
    auxiliary: tuple[str, ...]


def sort_genes(adata: AnnData) -> AnnData:
    """Return the data with genes in alphabetical order, in which nothing depends on the order they came in."""
    return adata[:, np.argsort(adata.var_names.to_numpy().astype(str), kind="stable")].copy()


def choose_genes(
    adata: AnnData,
    *,
    target_genes: int | tuple[str, ...],
    target_ranking: str,
    ranking: str | Sequence[str] | Score,
    min_spots: int,
    scale: str,
) -> Genes:
    """Choose target genes and rank the others, by training spots alone.

    Parameters
    ----------
    adata
        Training spots, genes in alphabetical order.
    target_genes
        How many, or which.
    target_ranking
        One of :data:`TARGET_RANKINGS`.
    ranking
        One of :data:`RANKINGS`; names, best first, that are then the only auxiliary genes; or a function of (adata, names of
        the primary genes) that gives a score for every gene, the higher the better.
    min_spots
        Auxiliary genes are detected in at least so many spots.
    scale
        Scale of expression.

    Raises
    ------
    GeneError
        A named gene is not in the data.
    DataError
        Fewer genes than asked for, or scores of the wrong shape.
    """
    names = adata.var_names.to_numpy().astype(str)
    counts = fields.counts_of(adata)
    if isinstance(target_genes, int):
        scores = _target_scores(adata, counts, target_ranking, scale)
        usable = int((~np.isnan(scores) & (panels.detection_rate(counts) > 0)).sum())
        if usable < target_genes:
            raise DataError("there are not enough genes to predict", expected=f"{target_genes} genes that vary", got=usable,
                            fix="Lower target_genes.")  # fmt: skip
        primary = tuple(str(name) for name in names[_order(scores, names)[:target_genes]])
    else:
        primary = tuple(_known(target_genes, names, what="target genes"))
    detected = names[panels.detection_rate(counts) * adata.n_obs >= min_spots - 0.5]
    candidates = set(detected) - set(primary)
    if not isinstance(ranking, str) and not callable(ranking):
        order: Sequence[str] = _known(ranking, names, what="ranked genes")
    else:
        order = names[_order(_rank_scores(adata, counts, ranking, primary, scale), names)]
    return Genes(primary, tuple(str(name) for name in order if name in candidates))


def _order(scores: np.ndarray, names: np.ndarray) -> np.ndarray:
    """Rank genes, best first. In float32: equal scores must tie, and go by name, whatever the last bits of their sums are."""
    return panels.rank_genes(scores.astype(np.float32), names)


def _known(wanted: Sequence[str], names: np.ndarray, *, what: str) -> list[str]:
    wanted, known = [str(name) for name in wanted], set(names)
    absent = [name for name in wanted if name not in known]
    if absent:
        raise GeneError(
            f"{len(absent)} of {len(wanted)} {what} are not in the data, such as {absent[0]!r}",
            nearest=nearest_names(absent[0], known),
        )
    if len(set(wanted)) < len(wanted):
        twice = next(name for name in wanted if wanted.count(name) > 1)
        raise GeneError(f"the {what} name {twice!r} twice", fix="Name every gene once.")
    return wanted


def _target_scores(adata: AnnData, counts: Any, ranking: str, scale: str) -> np.ndarray:
    check_choice(ranking, TARGET_RANKINGS, name="target_ranking")
    if ranking == "dispersion":
        return panels.dispersion(counts)
    values = fields.expression_sparse(adata, scale=scale)
    if ranking == "hvg":
        return panels.hvg_scores(values)
    mean = panels.mean_expression(values)
    return mean if ranking == "mean" else panels.mean_expression(values.power(2)) - mean**2


def _rank_scores(adata: AnnData, counts: Any, ranking: str | Score, primary: tuple[str, ...], scale: str) -> np.ndarray:
    if callable(ranking):
        scores = np.asarray(ranking(adata, list(primary)), dtype=np.float64)
        if scores.shape != (adata.n_vars,):
            raise DataError("the ranking function gives no score for each gene", expected=f"shape ({adata.n_vars},)",
                            got=f"shape {scores.shape}")  # fmt: skip
        return scores
    check_choice(ranking, RANKINGS, name="ranking")
    if ranking == "detection":
        return panels.detection_rate(counts)
    if ranking == "dispersion":
        return panels.dispersion(counts)
    values = fields.expression_sparse(adata, scale=scale)
    if ranking == "mean":
        return panels.mean_expression(values)
    if ranking == "moran":
        return panels.moran_i(values, coordinates(adata), section_of(adata))
    if ranking == "coexpression":
        return panels.coexpression(values, adata.var_names.get_indexer(pd.Index(primary)))
    return panels.hvg_scores(values)


@dataclass(frozen=True)
class Parts:
    """Rows that fit the weights, rows that select (k), and rows that stop the training; and how they were divided."""

    fit: np.ndarray
    select: np.ndarray
    stop: np.ndarray
    how: str


def microns(adata: AnnData) -> np.ndarray:
    """Return positions in um, float64 (spot, 2)."""
    at, labels = coordinates(adata), section_of(adata).to_numpy()
    factor = {one: microns_per_pixel(adata, one) for one in sections(adata)}
    return at * np.array([factor[one] for one in labels])[:, None]


def divide(adata: AnnData, how: Literal["auto", "sections", "blocks", "random"], *, gap_um: float, seed: int) -> Parts:
    """Divide training spots into those that fit, select and stop.

    Parameters
    ----------
    adata
        Training spots.
    how
        ``"sections"``: whole sections, at least three. ``"blocks"``: whole blocks of tissue, 3:1:1 in every section.
        ``"random"``: spots drawn one by one, 3:1:1, as in the paper; neighbours then stand on both sides. ``"auto"``: sections
        where there are at least five, else blocks.
    gap_um
        Spots of the fit part nearer than this to another part's are left out (blocks only), so that patches share no pixels.
    seed
        The estimator's.

    Raises
    ------
    DataError
        Too few sections, blocks or spots.
    """
    labels = section_of(adata).to_numpy()
    names = sections(adata)
    if how == "auto":
        how = "sections" if len(names) >= 5 else "blocks"
    if how == "sections":
        if len(names) < 3:
            raise DataError("too few sections to fit, select and stop on different ones", expected="at least 3",
                            got=len(names), fix='Use split="blocks".')  # fmt: skip
        order = stream(seed, "divide sections").permutation(len(names))
        share = max(1, round(_SHARES[1] * len(names)))
        of = {names[one]: min(2, place // share + 1) if place < 2 * share else 0 for place, one in enumerate(order)}
        part = np.array([of[label] for label in labels])
    elif how == "random":
        part = np.empty(adata.n_obs, dtype=np.int64)
        for i, name in enumerate(names):
            rows = _by_name(adata, np.flatnonzero(labels == name))
            place = stream(seed, "divide spots", i).permutation(len(rows))
            part[rows] = np.array([0, 0, 0, 1, 2])[place % 5]
    else:
        part = tissue_folds(adata, 5, gap_um=0.0, seed=seed, purpose="divide blocks")[0]
        part = np.where(part == 0, 1, np.where(part == 1, 2, 0))
    fit = part == 0
    if how == "blocks" and gap_um > 0:
        fit &= ~_near(microns(adata), labels, part != 0, gap_um)
    parts = Parts(np.flatnonzero(fit), np.flatnonzero(part == 1), np.flatnonzero(part == 2), how)
    for name in ("fit", "select", "stop"):
        if len(getattr(parts, name)) < 3:
            raise DataError(f"the {name} part of the training spots is too small", expected="at least 3 spots",
                            got=len(getattr(parts, name)), fix="Give more spots, or val= to select and stop on.")  # fmt: skip
    return parts


def halves(adata: AnnData, *, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Divide validation data into rows that select and rows that stop: by section where there are several, else by blocks."""
    names, labels = sections(adata), section_of(adata).to_numpy()
    if len(names) > 1:
        first = np.isin(labels, names[::2])
    else:
        first = tissue_folds(adata, 2, gap_um=0.0, seed=seed, purpose="divide validation")[0] == 0
    return np.flatnonzero(first), np.flatnonzero(~first)


def held_out_groups(
    adata: AnnData, groups: str, *, gap_um: float, seed: int
) -> list[tuple[str, np.ndarray, np.ndarray]]:
    """Return (name, rows to train on, rows held out) of each group; of each of four tissue folds where there is one group.

    Parameters
    ----------
    adata
        Training spots.
    groups
        Column of ``obs``: ``"section"``, ``"patient"``, ...
    gap_um, seed
        As for :func:`divide`.

    Raises
    ------
    DataError
        The column is absent.
    """
    if groups == keys.SECTION:
        labels = section_of(adata).to_numpy()
    elif groups in adata.obs and not adata.obs[groups].isna().any():
        labels = adata.obs[groups].astype(str).to_numpy()
    else:
        raise DataError(
            f"obs has no complete column {groups!r}",
            nearest=nearest_names(groups, adata.obs.columns),
            fix="Correct groups.",
        )
    names = sorted(set(labels))
    if len(names) > 1:
        return [(name, np.flatnonzero(labels != name), np.flatnonzero(labels == name)) for name in names]
    fold, near = tissue_folds(adata, 4, gap_um=gap_um, seed=seed, purpose="folds")
    return [
        (f"fold {one + 1}", np.flatnonzero((fold != one) & ~near[one]), np.flatnonzero(fold == one))
        for one in range(fold.max() + 1)
    ]


def tissue_folds(
    adata: AnnData, n_folds: int, *, gap_um: float, seed: int, purpose: str
) -> tuple[np.ndarray, np.ndarray]:
    """Deal blocks of tissue out to folds, in every section.

    Returns
    -------
    The fold of each spot, and bool (fold, spot): outside the fold, and nearer than ``gap_um`` to a spot in it.

    Raises
    ------
    DataError
        A section has fewer blocks than folds.
    """
    at, labels = microns(adata), section_of(adata).to_numpy()
    fold = np.empty(adata.n_obs, dtype=np.int64)
    for i, name in enumerate(sections(adata)):
        rows = np.flatnonzero(labels == name)
        span = np.ptp(at[rows], axis=0)
        side = max(float(span.max()) / _BLOCKS_ACROSS, 1e-9) * (1 + 1e-9)
        cell = np.floor((at[rows] - at[rows].min(axis=0)) / side).astype(np.int64)
        _, block, size = np.unique(cell, axis=0, return_inverse=True, return_counts=True)
        if len(size) < n_folds:
            raise DataError(
                f"section {name!r} is too small to be divided", expected=f"at least {n_folds} blocks of tissue", got=len(size),
                fix="Give more spots, or val= to select and stop on.",
            )  # fmt: skip
        fold[rows] = _deal(size, n_folds, stream(seed, purpose, i))[block.ravel()]
    near = np.stack([_near(at, labels, fold == one, gap_um) & (fold != one) for one in range(n_folds)])
    return fold, near


def _deal(size: np.ndarray, n_folds: int, rng: np.random.Generator) -> np.ndarray:
    """Give each block, in random order, to the fold that has the fewest spots so far."""
    held, fold = np.zeros(n_folds), np.empty(len(size), dtype=np.int64)
    for block in rng.permutation(len(size)):
        fold[block] = int(held.argmin())
        held[fold[block]] += size[block]
    return fold


def _near(at: np.ndarray, labels: np.ndarray, others: np.ndarray, gap_um: float) -> np.ndarray:
    """Return which spots lie nearer than the gap to one of ``others`` of their section."""
    near = np.zeros(len(at), dtype=bool)
    if gap_um > 0:
        for name in np.unique(labels):
            rows = labels == name
            if (rows & others).any():
                near[rows] = cKDTree(at[rows & others]).query(at[rows])[0] < gap_um
    return near


def _by_name(adata: AnnData, rows: np.ndarray) -> np.ndarray:
    return rows[np.argsort(adata.obs_names.to_numpy()[rows].astype(str), kind="stable")]
