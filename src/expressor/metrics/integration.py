"""How well an embedding of cells keeps what they are and forgets what they were measured with: the scores of scIB.

All are scaled so that 1 is best. Sources: Luecken et al., Nature Methods 19, 41 (2022); for LISI Korsunsky et al., Nature Methods
16, 1289 (2019). Neighbours are exact; k-means with as many clusters as labels stands in for Leiden, as in scib-metrics.
"""

import math
from typing import Any

import numpy as np
from jaxtyping import Float, Int
from scipy import sparse
from scipy.sparse.csgraph import connected_components
from sklearn.cluster import KMeans
from sklearn.metrics import silhouette_samples
from sklearn.neighbors import NearestNeighbors

from expressor.core.errors import DataError, check_range
from expressor.metrics.clustering import adjusted_rand_index, normalised_mutual_information
from expressor.metrics.records import Metric

_CELLS = "cell, all together"
_TYPES = "label, mean over labels"
_ONE_BATCH = "there is one batch"

RECORDS: dict[str, Metric] = {
    one.name: one
    for one in (
        Metric("asw_label", "ASW label", "Silhouette of the labels, brought to 0 to 1.",
               _CELLS, "higher", 0.0, 1.0, undefined="there is one label, or every cell has its own"),
        Metric("clisi", "cLISI", "How few labels a cell's neighbourhood holds, median over cells.",
               _CELLS, "higher", 0.0, 1.0, undefined="there is one label"),
        Metric("isolated_labels", "isolated labels", "Silhouette of the labels that are in the fewest batches, brought to 0 to 1.",
               _TYPES, "higher", 0.0, 1.0, undefined="there is one label"),
        Metric("asw_batch", "ASW batch", "1 minus the absolute silhouette of the batches inside a label.",
               _TYPES, "higher", 0.0, 1.0, undefined="no label is in two batches"),
        Metric("graph_connectivity", "graph connectivity", "Largest connected share of a label's cells in the graph of neighbours.",
               _TYPES, "higher", 0.0, 1.0),
        Metric("ilisi", "iLISI", "How many batches a cell's neighbourhood holds, median over cells.",
               _CELLS, "higher", 0.0, 1.0, undefined=_ONE_BATCH),
        Metric("pcr_comparison", "PCR comparison", "Share of the variance due to batches that was taken away.",
               _CELLS, "higher", 0.0, 1.0, undefined="batches explain nothing before integration"),
        Metric("avg_bio", "bio", "Mean of NMI, ARI and ASW label.", _CELLS, "higher", 0.0, 1.0, undefined="one of them is"),
        Metric("avg_batch", "batch", "Mean of graph connectivity and ASW batch.",
               _CELLS, "higher", 0.0, 1.0, undefined="one of them is"),
        Metric("integration", "overall",
               "0.6 times the mean of the five scores of biology plus 0.4 times the mean of the four of batches.",
               _CELLS, "higher", 0.0, 1.0, undefined="one of them is"),
    )
}  # fmt: skip

BIO = ("nmi", "ari", "asw_label", "clisi", "isolated_labels")
"""What the overall score takes for biology; the first three are the mean ``avg_bio``."""

BATCH = ("graph_connectivity", "asw_batch", "ilisi", "pcr_comparison")
"""What it takes for the mixing of batches; the first two are the mean ``avg_batch``."""

LISI_NEIGHBOURS, GRAPH_NEIGHBOURS = 90, 15


def judge_integration(embedding: Any, labels: Any, batches: Any, *, before: Any, seed: int = 0) -> dict[str, float]:
    """Return all scores of an embedding by name.

    Parameters
    ----------
    embedding
        (cell, dim).
    labels, batches
        (cell,) what each cell is, and what it was measured with.
    before
        (cell, dim) the cells before integration, as principal components: what the PCR comparison starts from.
    seed
        Seed of k-means.

    Returns
    -------
    dict
        :data:`BIO`, :data:`BATCH`, ``avg_bio``, ``avg_batch``, ``integration``; NaN where one is undefined.

    Raises
    ------
    DataError
        The lengths differ, there are fewer than 3 cells, or a value is not finite.
    """
    X, label, batch = _checked(embedding, labels, batches)
    distances, near = nearest(X, LISI_NEIGHBOURS)
    clusters = _k_means(X, len(np.unique(label)), seed)
    found = {
        "nmi": normalised_mutual_information(label, clusters),
        "ari": adjusted_rand_index(label, clusters),
        "asw_label": asw_label(X, label),
        "clisi": clisi(distances, near, label),
        "isolated_labels": isolated_labels(X, label, batch),
        "graph_connectivity": graph_connectivity(near[:, :GRAPH_NEIGHBOURS], label),
        "asw_batch": asw_batch(X, label, batch),
        "ilisi": ilisi(distances, near, batch),
        "pcr_comparison": pcr_comparison(before, X, batch),
    }
    bio, mixed = (np.array([found[one] for one in names]) for names in (BIO, BATCH))
    found["avg_bio"], found["avg_batch"] = float(bio[:3].mean()), float(mixed[:2].mean())
    found["integration"] = float(0.6 * bio.mean() + 0.4 * mixed.mean())
    return found


