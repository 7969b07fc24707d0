"""The estimator: parameters, fit, and what a fitted walk gives: positions of cells and genes, clusters, modules."""

import dataclasses
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Literal, final

import numpy as np
import pandas as pd
from scipy import sparse

from expressor.core.errors import DataError, check_choice, check_range
from expressor.core.log import logger
from expressor.core.rng import stream
from expressor.data import fields
from expressor.estimator import clustering as clusters
from expressor.estimator.base import Estimator, State
from expressor.estimator.grouping import judge_clusters
from expressor.estimator.roles import Clusters, Encodes
from expressor.genes.vocab import GeneVocab
from expressor.systems.diphw.cooccurrence import Embedding, GeneSide, embed, place
from expressor.systems.diphw.equations import unit_length
from expressor.systems.diphw.hypergraph import MEMORY, WALKS, FactorWalk, TableWalk, factor_walk, gene_probabilities
from expressor.systems.diphw.memory import DENSE_LIMIT, memory_walk
from expressor.systems.diphw.modules import carriers, module_table
from expressor.systems.diphw.neighbors import Regions, mean_of_similar, standardised
from expressor.systems.diphw.preparation import LOGS, SCALES, Preparation, prepare, replay
from expressor.systems.diphw.sampling import sampled_positions

BACKENDS = ("auto", "closed_form", "sampled", "landmarks")
UNPLACED = -1
NEAR_BEYOND = 100
"""Nearest cells that a walk with memory sees among more cells than a whole table is kept for."""
_SIMILAR = 15
_BLOCK = 4096


