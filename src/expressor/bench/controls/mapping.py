"""Controls of brain maps: the mean, values shuffled among places, and genes that were never measured from genes like them."""

from dataclasses import dataclass
from typing import Any, Literal, Self

import numpy as np
from anndata import AnnData
from scipy.spatial import cKDTree
from sklearn.base import BaseEstimator
from sklearn.linear_model import RidgeCV

from expressor.core.errors import DataError, check_choice, check_range
from expressor.core.rng import stream
from expressor.data import keys

VECTORS = "genes"
"""Entry of ``varm`` with the vectors of genes."""

_ALPHAS = 10.0 ** np.arange(-1.0, 5.0)
_OF_REGIONS = ("average", "neighbours", "others")


@dataclass(kw_only=True)
class PlaceControl(BaseEstimator):
    """A map that knows nothing of places: the mean of the samples, or of ten samples whose values were shuffled.

    Parameters
    ----------
    kind
        ``"mean"`` or ``"shuffled"``.
    random_state
        Seed of the shuffling.
    """

    kind: Literal["mean", "shuffled"] = "mean"
    random_state: int = 0

    def fit(self, train: AnnData) -> Self:
        """Keep places and values."""
        check_choice(self.kind, ("mean", "shuffled"), name="kind")
        self.genes_in_ = train.var_names.astype(str).to_numpy()
        self.values_ = np.asarray(train.X, dtype=np.float64)
        if self.kind == "shuffled":
            self.values_ = self.values_[stream(self.random_state, "shuffled map").permutation(len(self.values_))]
        self.places_ = np.asarray(train.obsm[keys.MNI if keys.MNI in train.obsm else keys.XYZ], dtype=np.float64)
        return self

    def at(self, coords: Any, **known: Any) -> np.ndarray:
        """Return expression, float64 (point, gene), in the order of the training data."""
        if self.kind == "mean":
            return np.tile(self.values_.mean(axis=0), (len(coords), 1))
        near = cKDTree(self.places_).query(coords, k=min(10, len(self.places_)))[1]
        return self.values_[near.reshape(len(coords), -1)].mean(axis=1)


@dataclass(kw_only=True)
class GeneControl(BaseEstimator):
    """Maps of genes that were not measured, at places of the training data, from genes that were.

    Where ``obs["known"]`` marks regions in which every gene was measured, a gene's vector is its values there.

    Parameters
    ----------
    kind
        ``"mean"``: the mean map of all genes. ``"unrelated"``: the map of a gene drawn at random. ``"nearest"``: the mean of the
        genes whose vectors are nearest, by cosine. ``"ridge"``: ridge regression of the maps on the vectors. With known regions
        also ``"average"``: the gene's mean over them; ``"neighbours"``: its mean over the nearest of them; ``"others"``: ridge
        regression of its values on those of the other genes, a region a row.
    neighbours
        Genes of ``"nearest"``, regions of ``"neighbours"``, at least 1.
    random_state
        Seed of the draw.
    """

    kind: Literal["mean", "unrelated", "nearest", "ridge", "average", "neighbours", "others"] = "mean"
    neighbours: int = 10
    random_state: int = 0

    def fit(self, train: AnnData) -> Self:
        """Keep the standardised maps of the training genes, and their vectors."""
        check_choice(self.kind, ("mean", "unrelated", "nearest", "ridge", *_OF_REGIONS), name="kind")
        check_range(self.neighbours, name="neighbours", low=1, integer=True)
        X = np.asarray(train.X, dtype=np.float64)
        self.known_ = train.obs["known"].to_numpy(dtype=bool) if "known" in train.obs else np.zeros(len(X), dtype=bool)
        if self.kind in _OF_REGIONS and not self.known_.any():
            raise DataError(f"a control of kind {self.kind!r} needs regions in which every gene is known",
                            fix='Mark them in obs["known"].')  # fmt: skip
        self.maps_ = (X if self.known_.any() else (X - X.mean(axis=0)) / X.std(axis=0)).T
        self.vectors_ = np.asarray(train.varm[VECTORS], dtype=np.float64)
        self.places_ = np.asarray(train.obsm[keys.MNI], dtype=np.float64)
        if self.kind == "ridge":  # a penalty for what is to be predicted: known regions predict themselves with none
            self.ridge_ = RidgeCV(alphas=_ALPHAS).fit(self.vectors_, self.maps_[:, ~self.known_])
        return self

    def at(self, coords: Any, *, vectors: Any, **known: Any) -> np.ndarray:
        """Return standard scores, float64 (region, gene), of genes with these vectors."""
        apart, rows = cKDTree(self.places_).query(np.asarray(coords, dtype=np.float64))
        if apart.any():
            raise DataError("a control of genes knows the places of its training data alone")
        v = np.asarray(vectors, dtype=np.float64)
        return self._from_regions(rows, v) if self.kind in _OF_REGIONS else self._from_genes(v)[rows]

    def _from_genes(self, v: np.ndarray) -> np.ndarray:
        if self.kind == "mean":
            return np.tile(self.maps_.mean(axis=0)[:, None], (1, len(v)))
        if self.kind == "unrelated":
            return self.maps_[stream(self.random_state, "unrelated gene").integers(len(self.maps_), size=len(v))].T
        if self.kind == "ridge":
            found = np.full((len(self.places_), len(v)), np.nan)
            found[~self.known_] = np.asarray(self.ridge_.predict(v)).T
            return found
        near = np.argsort(-(_unit(v) @ _unit(self.vectors_).T), axis=1, kind="stable")[:, : self.neighbours]
        return self.maps_[near].mean(axis=1).T

    def _from_regions(self, rows: np.ndarray, v: np.ndarray) -> np.ndarray:
        if self.kind == "average":
            return np.tile(v.mean(axis=1), (len(rows), 1))
        if self.kind == "others":
            ridge = RidgeCV(alphas=_ALPHAS, alpha_per_target=True).fit(self.maps_[:, self.known_].T, v.T)
            return np.asarray(ridge.predict(self.maps_[:, rows].T)).reshape(len(rows), len(v))
        k = min(self.neighbours, int(self.known_.sum()))
        near = cKDTree(self.places_[self.known_]).query(self.places_[rows], k=k)[1].reshape(len(rows), k)
        return v.T[near].mean(axis=1)


def _unit(vectors: np.ndarray) -> np.ndarray:
    return vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-12)
