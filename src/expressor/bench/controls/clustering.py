"""Controls of clusters: chance, and the usual ways from counts of cells to groups."""

from dataclasses import dataclass
from typing import Any, Literal, Self

import numpy as np
from scipy import sparse
from sklearn.cluster import SpectralClustering
from sklearn.decomposition import PCA

from expressor.core.errors import check_choice, check_range
from expressor.core.optional import need
from expressor.core.rng import child_seed, stream
from expressor.estimator.clustering import choose_k, k_means, leiden, neighbor_graph
from expressor.systems.diphw.equations import coexpression
from expressor.systems.diphw.hypergraph import TableWalk, rows_to_one
from expressor.systems.diphw.preparation import prepare
from expressor.systems.diphw.sampling import sampled_positions

POSITIONS = ("pca", "umap", "deepwalk")
GROUPINGS = ("kmeans", "leiden", "louvain", "spectral", "dense_leiden", "random")


@dataclass(kw_only=True)
class UsualClusters:
    """Logarithms of counts per million of variable genes, positions of cells, and groups of positions.

    Parameters
    ----------
    positions
        ``"pca"``, ``"umap"`` of these, or ``"deepwalk"``: walks on the nearest-neighbour graph and skip-gram (node2vec with
        p = q = 1).
    grouping
        ``"kmeans"``; ``"leiden"`` and ``"louvain"`` on the nearest-neighbour graph at resolution 1, whatever the number of
        clusters; ``"spectral"`` of that graph; ``"dense_leiden"`` on the correlations of all pairs of cells, as in the paper of
        DIPHW; ``"random"``.
    n_clusters
        Their number, at least 1; None for the one with the largest silhouette of k-means.
    n_genes, log
        As of the system that is judged, which starts from the same matrix.
    dim
        Number of components, at least 1.
    n_neighbors
        Of the graph, at least 1.
    random_state
        Seed.
    """

    positions: Literal["pca", "umap", "deepwalk"] = "pca"
    grouping: Literal["kmeans", "leiden", "louvain", "spectral", "dense_leiden", "random"] = "kmeans"
    n_clusters: int | None = None
    n_genes: int | None = 1000
    log: Literal["natural", "log2"] = "natural"
    dim: int = 30
    n_neighbors: int = 15
    random_state: int = 0

    def fit(self, data: Any) -> Self:
        """Find clusters, ``labels_`` (cell,)."""
        check_choice(self.positions, POSITIONS, name="positions")
        check_choice(self.grouping, GROUPINGS, name="grouping")
        check_range(self.dim, name="dim", low=1, integer=True)
        gamma, _ = prepare(data, scale="auto", log=self.log, n_genes=self.n_genes)
        X = gamma.toarray()
        self.labels_ = self._dense_leiden(X) if self.grouping == "dense_leiden" else self._group(self._place(X))
        return self

    def _place(self, X: np.ndarray) -> np.ndarray:
        seed = child_seed(self.random_state, "components") % 2**32
        x = PCA(min(self.dim, *X.shape), random_state=seed).fit_transform(X).astype(np.float32)
        if self.positions == "umap":
            umap = need("umap", extra="bench", purpose="run the control of UMAP")
            found = umap.UMAP(n_neighbors=self.n_neighbors, random_state=seed % 2**31, n_jobs=1).fit_transform(x)
            return np.asarray(found, dtype=np.float32)
        if self.positions == "deepwalk":
            walk = TableWalk(rows_to_one(neighbor_graph(x, self.n_neighbors)))
            return sampled_positions(walk, per_cell=10, T=30, W=5, dim=self.dim, epochs=2, seed=self.random_state)[0]
        return x

    def _group(self, x: np.ndarray) -> np.ndarray:
        seed = self.random_state
        if self.grouping == "leiden":
            return leiden(x, n_neighbors=self.n_neighbors, resolution=1.0, seed=seed)
        if self.grouping == "louvain":
            return self._louvain(neighbor_graph(x, self.n_neighbors))
        k = self.n_clusters or choose_k(x, most=20, seed=seed)[0]
        if self.grouping == "random":
            return stream(seed, "random clusters").integers(0, k, len(x))
        if self.grouping == "spectral":
            number = child_seed(seed, "spectral") % 2**32
            made = SpectralClustering(k, affinity="precomputed", random_state=number, assign_labels="kmeans")
            return np.asarray(made.fit_predict(neighbor_graph(x, self.n_neighbors)))
        return k_means(x, k, seed=seed)

    def _louvain(self, graph: sparse.csr_matrix) -> np.ndarray:
        networkx = need("networkx", extra="bench", purpose="find communities by the Louvain algorithm")
        seed = child_seed(self.random_state, "louvain") % 2**32
        found = networkx.community.louvain_communities(networkx.from_scipy_sparse_array(graph), seed=seed)
        labels = np.empty(graph.shape[0], dtype=np.int64)
        for number, members in enumerate(found):
            labels[list(members)] = number
        return labels

    def _dense_leiden(self, X: np.ndarray) -> np.ndarray:
        native = need("graspologic_native", extra="clustering", purpose="find communities by the Leiden algorithm")
        graph = sparse.csr_matrix(coexpression(X))
        _, found = native.leiden_csr(
            graph.indptr.astype(np.int64), graph.indices.astype(np.int32), graph.data, graph.shape[0], resolution=1.1,
            iterations=2, seed=child_seed(self.random_state, "leiden") % 2**32,
        )  # fmt: skip
        return np.array([found.get(i, -1 - i) for i in range(len(X))])
