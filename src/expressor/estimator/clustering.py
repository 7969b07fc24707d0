"""Clusters of positions: k-means, Leiden on the graph of nearest neighbours, and how many there are."""

import warnings

import numpy as np
from scipy import sparse
from sklearn.cluster import KMeans
from sklearn.exceptions import ConvergenceWarning
from sklearn.metrics import silhouette_score
from sklearn.neighbors import NearestNeighbors

from expressor.core.errors import DataError
from expressor.core.log import logger
from expressor.core.optional import need
from expressor.core.rng import child_seed, stream

_JUDGED = 2000  # cells on which a number of clusters is judged


def k_means(positions: np.ndarray, n_clusters: int, *, seed: int) -> np.ndarray:
    """Return labels (cell,) of k-means with ten starts; there are fewer clusters where there are fewer distinct positions.

    Raises
    ------
    DataError
        There are fewer cells than clusters.
    """
    if n_clusters > len(positions):
        raise DataError(
            "there are more clusters than cells", expected=f"n_clusters of at most {len(positions)}", got=n_clusters
        )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        fitted = KMeans(n_clusters, n_init=10, random_state=child_seed(seed, "k-means") % 2**32).fit(positions)
    found = _in_order(fitted.labels_)
    if found.max() + 1 < n_clusters:
        logger.warning("only %d of %d clusters are made: the cells have no more positions", found.max() + 1, n_clusters)
    return found


def choose_k(positions: np.ndarray, *, most: int, seed: int) -> tuple[int, dict[int, float]]:
    """Return the number of clusters whose k-means has the largest mean silhouette, and the silhouette of each number tried.

    All numbers from 2 to ``most`` are tried, on at most 2,000 cells drawn at random; 1 where there are fewer than three distinct
    positions.
    """
    rows = np.sort(stream(seed, "cells that judge").permutation(len(positions))[:_JUDGED])
    some = positions[rows]
    most = min(most, len(some) - 1, len(np.unique(some, axis=0)) - 1)
    scores: dict[int, float] = {}
    for k in range(2, most + 1):
        labels = k_means(some, k, seed=seed)
        if 2 <= labels.max() + 1 < len(some):
            scores[k] = float(silhouette_score(some, labels))
    return (max(scores, key=lambda k: (scores[k], -k)), scores) if scores else (1, {})


def mean_silhouette(positions: np.ndarray, labels: np.ndarray, *, seed: int) -> float:
    """Return the mean silhouette of clusters (Euclidean), -1 to 1, over at most 2,000 cells; -1 where there is but one cluster."""
    rows = np.sort(stream(seed, "cells that judge").permutation(len(positions))[:_JUDGED])
    some, own = positions[rows], labels[rows]
    return float(silhouette_score(some, own)) if 2 <= len(np.unique(own)) < len(some) else -1.0


def leiden(positions: np.ndarray, *, n_neighbors: int, resolution: float, seed: int) -> np.ndarray:
    """Return labels (cell,) of the Leiden algorithm for modularity on the graph of nearest neighbours, each joined with weight 1.

    Raises
    ------
    MissingExtra
        ``graspologic-native`` is not installed.
    """
    native = need("graspologic_native", extra="clustering", purpose="find communities by the Leiden algorithm")
    graph = neighbor_graph(positions, n_neighbors)
    if graph.nnz == 0:
        return np.zeros(len(positions), dtype=np.int64)
    _, found = native.leiden_csr(
        graph.indptr.astype(np.int64), graph.indices.astype(np.int32), graph.data.astype(np.float64), graph.shape[0],
        resolution=resolution, iterations=2, seed=child_seed(seed, "leiden") % 2**32,
    )  # fmt: skip
    alone = len(positions) + np.arange(len(positions))
    return _in_order(np.array([found.get(i, alone[i]) for i in range(len(positions))]))


def neighbor_graph(positions: np.ndarray, n_neighbors: int) -> sparse.csr_matrix:
    """Return the symmetric graph that joins each cell with its nearest ones, weight 1, or 2 where both choose each other."""
    k = min(n_neighbors, len(positions) - 1)
    if k < 1:
        return sparse.csr_matrix((len(positions), len(positions)))
    _, near = NearestNeighbors(n_neighbors=k).fit(positions).kneighbors()
    which = np.repeat(np.arange(len(positions)), k)
    chosen = sparse.csr_matrix((np.ones(near.size), (which, near.ravel())), shape=(len(positions),) * 2)
    return sparse.csr_matrix(chosen + chosen.T)


def modularity(graph: sparse.csr_matrix, labels: np.ndarray) -> float:
    """Return the modularity (Newman and Girvan 2004) of a partition of a graph's nodes: at most 1, and 0 where all are one group.

    Parameters
    ----------
    graph
        (node, node), symmetric, weights not negative.
    labels
        (node,).

    Raises
    ------
    DataError
        The graph has no edge.
    """
    kinds, own = np.unique(labels, return_inverse=True)
    members = sparse.csr_matrix((np.ones(len(own)), (np.arange(len(own)), own)), shape=(len(own), len(kinds)))
    between = (members.T @ graph @ members).toarray()
    total = between.sum()
    if total == 0:
        raise DataError("the graph has no edge", expected="nodes that are joined")
    return float(np.trace(between) / total - ((between.sum(axis=1) / total) ** 2).sum())


def centres_of(positions: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Return the mean position of each cluster, float32 (cluster, dim)."""
    return np.stack([positions[labels == one].mean(axis=0) for one in range(labels.max() + 1)]).astype(np.float32)


def nearest_centre(positions: np.ndarray, centres: np.ndarray) -> np.ndarray:
    """Return the cluster whose centre is nearest, (cell,)."""
    return ((positions[:, None, :] - centres[None]) ** 2).sum(-1).argmin(axis=1)


def _in_order(labels: np.ndarray) -> np.ndarray:
    """Number clusters by size, the largest 0; among equals the one whose first cell comes first."""
    _, first, own, sizes = np.unique(labels, return_index=True, return_inverse=True, return_counts=True)
    rank = np.empty(len(sizes), dtype=np.int64)
    rank[np.lexsort((first, -sizes))] = np.arange(len(sizes))
    return rank[own]
