"""Controls of restoration: the mean, nearest samples, and ridge regression from what was measured of a sample."""

from abc import abstractmethod
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
from anndata import AnnData
from scipy import sparse
from sklearn.base import BaseEstimator

from expressor.core.errors import DataError, check_range
from expressor.core.rng import stream

ALPHAS = tuple(float(one) for one in 10.0 ** np.arange(-2.0, 4.1, 0.5))


_TUNED_ON = 200  # genes on which a penalty is chosen


@dataclass(kw_only=True)
class RestoringControl(BaseEstimator):
    """Base of the controls that restore: fit on samples without gaps, then fill the NaN of others."""

    @abstractmethod
    def _restore(self, z: np.ndarray, seen: np.ndarray) -> np.ndarray:
        """Return all values of samples that share the genes ``seen`` (bool), standardised; ``z`` has NaN elsewhere."""

    def fit(self, train: AnnData) -> Self:
        """Learn from complete samples; genes that are constant there are restored to their mean."""
        values = _dense(train)
        if np.isnan(values).any():
            raise DataError("a control of restoration learns from complete samples",
                            got=f"{int(np.isnan(values).sum())} NaN", fix="Leave genes or samples with gaps out.")  # fmt: skip
        self.genes_ = train.var_names.astype(str).to_numpy()
        self.mean_, spread = values.mean(axis=0), values.std(axis=0)
        self.spread_ = np.where(spread > 0, spread, 1.0)
        self.train_ = (values - self.mean_) / self.spread_
        self._prepare()
        return self

    def _prepare(self) -> None:
        """Do what every mask shares."""

    def impute(self, data: AnnData) -> np.ndarray:
        """Return float32 (sample, gene) with the NaN filled; values that are there are returned as they came."""
        if not np.array_equal(data.var_names.astype(str), self.genes_):
            raise DataError("the genes differ from those of the fit", expected=len(self.genes_), got=data.n_vars)
        values = _dense(data)
        seen = ~np.isnan(values)
        z = (values - self.mean_) / self.spread_
        _, group = np.unique(np.packbits(seen, axis=1), axis=0, return_inverse=True)
        order = np.argsort(group.ravel(), kind="stable")
        for rows in np.split(order, np.flatnonzero(np.diff(group.ravel()[order])) + 1):
            own = seen[rows[0]]
            full = self._restore(z[rows], own) * self.spread_ + self.mean_
            values[np.ix_(rows, ~own)] = full[:, ~own]
        return values.astype(np.float32)


def _dense(data: AnnData) -> np.ndarray:
    X: Any = data.X
    return np.array(X.toarray() if sparse.issparse(X) else X, dtype=np.float64)


@dataclass(kw_only=True)
class GeneMeans(RestoringControl):
    """Each gene's mean over the training samples: an error of 1 standard deviation, by definition of the metric."""

    def _restore(self, z: np.ndarray, seen: np.ndarray) -> np.ndarray:
        return np.zeros_like(z)


@dataclass(kw_only=True)
class NearestSamples(RestoringControl):
    """Mean over the training samples nearest in the measured genes, each standardised.

    Parameters
    ----------
    neighbours
        How many, at least 1.
    """

    neighbours: int = 10

    def _restore(self, z: np.ndarray, seen: np.ndarray) -> np.ndarray:
        check_range(self.neighbours, name="neighbours", low=1, integer=True)
        if not seen.any():
            return np.zeros_like(z)
        mine, train = z[:, seen], self.train_[:, seen]
        distance = (mine**2).sum(axis=1)[:, None] - 2 * mine @ train.T + (train**2).sum(axis=1)
        k = min(self.neighbours, len(train))
        nearest = np.argpartition(distance, k - 1, axis=1)[:, :k]
        return np.asarray(self.train_[nearest].mean(axis=1))


@dataclass(kw_only=True)
class PatternRidge(RestoringControl):
    """Ridge regression of every other gene on the genes measured, fitted anew for each pattern of what is measured.

    The penalty, one for all genes, is chosen by leave-one-out error on training samples, for which ridge has a closed form; of many
    genes some 200, evenly spread, are looked at.

    Parameters
    ----------
    alphas
        Penalties to choose from, more than 0; they are multiplied by the number of genes measured.
    shuffled
        Shuffle each gene over the training samples: what the procedure yields where genes know nothing of each other.
    random_state
        Seed of the shuffle.
    """

    alphas: tuple[float, ...] = ALPHAS
    shuffled: bool = False
    random_state: int = 0

    def _prepare(self) -> None:
        if self.shuffled:
            rng = stream(self.random_state, "shuffled genes")
            self.train_ = rng.permuted(self.train_, axis=0)

    def _restore(self, z: np.ndarray, seen: np.ndarray) -> np.ndarray:
        for alpha in self.alphas:
            check_range(alpha, name="alphas", low=0.0, open_low=True)
        if not seen.any():
            return np.zeros_like(z)
        x, y = self.train_[:, seen], self.train_[:, ~seen]
        # In the left singular vectors every penalty is a rescaling.
        values, vectors = _left(x)
        target = vectors.T @ y
        scale = float(seen.sum())
        errors = []
        some = slice(None, None, max(1, y.shape[1] // _TUNED_ON))
        squared = vectors**2
        for alpha in self.alphas:
            shrunk = values / (values + alpha * scale)
            hat = np.minimum(squared @ shrunk, 1 - 1e-9)
            left = y[:, some] - vectors @ (shrunk[:, None] * target[:, some])
            errors.append(float(((left / (1 - hat)[:, None]) ** 2).mean()))
        self.alpha_ = self.alphas[int(np.argmin(errors))]
        full = np.zeros_like(z)
        full[:, ~seen] = (z[:, seen] @ x.T @ vectors / (values + self.alpha_ * scale)) @ target
        return full


def _left(x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Squared singular values and left singular vectors, from the smaller of the two matrices of products."""
    if len(x) <= x.shape[1]:
        values, vectors = np.linalg.eigh(x @ x.T)
        return np.maximum(values, 0.0), vectors
    values, right = np.linalg.eigh(x.T @ x)
    kept = values > max(float(values[-1]), 1e-12) * 1e-10
    return values[kept], x @ right[:, kept] / np.sqrt(values[kept])
