"""Bulk profiles as the model sees them: its genes in its order, NaN where not measured, on the scale of the fit."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
import torch
from anndata import AnnData
from jaxtyping import Float
from scipy.special import ndtri
from torch import Tensor

from expressor.core.errors import DataError
from expressor.data import fields
from expressor.data.profiles import check_scale_of_use, profiles
from expressor.data.units import LOG1P, LOG2, LOG_RATIO, ZSCORE, check_unit
from expressor.genes.vocab import GeneVocab
from expressor.systems.gexbert.equations import rank_values

_LEAST_SAMPLES = 8
_KNOTS = 9  # quantiles of each gene's distribution from which those of a panel are pooled


def check_samples(values: np.ndarray, names: pd.Index, *, where: str) -> None:
    """Refuse samples without a single measured value."""
    empty = np.isnan(values).all(axis=1)
    if empty.any():
        raise DataError(
            f"{int(empty.sum())} of {len(values)} samples have no measured gene of {where}, such as "
            f"{str(names[int(np.argmax(empty))])!r}", expected="at least one value a sample", fix="Leave these samples out.",
        )  # fmt: skip


def read_training(adata: AnnData) -> tuple[GeneVocab, str, np.ndarray]:
    """Return genes in alphabetical order, unit, and float64 values (sample, gene), NaN where not measured.

    Raises
    ------
    DataError
        The values are counts or TPM; there are fewer than 4 samples or 2 genes; a sample or a gene has no value at all.
    """
    unit = check_unit(adata, (LOG2, LOG1P, LOG_RATIO, ZSCORE), who="GexBERT")
    if adata.n_obs < _LEAST_SAMPLES or adata.n_vars < 2:
        raise DataError("too little to learn from", expected=f"at least {_LEAST_SAMPLES} samples and 2 genes",
                        got=f"{adata.n_obs} samples and {adata.n_vars} genes")  # fmt: skip
    genes = sorted(map(str, adata.var_names))
    values = profiles(adata, genes, allow_gaps=True).astype(np.float64)
    check_samples(values, adata.obs_names, where="the training data")
    empty = np.isnan(values).all(axis=0)
    if empty.any():
        raise DataError(
            f"{int(empty.sum())} of {len(genes)} genes have no measured value, such as {genes[int(np.argmax(empty))]!r}",
            fix="Leave these genes out: adata[:, keep].",
        )  # fmt: skip
    return GeneVocab(genes), unit, values


def read_query(data: Any, vocab: GeneVocab, unit: str) -> tuple[AnnData, np.ndarray]:
    """Return new data, and float64 values (sample, gene of the vocabulary), NaN where not measured.

    Raises
    ------
    GeneError
        No gene of the fit is there.
    DataError
        The data are on another scale, or a sample has no measured value.
    """
    adata = fields.read(data)
    check_scale_of_use(adata, unit)
    values = profiles(adata, vocab, allow_gaps=True).astype(np.float64)
    check_samples(values, adata.obs_names, where="the fit")
    return adata, values


# Rank values ------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class Reference:
    """Distribution of each gene in the training set, to which samples of other pipelines are brought rank by rank.

    Attributes
    ----------
    mean, scale
        float64 (gene,).
    """

    mean: np.ndarray
    scale: np.ndarray

    @classmethod
    def of(cls, values: np.ndarray) -> "Reference":
        """Return the reference of training values (sample, gene)."""
        return cls(np.nanmean(values, axis=0), np.nanstd(values, axis=0))

    def quantiles(self, observed: np.ndarray) -> np.ndarray:
        """Return what the training set has at the ranks of the panel ``observed`` (positions), rising, float64 (panel,)."""
        knots = ndtri((np.arange(_KNOTS) + 0.5) / _KNOTS)
        pool = (self.mean[observed, None] + self.scale[observed, None] * knots).ravel()
        return np.quantile(pool, (np.arange(len(observed)) + 0.5) / len(observed))

    def bring(self, values: np.ndarray) -> np.ndarray:
        """Return values (sample, gene) with each sample's measured ones replaced rank by rank (equation I12)."""
        brought = values.copy()
        known = ~np.isnan(values)
        for pattern in np.unique(known, axis=0):
            rows = np.flatnonzero((known == pattern).all(axis=1))
            observed = np.flatnonzero(pattern)
            ranked = rank_values(
                torch.from_numpy(values[np.ix_(rows, observed)]), torch.from_numpy(self.quantiles(observed))
            )
            brought[np.ix_(rows, observed)] = ranked.numpy()
        return brought

    @staticmethod
    def take_back(restored: np.ndarray, brought: np.ndarray, values: np.ndarray) -> np.ndarray:
        """Return restored values on each sample's own scale: the way its measured values went, backwards.

        Beyond the sample's measured range the way goes on with slope 1.
        """
        back = np.empty_like(restored)
        for i in range(len(values)):
            known = ~np.isnan(values[i])
            there, first = np.unique(brought[i, known], return_index=True)
            here = values[i, known][first]
            inside = np.interp(restored[i], there, here)
            back[i] = inside + np.minimum(restored[i] - there[0], 0.0) + np.maximum(restored[i] - there[-1], 0.0)
        return back


# Columns of obs -----------------------------------------------------------------------------------------------------------


def patients(adata: AnnData, column: str) -> np.ndarray:
    """Return the patient of each sample; each sample is its own patient where there is no such column."""
    if column not in adata.obs:
        return adata.obs_names.to_numpy(dtype=str)
    found = adata.obs[column]
    if found.isna().any():
        raise DataError(f"{int(found.isna().sum())} samples have no patient (obs[{column!r}])",
                        fix="Name the patient of every sample, or give another column with patient=.")  # fmt: skip
    return found.astype(str).to_numpy(dtype=str)


def pipelines(adata: AnnData, column: str | None, known: tuple[str, ...]) -> Float[Tensor, " sample"] | Tensor | None:
    """Return the code of each sample's pipeline: 0 for one that the fit did not know, or where the column is absent."""
    if column is None or not known:
        return None
    if column not in adata.obs:
        return torch.zeros(adata.n_obs, dtype=torch.int64)
    codes = pd.Index(known).get_indexer(adata.obs[column].astype(str).to_numpy())
    return torch.from_numpy(codes.astype(np.int64) + 1)
