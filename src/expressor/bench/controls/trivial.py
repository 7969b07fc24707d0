"""Controls that do not look at the image."""

from abc import abstractmethod
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
import pandas as pd
from anndata import AnnData
from sklearn.base import BaseEstimator

from expressor.core.errors import DataError
from expressor.data.fields import expression, library_size
from expressor.data.keys import SECTION


@dataclass(kw_only=True)
class Control(BaseEstimator):
    """Base of the controls: fit on spots with counts, predict the target genes on the target's scale.

    Parameters
    ----------
    target_genes
        Genes to predict.
    target_scale
        One of :data:`expressor.data.fields.SCALES`; the unit of the predictions.
    """

    target_genes: tuple[str, ...]
    target_scale: str = "log1p_cp10k"

    @abstractmethod
    def fit(self, train: AnnData) -> Self:
        """Learn from spots with raw counts in ``X``."""

    @abstractmethod
    def predict(self, data: AnnData) -> pd.DataFrame:
        """Return float32 (spot, gene), ``attrs["unit"]`` is the target scale."""

    def _targets(self, train: AnnData) -> np.ndarray:
        return expression(train, self.target_genes, scale=self.target_scale).astype(np.float64)

    def _frame(self, values: np.ndarray, data: AnnData) -> pd.DataFrame:
        frame = pd.DataFrame(values.astype(np.float32), index=data.obs_names, columns=list(self.target_genes))
        frame.attrs["unit"] = self.target_scale
        return frame


@dataclass(kw_only=True)
class GeneMean(Control):
    """Each gene's mean over the training spots, for every spot.

    It has no correlation with anything (undefined, and counted so); its errors are what a prediction must beat.
    """

    def fit(self, train: AnnData) -> Self:
        """Take the means."""
        self.mean_ = self._targets(train).mean(axis=0)
        return self

    def predict(self, data: AnnData) -> pd.DataFrame:
        """Return the means, for every spot."""
        return self._frame(np.tile(self.mean_, (data.n_obs, 1)), data)


@dataclass(kw_only=True)
class LibrarySize(Control):
    """A line per gene on the log library size of the spot: how far the number of molecules caught alone goes.

    It needs the counts of the spots it predicts, which nobody has for an image, so it is no method. It shows how much of a score
    is about how many molecules a spot holds: on raw counts nearly all of it may be.
    """

    def fit(self, train: AnnData) -> Self:
        """Fit the lines inside the training sections."""
        targets, size = self._targets(train), _log_size(train)
        sections = train.obs[SECTION].astype(str).to_numpy()
        x, y = centre(size[:, None], sections)[:, 0], centre(targets, sections)
        self.slope_ = x @ y / max(float(x @ x), np.finfo(float).tiny)
        self.intercept_ = targets.mean(axis=0) - self.slope_ * size.mean()
        return self

    def predict(self, data: AnnData) -> pd.DataFrame:
        """Return the lines' values at the log library sizes of ``data``, whose raw counts are needed."""
        if data.n_vars == 0:
            raise DataError("the library size needs the counts of the spots it predicts", got="data without genes")
        return self._frame(self.intercept_ + _log_size(data)[:, None] * self.slope_, data)


def _log_size(data: AnnData) -> np.ndarray:
    return np.log(np.maximum(library_size(data), 1.0))


def centre(values: np.ndarray, groups: np.ndarray) -> np.ndarray:
    """Return ``values`` (spot, column) less the mean of each spot's group."""
    centred = np.empty_like(values, dtype=np.float64)
    for group in np.unique(groups):
        rows = groups == group
        centred[rows] = values[rows] - values[rows].mean(axis=0)
    return centred


def folds_of(groups: np.ndarray, n_random: int, rng: np.random.Generator) -> list[np.ndarray]:
    """Return what is held out in turn (bool per spot): each group, or random parts where there is one group only."""
    names = np.unique(groups)
    if len(names) > 1:
        return [groups == name for name in names]
    part = rng.permutation(len(groups)) % n_random
    return [part == i for i in range(n_random)]


def as_tuple(value: Any) -> tuple[Any, ...]:
    """Return a tuple of one or several values."""
    return tuple(value) if isinstance(value, tuple | list) else (value,)
