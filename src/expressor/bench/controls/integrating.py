"""Controls of integration: components as they are, batch means taken away, Harmony, and scVI where it is installed."""

from dataclasses import dataclass
from typing import Any, Literal, Self

import numpy as np
import pandas as pd
from anndata import AnnData
from scipy import sparse
from sklearn.base import BaseEstimator
from sklearn.decomposition import PCA

from expressor.bench.controls.annotating import log_normalised
from expressor.bench.controls.harmony import harmonise
from expressor.bench.controls.scvi import TRAINING, scvi_tools
from expressor.core.errors import DataError, check_choice, check_range
from expressor.core.rng import child_seed, stream
from expressor.data.keys import BATCH

WAYS = ("random", "none", "means", "harmony", "scvi")


@dataclass(kw_only=True)
class Integrator(BaseEstimator):
    """Cells of all batches at places where batches shall not show.

    Parameters
    ----------
    way
        ``"none"``: principal components of log expression; ``"means"``: the same without each gene's mean in each batch;
        ``"harmony"``: components, then :func:`~expressor.bench.controls.harmony.harmonise`; ``"scvi"``: scVI with its defaults
        (needs the package scvi-tools); ``"random"``: noise.
    genes
        Keep so many genes, those of the largest variance within batches; None for all.
    components
        Number of components, >= 1.
    batch
        Column of ``obs`` with the batch.
    random_state
        Seed.
    """

    way: Literal["random", "none", "means", "harmony", "scvi"] = "none"
    genes: int | None = None
    components: int = 50
    batch: str = BATCH
    random_state: int = 0

    def fit(self, data: AnnData) -> Self:
        """Find the places of these cells, ``embedding_`` (cell, dim)."""
        check_choice(self.way, WAYS, name="way")
        check_range(self.components, name="components", low=1, integer=True)
        if self.batch not in data.obs:
            raise DataError(f"there is no column {self.batch!r} in obs", fix="Say with batch= which tells the batch.")
        batches = data.obs[self.batch].astype(str).to_numpy()
        self.names_ = data.obs_names
        if self.way == "random":
            noise = stream(self.random_state, "places").normal(size=(data.n_obs, self.components))
            self.embedding_ = noise.astype(np.float32)
            return self
        values = log_normalised(data)
        inside = less_means(values, batches)
        kept = most_variable(inside, data.var_names, self.genes)
        if self.way == "scvi":
            found = _scvi(data[:, kept], self.batch, self.random_state)
        else:
            found = components((inside if self.way == "means" else values)[:, kept], self.components, self.random_state)
        if self.way == "harmony":
            found = harmonise(found, batches, seed=self.random_state)
        self.embedding_ = np.asarray(found, dtype=np.float32)
        return self

    def transform(self, data: AnnData) -> np.ndarray:
        """Return the places of the cells of the fit, float32 (cell, dim); DataError for other cells."""
        if not data.obs_names.equals(self.names_):
            raise DataError("only the cells of the fit have places", expected=len(self.names_), got=data.n_obs)
        return self.embedding_


def less_means(values: np.ndarray, batches: np.ndarray) -> np.ndarray:
    """Return (cell, gene) less each gene's mean in the cell's batch."""
    codes = np.unique(batches, return_inverse=True)[1]
    member = np.eye(codes.max() + 1)[codes]
    return np.asarray(values - member @ ((member.T @ values) / member.sum(axis=0)[:, None]))


def most_variable(values: np.ndarray, names: Any, number: int | None) -> np.ndarray:
    """Return the rising places of so many columns of the largest variance; of equal ones the first in the alphabet."""
    order = np.lexsort((np.asarray(names).astype(str), -values.std(axis=0)))
    return np.sort(order[: number or len(order)])


def components(values: np.ndarray, number: int, seed: int) -> np.ndarray:
    """Return principal components of centred columns, (cell, dim); fewer where cells or columns are."""
    dim = min(number, len(values) - 1, values.shape[1])
    return np.asarray(PCA(dim, random_state=child_seed(seed, "components") % 2**31).fit_transform(values))


def _scvi(data: AnnData, batch: str, seed: int) -> np.ndarray:
    """Return scVI's latent places."""
    with scvi_tools(seed, purpose="run scVI") as scvi:
        cells = AnnData(
            sparse.csr_matrix(data.X), obs=pd.DataFrame({batch: data.obs[batch].astype(str)}), var=data.var[[]]
        )
        scvi.model.SCVI.setup_anndata(cells, batch_key=batch)
        model = scvi.model.SCVI(cells)
        model.train(**TRAINING)
        return np.asarray(model.get_latent_representation())