def nearest(embedding: Any, k: int) -> tuple[Float[np.ndarray, "cell other"], Int[np.ndarray, "cell other"]]:
    """Return distances and positions of the ``k`` nearest cells of each, itself first; of all where there are fewer."""
    check_range(k, name="k", low=2, integer=True)
    X = np.asarray(embedding, dtype=np.float64)
    k = min(k, len(X))
    distances, near = NearestNeighbors(n_neighbors=k).fit(X).kneighbors(X)
    # Among cells at the same place the cell itself is not always first, and with many of them not there at all.
    own = np.arange(len(X))
    at = np.where((near == own[:, None]).any(axis=1), (near == own[:, None]).argmax(axis=1), k - 1)
    near[own, at], near[:, 0] = near[:, 0].copy(), own
    return distances, near


def lisi(distances: Any, near: Any, labels: Any, *, perplexity: float | None = None) -> Float[np.ndarray, " cell"]:
    """Return the local inverse Simpson index: how many labels are effectively near a cell, from 1.

    Parameters
    ----------
    distances, near
        (cell, other) from :func:`nearest`.
    labels
        (cell,).
    perplexity
        Effective number of neighbours; a third of them by default.

    Returns
    -------
    numpy.ndarray
        (cell,); NaN for a cell with no other at a distance.
    """
    distances, near = np.asarray(distances, dtype=np.float64), np.asarray(near)
    wanted = math.log(perplexity if perplexity is not None else max(near.shape[1] // 3, 1))
    other = near != np.arange(len(near))[:, None]
    p = _weights(distances, other, wanted)
    codes = np.unique(np.asarray(labels).astype(str), return_inverse=True)[1]
    shares = np.zeros((len(near), codes.max() + 1))
    np.add.at(shares, (np.repeat(np.arange(len(near)), near.shape[1]), codes[near].ravel()), p.ravel())
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where(p.sum(axis=1) > 0, 1 / (shares**2).sum(axis=1), math.nan)


def _weights(distances: np.ndarray, other: np.ndarray, wanted: float) -> np.ndarray:
    """Weights exp(-beta d) of the others, adding up to 1, with the entropy ``wanted``: beta by bisection, cell by cell."""
    n = len(distances)
    beta, low, high = np.ones(n), np.zeros(n), np.full(n, np.inf)
    p = np.zeros_like(distances)
    active = np.arange(n)
    for _ in range(51):
        d = distances[active]
        raw = np.where(other[active], np.exp(-d * beta[active, None]), 0.0)
        total = raw.sum(axis=1)
        there = total > 0
        p[active] = raw / np.where(there, total, 1.0)[:, None]
        entropy = np.where(there, np.log(np.where(there, total, 1.0)) + beta[active] * (d * p[active]).sum(axis=1), 0.0)
        gap = entropy - wanted
        active, gap = active[np.abs(gap) >= 1e-5], gap[np.abs(gap) >= 1e-5]
        if not len(active):
            break
        flat, steep = active[gap > 0], active[gap <= 0]
        low[flat] = beta[flat]
        high[steep] = beta[steep]
        beta[flat] = np.where(np.isinf(high[flat]), beta[flat] * 2, (beta[flat] + high[flat]) / 2)
        beta[steep] = (beta[steep] + low[steep]) / 2
    return p


def ilisi(distances: Any, near: Any, batches: Any) -> float:
    """Return the median :func:`lisi` of the batches, brought to 0 (one batch around every cell) to 1 (all, evenly)."""
    n = len(np.unique(np.asarray(batches).astype(str)))
    return float((np.nanmedian(lisi(distances, near, batches)) - 1) / (n - 1)) if n > 1 else math.nan


def clisi(distances: Any, near: Any, labels: Any) -> float:
    """Return the median :func:`lisi` of the labels, brought to 0 (all around every cell, evenly) to 1 (its own alone)."""
    n = len(np.unique(np.asarray(labels).astype(str)))
    return float((n - np.nanmedian(lisi(distances, near, labels))) / (n - 1)) if n > 1 else math.nan


def graph_connectivity(near: Any, labels: Any) -> float:
    """Return the mean over labels of the largest strongly connected share of their cells, in the graph of neighbours."""
    near, label = np.asarray(near), np.asarray(labels).astype(str)
    n, k = near.shape
    graph = sparse.csr_matrix((np.ones(n * k), (np.repeat(np.arange(n), k), near.ravel())), shape=(n, n))
    shares = []
    for one in np.unique(label):
        rows = np.flatnonzero(label == one)
        _, part = connected_components(graph[rows][:, rows], connection="strong")
        shares.append(np.bincount(part).max() / len(rows))
    return float(np.mean(shares))


def asw_label(embedding: Any, labels: Any) -> float:
    """Return the mean silhouette of the labels, brought from -1 to 1 to 0 to 1."""
    return float((_silhouettes(embedding, labels).mean() + 1) / 2)


def asw_batch(embedding: Any, labels: Any, batches: Any) -> float:
    """Return the mean over labels of 1 minus the mean absolute silhouette of the batches among a label's cells."""
    X, label, batch = _checked(embedding, labels, batches)
    found = []
    for one in np.unique(label):
        silhouettes = _silhouettes(X[label == one], batch[label == one])
        if not np.isnan(silhouettes).any():
            found.append(1 - np.abs(silhouettes).mean())
    return float(np.mean(found)) if found else math.nan


def isolated_labels(embedding: Any, labels: Any, batches: Any) -> float:
    """Return the mean silhouette, brought to 0 to 1, of the labels that are in the smallest number of batches."""
    X, label, batch = _checked(embedding, labels, batches)
    silhouettes = (_silhouettes(X, label) + 1) / 2
    names = np.unique(label)
    spread = np.array([len(np.unique(batch[label == one])) for one in names])
    return float(np.mean([silhouettes[label == one].mean() for one in names[spread == spread.min()]]))


def pcr_comparison(before: Any, after: Any, batches: Any) -> float:
    """Return by which share the part of the variance that batches explain fell; 0 where it rose.

    With all principal components, regressing each on the batches and weighing by its variance gives the sum of squares between
    batches over the total, which needs no components.
    """
    was, is_now = (_explained(one, batches) for one in (before, after))
    return max(0.0, (was - is_now) / was) if was > 1e-12 else math.nan  # one batch leaves rounding


def _explained(X: Any, batches: Any) -> float:
    X = np.asarray(X, dtype=np.float64)
    centred = X - X.mean(axis=0)
    code = np.unique(np.asarray(batches).astype(str), return_inverse=True)[1]
    sizes = np.bincount(code)
    means = sparse.csr_matrix((np.ones(len(code)), (code, np.arange(len(code))))) @ centred / sizes[:, None]
    total = float((centred**2).sum())
    return float((sizes[:, None] * means**2).sum()) / total if total > 0 else math.nan


def _silhouettes(X: Any, labels: Any) -> np.ndarray:
    label = np.asarray(labels).astype(str)
    n = len(np.unique(label))
    if n < 2 or n >= len(label):
        return np.full(len(label), math.nan)
    return np.asarray(silhouette_samples(np.asarray(X, dtype=np.float64), label))


def _k_means(X: np.ndarray, k: int, seed: int) -> np.ndarray:
    different = len(np.unique(X, axis=0))
    return np.asarray(KMeans(min(k, different), n_init=10, random_state=seed).fit_predict(X))


def _checked(embedding: Any, labels: Any, batches: Any) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    X = np.asarray(embedding, dtype=np.float64)
    label, batch = np.asarray(labels).astype(str), np.asarray(batches).astype(str)
    if X.ndim != 2 or len(X) < 3 or label.shape != (len(X),) or batch.shape != (len(X),):
        raise DataError("embedding, labels and batches do not fit", expected="(cell, dim), (cell,), (cell,); 3 cells or more",
                        got=f"{X.shape}, {label.shape}, {batch.shape}")  # fmt: skip
    if not np.isfinite(X).all():
        raise DataError(
            "the embedding holds values that are not finite", got=f"{int((~np.isfinite(X)).sum())} of {X.size}"
        )
    return X, label, batch
