"""Bulk profiles as the model sees them: its genes in its order, NaN where not measured, on the scale of the fit."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
import torch
from anndata import AnnData
from jaxtyping import Float
from scipy import sparse
from scipy.special import ndtri
from torch import Tensor

from expressor.core.errors import DataError, GeneError, nearest_names
from expressor.core.log import logger
from expressor.data import fields, keys, units
from expressor.genes.vocab import GeneVocab
from expressor.systems.gexbert.equations import rank_values

ACCEPTS = ("log2(TPM+1)", "log1p_cp10k", "log ratio", "z-score")
_KNOTS = 9  # quantiles of each gene's distribution from which those of a panel are pooled
_FEW = 0.1  # share of the genes below which a match is worth a warning


def matrix(adata: AnnData, genes: tuple[str, ...]) -> np.ndarray:
    """Return float64 (sample, gene), NaN for genes that ``adata`` lacks."""
    place = adata.var_names.get_indexer(pd.Index(genes, dtype=object))
    values = np.full((adata.n_obs, len(genes)), np.nan)
    if adata.X is not None and (place >= 0).any():
        found = adata.X[:, place[place >= 0]]
        values[:, place >= 0] = found.toarray() if sparse.issparse(found) else np.asarray(found)
    if np.isinf(values).any():
        row, column = np.argwhere(np.isinf(values))[0]
        raise DataError(
            f"{int(np.isinf(values).sum())} values are infinite, such as that of gene {genes[column]!r} in sample "
            f"{adata.obs_names[row]!r}", expected="numbers, or NaN where nothing was measured",
        )  # fmt: skip
    return values


def unit_of_fit(adata: AnnData) -> str:
    """Return the unit of the training data; counts and TPM are refused, because the model restores on the input's scale."""
    return units.check_unit(adata, ACCEPTS, who="GexBERT")


def check_profiles(values: np.ndarray, names: pd.Index, *, where: str) -> None:
    """Refuse samples without a single measured value."""
    empty = np.isnan(values).all(axis=1)
    if empty.any():
        raise DataError(
            f"{int(empty.sum())} of {len(values)} samples have no measured value among the genes of {where}, such as "
            f"{names[int(np.argmax(empty))]!r}", expected="at least one gene a sample", fix="Leave these samples out.",
        )  # fmt: skip


def read_training(adata: AnnData) -> tuple[GeneVocab, str, np.ndarray]:
    """Return genes, unit and values (sample, gene) in the vocabulary's order; genes without any value are refused."""
    unit = unit_of_fit(adata)
    if adata.n_obs < 4 or adata.n_vars < 2:
        raise DataError("too little to learn from", expected="at least 4 samples and 2 genes",
                        got=f"{adata.n_obs} samples and {adata.n_vars} genes")  # fmt: skip
    vocab = GeneVocab(adata.var_names)
    values = matrix(adata, vocab.names)
    check_profiles(values, adata.obs_names, where="the training data")
    empty = np.isnan(values).all(axis=0)
    if empty.any():
        raise DataError(
            f"{int(empty.sum())} of {len(vocab)} genes have no measured value, such as {vocab[int(np.argmax(empty))]!r}",
            fix="Leave these genes out: adata[:, keep].",
        )  # fmt: skip
    return vocab, unit, values


def read_query(data: Any, vocab: GeneVocab, unit: str) -> tuple[AnnData, np.ndarray]:
    """Return new data and their values (sample, gene of the vocabulary), with every check and a report of poor matches.

    Raises
    ------
    GeneError
        No gene of the fit is there.
    DataError
        The data are on another scale, or a sample has no measured value.
    """
    adata = fields.read(data)
    alignment = vocab.align(adata.var_names)
    if not alignment.matched:
        first = str(adata.var_names[0]) if adata.n_vars else ""
        raise GeneError(
            f"none of the {adata.n_vars} genes of the data is among the {len(vocab)} of the fit",
            expected=f"{vocab.namespace} names such as {vocab[0]!r}", got=repr(first),
            nearest=nearest_names(first, vocab.names), fix=alignment.hint or "Check spelling and namespace.",
        )  # fmt: skip
    if alignment.extra and len(alignment.matched) < _FEW * adata.n_vars:
        logger.warning("few of the data's genes are known: %s", alignment.report())
    if keys.UNIT in adata.uns or units.detect_scale(adata.X).sure:
        units.check_same_unit(unit, adata)
    values = matrix(adata, vocab.names)
    check_profiles(values, adata.obs_names, where="the fit")
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
            here = np.sort(values[i, known])[np.searchsorted(np.sort(brought[i, known]), there)]
            inside = np.interp(restored[i], there, here)
            back[i] = inside + np.minimum(restored[i] - there[0], 0.0) + np.maximum(restored[i] - there[-1], 0.0)
            del first
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