@final
@dataclasses.dataclass(kw_only=True, eq=False, repr=False)
class DIPHW(Estimator, Encodes, Clusters):
    """Embed and cluster single cells by random walks on the hypergraph that has cells for nodes and genes for hyperedges.

    Parameters
    ----------
    walk
        ``"edvw"``, ``"diphw"``, ``"both"`` (exponent on both steps), or with co-expression memory ``"comem"``, ``"comem_diphw"``,
        ``"comem_both"``; equations W1 to W5. ``"auto"``: of the paper's walk and ``"both"`` the one whose clusters have the larger
        mean silhouette. The paper's walk is ``"comem_diphw"`` up to 5,000 cells and ``"diphw"`` beyond, where walks with memory
        are slow, and restricted (see ``memory_neighbors``).
    exponent
        The preference exponent, >= 0. The larger, the more a walk keeps to the highest expression: 50 in the paper's simulation,
        where high counts mark the modules; real cells ask for a small one.
    backend
        ``"closed_form"``: expected co-occurrence, no walks. ``"landmarks"``: the same against some cells. ``"sampled"``: walks and
        skip-gram, as in the paper. ``"auto"``: closed form up to 5,000 cells, landmarks beyond.
    n_genes
        Keep so many highly variable genes, >= 1; None for all that are expressed.
    scale
        ``"counts"`` (brought to counts per million and logarithms), ``"as given"`` (anything not negative), or ``"auto"``.
    log
        ``"natural"`` or ``"log2"``, of counts per million plus 1.
    dim
        Dimensions of the positions, >= 1.
    unit_rows
        Whether positions are scaled to length 1 before cells are grouped. They are not in the paper.
    walk_length
        Steps of a walk, >= 1.
    window
        Largest distance of a pair in a walk, >= 1.
    walks_per_cell
        Walks from each cell, >= 1; for ``"sampled"``.
    epochs
        Passes of skip-gram over the walks, >= 1; for ``"sampled"``.
    n_landmarks
        Cells drawn as landmarks, >= 1.
    lazy
        Whether a walk of two steps may stay where it is. With memory it never does.
    remembered_exponent
        Exponent on the remembered gene, >= 0; for memory.
    gene_weight
        Whether the remembered gene is weighed by its sum over cells; for memory.
    memory_neighbors
        Restrict the network of cells to so many nearest ones, >= 1; for memory. None: all up to 5,000 cells, and 100 beyond,
        with a warning: the restricted walk finds types less well.
    clustering
        ``"kmeans"``, or ``"leiden"`` on the nearest neighbours among positions (extra ``clustering``).
    n_clusters
        Number of clusters of k-means, >= 1; None for the one with the largest silhouette.
    max_clusters
        Largest number that is tried for that, >= 2.
    n_neighbors
        Of the graph of Leiden, >= 1.
    resolution
        Of Leiden, > 0.
    label
        Column of ``obs`` with known labels, for :meth:`evaluate` alone.
    random_state
        Seed of landmarks, walks, decomposition and clustering, >= 0.

    Attributes
    ----------
    embedding_
        float32 (cell, dim), the cells of the fit, rows at unit length if ``unit_rows``. A row of zeros: no chosen gene is
        expressed, or the cell is seen near none more often than by chance.
    labels_
        (cell,), clusters of the fit, 0 the largest; -1 for a cell that expresses no chosen gene.
    gene_embedding_
        DataFrame (gene, dim): the mean position of the cells that a walk reaches through the gene, at unit length.
    modules_
        For each cluster the 50 genes that carried most steps inside it: cluster, gene, share, lift (over the gene's share of all
        steps).
    n_unplaced_
        Cells of the fit that express no chosen gene.
    walk_
        The walk that was taken.
    history_
        One row a walk and number of clusters tried: ``walk``, ``n_clusters``, ``silhouette``.
    """

    walk: Literal["auto", "edvw", "diphw", "both", "comem", "comem_diphw", "comem_both"] = "auto"
    exponent: float = 5.0
    backend: Literal["auto", "closed_form", "sampled", "landmarks"] = "auto"
    n_genes: int | None = 1000
    scale: Literal["auto", "counts", "as given"] = "auto"
    log: Literal["natural", "log2"] = "natural"
    dim: int = 30
    unit_rows: bool = False
    walk_length: int = 30
    window: int = 5
    walks_per_cell: int = 30
    epochs: int = 5
    n_landmarks: int = 1000
    lazy: bool = True
    remembered_exponent: float = 1.0
    gene_weight: bool = False
    memory_neighbors: int | None = None
    clustering: Literal["kmeans", "leiden"] = "kmeans"
    n_clusters: int | None = None
    max_clusters: int = 20
    n_neighbors: int = 15
    resolution: float = 1.0
    label: str = "cell_type"
    random_state: int = 0

    def _check(self) -> None:
        for name, choices in (("walk", ("auto", *WALKS)), ("backend", BACKENDS), ("scale", SCALES), ("log", tuple(LOGS)),
                              ("clustering", ("kmeans", "leiden"))):  # fmt: skip
            check_choice(getattr(self, name), choices, name=name)
        for name in ("exponent", "remembered_exponent"):
            check_range(getattr(self, name), name=name, low=0, high=1e4)
        for name, low in (("dim", 1), ("walk_length", 1), ("window", 1), ("walks_per_cell", 1), ("epochs", 1), ("n_landmarks", 1),
                          ("max_clusters", 2), ("n_neighbors", 1), ("random_state", 0)):  # fmt: skip
            check_range(getattr(self, name), name=name, low=low, integer=True)
        for name in ("n_genes", "memory_neighbors", "n_clusters"):
            if getattr(self, name) is not None:
                check_range(getattr(self, name), name=name, low=1, integer=True)
        check_range(self.resolution, name="resolution", low=0, open_low=True)

    def _fit(self, adata: Any, *, val: Any, resume: Path | None) -> None:
        gamma, self._preparation = prepare(adata, scale=self.scale, log=self.log, n_genes=self.n_genes)
        placed = gamma.getnnz(axis=1) > 0
        self.n_unplaced_ = int((~placed).sum())
        if placed.sum() < 2:
            raise DataError(
                "cells cannot be compared", expected="at least 2 that express a chosen gene", got=int(placed.sum())
            )
        if self.n_unplaced_:
            logger.warning("%d of %d cells express no chosen gene; they get no position", self.n_unplaced_, len(placed))
        gamma = gamma[placed]
        self._n = int(placed.sum())
        best, self.history_ = self._best(gamma)
        self.walk_, self.backend_, self._gene_side, self._around = best.name, best.backend, best.gene_side, best.around
        positions, labels = best.positions, best.labels
        self._omega = np.asarray(gamma.sum(axis=0)).ravel()
        self._set_gene_scale(gamma)
        self._gene_positions = self._mean_positions(best.walk, gamma, positions)
        if self._gene_side is None:
            self._gamma, self._known = gamma, positions
        self.genes_in_ = GeneVocab(sorted(map(str, adata.var_names)))
        inside, overall = carriers(best.walk, gamma, best.visits, labels, self._memory_options(best.name))
        self.modules_ = module_table(inside, overall, self._preparation.genes)
        self.embedding_ = np.zeros((len(placed), positions.shape[1]), dtype=np.float32)
        self.labels_ = np.full(len(placed), UNPLACED, dtype=np.int64)
        self.embedding_[placed], self.labels_[placed] = positions, labels
        self._centres = clusters.centres_of(positions, labels)

    def _best(self, gamma: sparse.csr_matrix) -> tuple["_Grouped", pd.DataFrame]:
        """Return the walk whose clusters have the largest mean silhouette, the first among equals, and all that was tried."""
        names = self._candidates()
        best = self._group(names[0], gamma)
        histories = [best.history]
        for name in names[1:]:
            other = self._group(name, gamma)
            histories.append(other.history)
            best = other if other.silhouette > best.silhouette else best
        return best, pd.concat(histories, ignore_index=True)

    def _candidates(self) -> tuple[str, ...]:
        if self.walk != "auto":
            return (self.walk,)
        return ("comem_diphw" if self._n <= DENSE_LIMIT else "diphw", "both")

    def _group(self, name: str, gamma: sparse.csr_matrix) -> "_Grouped":
        walk = self._walk(name, gamma)
        backend = self.backend
        if backend == "auto":
            backend = "closed_form" if walk.n <= DENSE_LIMIT else "landmarks"
        positions, visits, side, around = self._positions(walk, backend)
        labels, history = self._cluster(positions)
        silhouette = clusters.mean_silhouette(positions, labels, seed=self.random_state)
        history = history.fillna({"silhouette": silhouette}).assign(walk=name)[["walk", "n_clusters", "silhouette"]]
        return _Grouped(name, walk, backend, positions, visits, side, around, labels, silhouette, history)

    def _walk(self, name: str, gamma: sparse.csr_matrix) -> FactorWalk | TableWalk:
        if name in MEMORY:
            options = self._memory_options(name)
            if self.memory_neighbors is None and options["neighbors"] is not None:
                logger.warning(
                    "a walk with memory among %d cells sees the %d nearest of each alone, which finds types less well; "
                    'walk="auto" takes one without memory', self._n, options["neighbors"],
                )  # fmt: skip
            return memory_walk(gamma, **options)
        return factor_walk(gamma, walk=name, exponent=self.exponent, lazy=self.lazy)  # type: ignore[arg-type]

    def _memory_options(self, name: str) -> dict[str, Any]:
        if name not in MEMORY:
            return {}
        near = self.memory_neighbors
        if near is None and self._n > DENSE_LIMIT:
            near = NEAR_BEYOND
        return {"exponent": 1.0 if name == "comem" else self.exponent, "gene_weight": self.gene_weight,
                "remembered_exponent": self.remembered_exponent, "neighbors": near, "walk": name,
                "seed": self.random_state}  # fmt: skip

    def _positions(
        self, walk: FactorWalk | TableWalk, backend: str
    ) -> tuple[np.ndarray, np.ndarray, GeneSide | None, Embedding | None]:
        if backend == "sampled":
            positions, visits = sampled_positions(
                walk, per_cell=self.walks_per_cell, T=self.walk_length, W=self.window, dim=self.dim, epochs=self.epochs,
                seed=self.random_state, unit_rows=self.unit_rows,
            )  # fmt: skip
            return positions, visits, None, None
        landmarks = np.arange(walk.n)
        if backend == "landmarks" and self.n_landmarks < walk.n:
            landmarks = np.sort(stream(self.random_state, "landmarks").permutation(walk.n)[: self.n_landmarks])
        found, visits, side = embed(walk, landmarks, T=self.walk_length, W=self.window, dim=self.dim, seed=self.random_state,
                                    unit_rows=self.unit_rows)  # fmt: skip
        return found.positions, visits, side, found if side is not None else None

    def _set_gene_scale(self, gamma: sparse.csr_matrix) -> None:
        """Keep each gene's largest expression and its sum of powers, which make probabilities of new cells."""
        columns = gamma.tocsc()
        self._top = np.asarray(columns.max(axis=0).todense()).ravel()
        self._sum = np.asarray(self._raised(gamma).sum(axis=0)).ravel()

    def _raised(self, gamma: sparse.csr_matrix) -> sparse.csr_matrix:
        alpha = {"edvw": 1.0, "diphw": self.exponent, "both": self.exponent, "comem_both": self.exponent}.get(
            self.walk_, 1.0
        )
        found = gamma.copy()
        # A cell far above those of the fit must not overflow.
        found.data = np.exp(np.minimum(alpha * np.log(found.data / self._top[found.indices]), 600.0))
        return found

    def _of_genes(self, gamma: sparse.csr_matrix) -> sparse.csr_matrix:
        """Return the probability of each cell given a gene, (cell, gene); at most 1 for a cell beyond those of the fit."""
        found = self._raised(gamma)
        found.data = found.data / np.maximum(self._sum[found.indices], found.data)
        return found

    def _mean_positions(
        self, walk: FactorWalk | TableWalk, gamma: sparse.csr_matrix, positions: np.ndarray
    ) -> np.ndarray:
        reached = walk.B if isinstance(walk, FactorWalk) else self._of_genes(gamma).T
        return np.asarray(reached @ positions, dtype=np.float32)

    def _cluster(self, positions: np.ndarray) -> tuple[np.ndarray, pd.DataFrame]:
        silhouettes: dict[int, float] = {}
        if self.clustering == "leiden":
            labels = clusters.leiden(
                positions, n_neighbors=self.n_neighbors, resolution=self.resolution, seed=self.random_state
            )
        else:
            k = self.n_clusters
            if k is None:
                k, silhouettes = clusters.choose_k(positions, most=self.max_clusters, seed=self.random_state)
            labels = clusters.k_means(positions, k, seed=self.random_state)
        tried = silhouettes or {int(labels.max()) + 1: np.nan}
        return labels, pd.DataFrame({"n_clusters": list(tried), "silhouette": list(tried.values())})

    # Using -----------------------------------------------------------------------------------------------------------

    @property
    def gene_embedding_(self) -> pd.DataFrame:
        """Positions of genes, DataFrame (gene, dim)."""
        self._check_fitted()
        return pd.DataFrame(
            unit_length(self._gene_positions), index=pd.Index(list(self._preparation.genes), dtype=object)
        )

    def transform(self, data: Any) -> np.ndarray:
        """Return positions of cells, new ones or those of the fit.

        A walk of two steps that is lazy, in closed form or with landmarks, gives a cell the position that it would have had in the
        fit; for a cell of the fit that is its own. Otherwise a cell stands at the mean position of the 15 cells of the fit whose
        expression correlates best with its own (near, and not at, its place in ``embedding_``), and those cells are kept.

        Parameters
        ----------
        data
            Cells on the scale of the fit. A chosen gene that was not measured joins no cell, and a warning says so.

        Returns
        -------
        float32 (cell, dim), rows at unit length if ``unit_rows``; zeros for a cell that expresses no chosen gene.
        """
        self._check_fitted()
        gamma = replay(fields.read(data), self._preparation, set(self.genes_in_))
        empty = int((gamma.getnnz(axis=1) == 0).sum())
        if empty:
            logger.warning("%d of %d cells express no chosen gene; they get no position", empty, gamma.shape[0])
        if self._gene_side is None or self._around is None:
            known = Regions(standardised(self._gamma), seed=self.random_state)
            parts = [mean_of_similar(part, known, self._known, _SIMILAR) for part in _in_blocks(gamma)]
        else:
            parts = [self._as_in_the_fit(part, self._gene_side, self._around) for part in _in_blocks(gamma)]
        found = np.concatenate(parts)
        return (unit_length(found) if self.unit_rows else found).astype(np.float32)

    def _as_in_the_fit(self, gamma: sparse.csr_matrix, side: GeneSide, around: Embedding) -> np.ndarray:
        A = gene_probabilities(gamma, self._omega, walk=self.walk_, exponent=self.exponent)
        return place(A, self._of_genes(gamma), genes=side, among=around, n=self._n, T=self.walk_length, W=self.window)

    def fit_predict(self, data: Any) -> np.ndarray:
        """Fit, and return the clusters of the cells, ``labels_``."""
        return self.fit(data).labels_

    def assign(self, data: Any) -> np.ndarray:
        """Return for each cell the cluster whose mean position is nearest, int (cell,); -1 for a cell without a position."""
        positions = self.transform(data)
        found = clusters.nearest_centre(positions, self._centres)
        return np.where((positions != 0).any(axis=1), found, UNPLACED)

    # What the base class asks for --------------------------------------------------------------------------------------

    def _evaluate(self, adata: Any) -> pd.DataFrame:
        if self.label not in adata.obs:
            raise DataError(f"the data have no obs[{self.label!r}] to compare clusters with",
                            fix="Name the column of known labels with label=.")  # fmt: skip
        known = ~adata.obs[self.label].isna().to_numpy()
        if not known.any():
            raise DataError(f"no cell has a label in obs[{self.label!r}]")
        some = adata[known]
        return judge_clusters(some.obs[self.label], self.assign(adata)[known], some, seed=self.random_state)

    def _annotations(self, adata: Any, key: str) -> Mapping[str, Mapping[str, Any]]:
        return {
            "obsm": {key: self.transform(adata)},
            "obs": {f"{key}_cluster": pd.Categorical(self.assign(adata).astype(str))},
        }

    def _state(self) -> State:
        kept = self._preparation
        values = {
            "counts": kept.counts,
            "log": kept.log,
            "backend_": self.backend_,
            "walk_": self.walk_,
            "n": self._n,
            "n_unplaced_": self.n_unplaced_,
        }
        arrays: dict[str, Any] = {
            "genes": np.asarray(kept.genes, dtype=np.str_), "embedding_": self.embedding_, "labels_": self.labels_,
            "modules_": self.modules_, "centres": self._centres, "omega": self._omega, "top": self._top, "sum": self._sum,
            "gene_positions": self._gene_positions,
        }  # fmt: skip
        if self._gene_side is not None and self._around is not None:
            values["total"] = self._around.total
            arrays |= {f"side_{one.name}": getattr(self._gene_side, one.name) for one in dataclasses.fields(GeneSide)}
            arrays |= {f"around_{name}": getattr(self._around, name) for name in ("landmarks", "margin", "projection")}
        else:
            arrays |= {
                "known": self._known,
                "data": self._gamma.data,
                "indices": self._gamma.indices,
                "indptr": self._gamma.indptr,
            }
        return State(values, arrays)

    def _restore(self, state: State) -> None:
        values, arrays = state.values, state.arrays
        self._preparation = Preparation(bool(values["counts"]), str(values["log"]), tuple(map(str, arrays["genes"])))
        self.backend_, self.walk_, self._n = str(values["backend_"]), str(values["walk_"]), int(values["n"])
        self.n_unplaced_ = int(values["n_unplaced_"])
        self.embedding_, self.labels_, self.modules_ = arrays["embedding_"], arrays["labels_"], arrays["modules_"]
        self._centres, self._omega, self._top, self._sum = (arrays[one] for one in ("centres", "omega", "top", "sum"))
        self._gene_positions, self._gene_side, self._around = arrays["gene_positions"], None, None
        if "total" in values:
            self._gene_side = GeneSide(**{one.name: arrays[f"side_{one.name}"] for one in dataclasses.fields(GeneSide)})
            kept = {name: arrays[f"around_{name}"] for name in ("landmarks", "margin", "projection")}
            self._around = Embedding(self.embedding_, total=float(values["total"]), **kept)
        else:
            shape = (self._n, len(self._preparation.genes))
            self._gamma = sparse.csr_matrix((arrays["data"], arrays["indices"], arrays["indptr"]), shape=shape)
            self._known = arrays["known"]

    def _methods(self) -> str:
        made = f"counts per million, {'natural logarithm' if self.log == 'natural' else 'log2'} of the value plus 1"
        how = {
            "closed_form": "The expected co-occurrence of cells on such walks was computed in closed form, turned into positive "
            "pointwise mutual information and decomposed",
            "landmarks": f"The expected co-occurrence of cells with {self.n_landmarks} landmark cells was computed, turned into "
            "positive pointwise mutual information and decomposed",
            "sampled": f"From each cell {self.walks_per_cell} walks were drawn and embedded by skip-gram with negative sampling",
        }[self.backend_]
        chosen = "Leiden communities of the nearest neighbours" if self.clustering == "leiden" else "k-means"
        number = "" if self.n_clusters or self.clustering == "leiden" else " (number by the largest silhouette)"
        counts = made if self._preparation.counts else "as given"
        unit = ", rows at unit length" if self.unit_rows else ""
        kinds = " and ".join(repr(one) for one in dict.fromkeys(self.history_["walk"]))
        among = f"; of {kinds} the one whose clusters have the larger mean silhouette" if " and " in kinds else ""
        return (
            f"Expression ({counts}) of {len(self._preparation.genes)} genes made a hypergraph with {self._n} cells for nodes and "
            "genes for hyperedges, with expression as edge-dependent weights. Random walks of the kind "
            f"{self.walk_!r} (preference exponent {self.exponent:g}{among}) of {self.walk_length} steps were considered with a "
            f"window of {self.window}. {how} ({self.embedding_.shape[1]} dimensions{unit}). Cells were grouped into "
            f"{len(self._centres)} clusters by {chosen}{number}."
        )


@dataclasses.dataclass(frozen=True)
class _Grouped:
    """Cells placed and grouped by one walk."""

    name: str
    walk: FactorWalk | TableWalk
    backend: str
    positions: np.ndarray
    visits: np.ndarray
    gene_side: GeneSide | None
    around: Embedding | None
    labels: np.ndarray
    silhouette: float
    history: pd.DataFrame


def _in_blocks(gamma: sparse.csr_matrix) -> Iterator[sparse.csr_matrix]:
    for start in range(0, gamma.shape[0], _BLOCK):
        yield gamma[start : start + _BLOCK]
