"""Agreement of clusters with known labels, corrected for chance; whatever the clusters are called, and however many there are.

All take weights (obs,), whole numbers, for instance how often a resample holds each cell.
"""

import math
from typing import Any

import numpy as np
from jaxtyping import Float
from scipy import sparse
from scipy.special import gammaln

from expressor.core.errors import DataError
from expressor.metrics.records import Metric

RECORDS: dict[str, Metric] = {
    one.name: one
    for one in (
        Metric("ari", "ARI", "Adjusted Rand index: pairs of cells on which clusters and labels agree, beyond chance.",
               "pair of cells, all together", "higher", -0.5, 1.0),
        Metric("nmi", "NMI", "Mutual information of clusters and labels over the mean of their entropies.",
               "cell, all together", "higher", 0.0, 1.0),
        Metric("ami", "AMI", "Mutual information of clusters and labels, beyond chance, over the mean of their entropies.",
               "cell, all together", "higher", -1.0, 1.0),
    )
}  # fmt: skip


def contingency(truth: Any, labels: Any, *, weights: Any = None) -> Float[np.ndarray, "class other"]:
    """Return how many observations of each class (row, alphabetical) are in each cluster (column).

    Raises
    ------
    DataError
        The labels do not fit together, or the weights are negative or no whole numbers.
    """
    one, other = np.asarray(truth).astype(str), np.asarray(labels).astype(str)
    if one.ndim != 1 or one.shape != other.shape or not len(one):
        raise DataError("labels and clusters do not fit", expected="(obs,) each", got=f"{one.shape}, {other.shape}")
    w = np.ones(len(one)) if weights is None else np.asarray(weights, dtype=np.float64)
    if w.shape != one.shape or (w < 0).any() or (w != np.floor(w)).any():
        raise DataError("the weights do not fit", expected=f"{len(one)} whole numbers from 0", got=str(w.shape))
    rows, columns = np.unique(one, return_inverse=True)[1], np.unique(other, return_inverse=True)[1]
    table = np.zeros((rows.max() + 1, columns.max() + 1))
    np.add.at(table, (rows, columns), w)
    return table


def adjusted_rand_index(truth: Any, labels: Any, *, weights: Any = None) -> float:
    """Return the adjusted Rand index (Hubert and Arabie 1985): 1 for the same partition, 0 on average for a random one."""
    table = contingency(truth, labels, weights=weights)
    together, rows, columns, all_pairs = (_pairs(one) for one in (table, table.sum(1), table.sum(0), table.sum()))
    if all_pairs == 0:
        return math.nan
    chance = rows * columns / all_pairs
    best = (rows + columns) / 2
    return 1.0 if best == chance else float((together - chance) / (best - chance))


def adjusted_rand_draws(truth: Any, labels: Any, weights: Float[np.ndarray, "draw obs"]) -> Float[np.ndarray, " draw"]:
    """Return the adjusted Rand index on each resample.

    Only pairs of different observations count: an observation that was drawn twice agrees with itself, whatever the clusters, which
    would make every resample look better than the data.

    Parameters
    ----------
    truth, labels
        (obs,).
    weights
        How often each resample holds each observation; NaN is returned where it holds fewer than two.
    """
    rows = np.unique(np.asarray(truth).astype(str), return_inverse=True)[1]
    columns = np.unique(np.asarray(labels).astype(str), return_inverse=True)[1]
    itself = (weights**2).sum(axis=1)

    def pairs(codes: np.ndarray) -> np.ndarray:
        group = np.unique(codes, return_inverse=True)[1]
        member = sparse.csr_matrix((np.ones(len(group)), (group, np.arange(len(group)))))
        return np.asarray(((member @ weights.T) ** 2).sum(axis=0) - itself) / 2

    together, one, other = pairs(rows * (columns.max() + 1) + columns), pairs(rows), pairs(columns)
    everything = (weights.sum(axis=1) ** 2 - itself) / 2
    with np.errstate(invalid="ignore", divide="ignore"):
        chance, best = one * other / everything, (one + other) / 2
        return np.where(everything == 0, math.nan, np.where(best == chance, 1.0, (together - chance) / (best - chance)))


def normalised_mutual_information(truth: Any, labels: Any, *, weights: Any = None) -> float:
    """Return the mutual information over the mean of both entropies; 1 where both are a single group."""
    table = contingency(truth, labels, weights=weights)
    mean = (_entropy(table.sum(1)) + _entropy(table.sum(0))) / 2
    return 1.0 if mean == 0 else float(min(max(_mutual_information(table) / mean, 0.0), 1.0))


def adjusted_mutual_information(truth: Any, labels: Any, *, weights: Any = None) -> float:
    """Return the mutual information beyond what random clusters of these sizes have, over the mean of both entropies.

    (Vinh, Epps and Bailey 2010.)
    """
    table = contingency(truth, labels, weights=weights)
    rows, columns = table.sum(1), table.sum(0)
    mean, chance = (_entropy(rows) + _entropy(columns)) / 2, _expected_information(rows, columns)
    if (rows > 0).sum() == (columns > 0).sum() == 1 or (rows > 0).sum() == (columns > 0).sum() == table.sum():
        return 1.0
    rest = mean - chance
    return 0.0 if abs(rest) < 1e-15 else float((_mutual_information(table) - chance) / rest)


def _pairs(counts: Any) -> float:
    n = np.asarray(counts, dtype=np.float64)
    return float((n * (n - 1) / 2).sum())


def _entropy(counts: np.ndarray) -> float:
    p = counts[counts > 0] / counts.sum()
    return float(-(p * np.log(p)).sum())


def _mutual_information(table: np.ndarray) -> float:
    n = table.sum()
    chance = np.outer(table.sum(1), table.sum(0)) / n
    there = table > 0
    return float((table[there] / n * np.log(table[there] / chance[there])).sum())


def _expected_information(rows: np.ndarray, columns: np.ndarray) -> float:
    """Sum over what a cell of the table may hold, each by its hypergeometric probability."""
    rows, columns = rows[rows > 0], columns[columns > 0]
    n, total = rows.sum(), 0.0
    for a in rows:
        for b in columns:
            k = np.arange(max(1, a + b - n), min(a, b) + 1)
            log_p = (gammaln(a + 1) + gammaln(b + 1) + gammaln(n - a + 1) + gammaln(n - b + 1) - gammaln(n + 1)
                     - gammaln(k + 1) - gammaln(a - k + 1) - gammaln(b - k + 1) - gammaln(n - a - b + k + 1))  # fmt: skip
            total += float((k / n * np.log(n * k / (a * b)) * np.exp(log_p)).sum())
    return total
