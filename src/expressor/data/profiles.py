"""Expression of whole samples as one dense matrix in the order of a model's genes, with NaN where nothing was measured."""

from collections.abc import Iterable

import numpy as np
from anndata import AnnData
from scipy import sparse

from expressor.core.errors import DataError
from expressor.core.log import logger
from expressor.data.keys import UNIT
from expressor.data.units import can_look_like, check_same_unit, detect_scale, family
from expressor.genes.vocab import GeneVocab

REACH = 5.0
"""Standard deviations of the training samples at which standard scores are cut. A gene that hardly varied among them may be a
hundred away in a new sample, and a linear model would then say what that gene says."""


def profiles(adata: AnnData, genes: Iterable[str] | None = None, *, allow_gaps: bool = False) -> np.ndarray:
    """Return expression as it is kept in ``X``, of some genes.

    Parameters
    ----------
    adata
        Samples on any scale; NaN where a value was not measured.
    genes
        Names of the wanted genes, in the wanted order; all genes in alphabetical order when not given, so that nothing depends
        on the order of columns.
    allow_gaps
        Whether NaN, and genes that the data lack (which become NaN), are allowed.

    Returns
    -------
    numpy.ndarray
        float32 (sample, gene).

    Raises
    ------
    DataError
        There is no ``X``; values are infinite; or values are NaN where that is not allowed. The message counts them.
    GeneError
        Genes are missing where that is not allowed, or none of them is there.
    """
    if adata.X is None:
        raise DataError("the data hold no expression: X is empty", fix="Give measured values.")
    names = sorted(map(str, adata.var_names)) if genes is None else list(genes)
    found = GeneVocab(names, namespace="none").align(adata.var_names)
    if not allow_gaps or not found.matched:
        found.require_all(where="the data")
    there = found.index >= 0
    picked = adata.X[:, found.index[there]]
    values = np.full((adata.n_obs, len(names)), np.nan, dtype=np.float32)
    values[:, there] = picked.toarray() if sparse.issparse(picked) else np.asarray(picked)
    if np.isinf(values).any():
        raise DataError("X holds infinite values", got=f"{int(np.isinf(values).sum())} of {values.size}",
                        fix="Values of 0 must not be put through a logarithm without adding a constant.")  # fmt: skip
    gaps = np.isnan(values[:, there])
    if gaps.any() and not allow_gaps:
        raise DataError(
            f"X holds {int(gaps.sum())} NaN: values of {int(gaps.any(axis=0).sum())} genes in {int(gaps.any(axis=1).sum())} "
            "samples",
            expected="a value for every gene and sample",
            fix="Restore them first (expressor.ConditionalGaussian), or leave these genes or samples out.",
        )
    if not there.all():
        logger.info("%s", found.report())
    return values


def bounded_scores(values: np.ndarray, mean: np.ndarray, scale: np.ndarray) -> np.ndarray:
    """Return standard scores by the training samples, cut at :data:`REACH` standard deviations.

    A linear model needs the cut on new samples above all: one loud gene would else outvote all others.

    Parameters
    ----------
    values
        (sample, gene).
    mean, scale
        (gene,), of the training samples; scale above 0.
    """
    return np.clip((values - mean) / scale, -REACH, REACH)


def check_scale_of_use(adata: AnnData, fitted: str) -> None:
    """Refuse data that are on another scale than ``fitted``, the unit of the fit.

    A few genes do not always tell their scale. Where ``uns["unit"]`` is silent, only values that can be nothing else than another
    scale are refused.

    Raises
    ------
    DataError
        The scales differ; the message says how to convert.
    """
    if UNIT not in adata.uns:
        found = detect_scale(adata.X)
        if not found.sure or can_look_like(family(fitted), found):
            return
    check_same_unit(fitted, adata)


def profiles_to_restore(adata: AnnData, genes: Iterable[str], *, unit: str) -> np.ndarray:
    """Return expression with gaps, for a model that restores them.

    Parameters
    ----------
    adata
        Samples on the scale of the fit.
    genes
        The genes of the fit; those that the data lack are NaN.
    unit
        The scale of the fit.

    Returns
    -------
    numpy.ndarray
        float32 (sample, gene), at least one value a sample that is not NaN.

    Raises
    ------
    DataError
        The scale is another, values are infinite, or a sample has no measured gene of the fit.
    GeneError
        None of the genes is in the data.
    """
    check_scale_of_use(adata, unit)
    values = profiles(adata, genes, allow_gaps=True)
    empty = np.isnan(values).all(axis=1)
    if empty.any():
        raise DataError(
            f"{int(empty.sum())} of {len(values)} samples have no measured gene of the fit, such as "
            f"{adata.obs_names[int(empty.argmax())]!r}",
            fix="Leave them out: nothing can be restored from nothing.",
        )
    return values
