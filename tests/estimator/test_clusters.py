"""Clusters of positions: their order, their number, the graph of neighbours and its modularity."""

import networkx
import numpy as np
import pytest
from scipy import sparse

from expressor.core.errors import DataError
from expressor.estimator.clustering import (
    centres_of,
    choose_k,
    k_means,
    leiden,
    modularity,
    nearest_centre,
    neighbor_graph,
)


def blobs(*sizes: int, seed: int = 0) -> np.ndarray:
    """Positions in groups far from each other, in this order."""
    rng = np.random.default_rng(seed)
    return np.concatenate([rng.normal(50 * i, 1.0, (size, 2)) for i, size in enumerate(sizes)])


def test_the_largest_cluster_is_number_0():
    labels = k_means(blobs(5, 20, 10), 3, seed=0)
    np.testing.assert_array_equal(labels, [2] * 5 + [0] * 20 + [1] * 10)


def test_the_number_of_clusters_is_that_of_the_groups():
    number, tried = choose_k(blobs(15, 20, 10, 12), most=8, seed=0)
    assert number == 4
    assert sorted(tried) == list(range(2, 9))
    assert max(tried, key=tried.get) == 4


def test_the_graph_joins_each_with_its_nearest():
    x = np.random.default_rng(1).normal(size=(30, 3))
    away = np.linalg.norm(x[:, None] - x[None], axis=2)
    np.fill_diagonal(away, np.inf)
    chosen = np.zeros((30, 30))
    for i, near in enumerate(np.argsort(away, axis=1)[:, :4]):
        chosen[i, near] = 1
    np.testing.assert_array_equal(neighbor_graph(x, 4).toarray(), chosen + chosen.T)


def test_leiden_finds_groups_that_are_not_joined():
    labels = leiden(blobs(30, 20, 25), n_neighbors=5, resolution=0.05, seed=0)
    assert len({tuple(np.unique(one)) for one in np.split(labels, [30, 50])}) == 3


def test_modularity_is_that_of_networkx():
    graph = neighbor_graph(np.random.default_rng(2).normal(size=(60, 2)), 6)
    labels = np.random.default_rng(3).integers(0, 4, 60)
    parts = [set(np.flatnonzero(labels == one).tolist()) for one in range(4)]
    expected = networkx.community.modularity(networkx.from_scipy_sparse_array(graph), parts)
    assert modularity(graph, labels) == pytest.approx(expected)
    assert modularity(graph, np.array(list("abcd"))[labels]) == pytest.approx(expected)
    assert modularity(graph, np.zeros(60)) == pytest.approx(0)


def test_modularity_of_no_edges_is_refused():
    with pytest.raises(DataError, match="no edge"):
        modularity(sparse.csr_matrix((3, 3)), np.zeros(3))


def test_a_position_belongs_to_the_nearest_centre():
    x = blobs(5, 20, 10)
    labels = k_means(x, 3, seed=0)
    np.testing.assert_array_equal(nearest_centre(x, centres_of(x, labels)), labels)
