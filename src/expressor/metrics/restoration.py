"""Metrics of restored values, over those that were hidden: error in standard deviations, correlations, coverage.

``measured`` and ``restored`` are (sample, gene); ``judged`` is bool of the same shape: the values that were hidden and are
known. NaN may stand where nothing is judged. Each gene's standard deviation is that of the training samples, so that an
error of 1 is that of predicting the mean.
"""

import math
from typing import Any

import numpy as np
from jaxtyping import Bool, Float

from expressor.core.errors import DataError
from expressor.metrics.records import Metric

_VALUES = "hidden value, mean over values"
RESOLUTION = 8 * float(np.finfo(np.float32).eps)

RECORDS: dict[str, Metric] = {
    one.name: one
    for one in (
        Metric("restoration_rmse", "RMSE (SD)",
               "Root of the mean squared error, each gene in its standard deviations over training samples.",
               "hidden value, root of the mean over values", "lower", 0.0, math.inf),
        Metric("gene_r", "gene-wise r", "Pearson correlation over the samples in which the gene was hidden.",
               "gene, mean over genes", "higher", -1.0, 1.0,
               undefined="the gene is constant, as measured or as restored, or hidden in fewer than three samples"),
        Metric("sample_r", "sample-wise r", "Pearson correlation over the hidden genes of a sample, in standardised values.",
               "sample, mean over samples", "higher", -1.0, 1.0,
               undefined="restored or measured values of the sample are constant, or fewer than three were hidden"),
        Metric("r2_above_mean", "R2 above gene means",
               "Share of the variance of hidden values around the genes' training means that is restored.",
               _VALUES, "higher", -math.inf, 1.0),
        Metric("restoration_coverage", "coverage", "Share of hidden values inside their 90 % interval.",
               _VALUES, "nominal", 0.0, 1.0, undefined="no intervals are given"),
        Metric("restoration_width", "interval width (SD)", "Width of the 90 % interval, in the gene's standard deviations.",
               _VALUES, "lower", 0.0, math.inf, undefined="no intervals are given"),
    )
}  # fmt: skip


def _check(
    measured: Any, restored: Any, judged: Any
) -> tuple[Float[np.ndarray, "sample gene"], Float[np.ndarray, "sample gene"], Bool[np.ndarray, "sample gene"]]:
    m, r, j = np.asarray(measured, np.float64), np.asarray(restored, np.float64), np.asarray(judged)
    if m.ndim != 2 or r.shape != m.shape or j.shape != m.shape or j.dtype != bool:
        raise DataError(
            "measured, restored and judged do not fit", expected="(sample, gene) each, judged of bool",
            got=f"{m.shape}, {r.shape}, {j.shape} of {j.dtype}",
        )  # fmt: skip
    if not j.any():
        raise DataError("nothing is judged", expected="at least one hidden value that is known")
    for name, table in (("measured", m), ("restored", r)):
        bad = int((~np.isfinite(table[j])).sum())
        if bad:
            raise DataError(
                f"{name} holds values that are not finite where it is judged", got=f"{bad} of {int(j.sum())}"
            )
    return m, r, j


def _spread(spread: Any, n: int) -> np.ndarray:
    s = np.asarray(spread, dtype=np.float64)
    if s.shape != (n,) or not np.isfinite(s).all() or (s <= 0).any():
        raise DataError("the standard deviations do not fit", expected=f"{n} numbers above 0", got=str(s.shape),
                        fix="Leave genes that are constant in the training samples out.")  # fmt: skip
    return s


def squared_errors(measured: Any, restored: Any, judged: Any, *, spread: Any) -> tuple[np.ndarray, np.ndarray]:
    """Return float64 (sample,) sums of squared errors in standard deviations, and the number of judged values, of each sample.

    Sums over samples of one method, and over the resamples of a bootstrap, give its root mean squared error.
    """
    m, r, j = _check(measured, restored, judged)
    error = np.where(j, (r - m) / _spread(spread, m.shape[1]), 0.0)
    return (error**2).sum(axis=1), j.sum(axis=1).astype(np.float64)


def restoration_rmse(measured: Any, restored: Any, judged: Any, *, spread: Any) -> float:
    """Return the root of the mean squared error over all judged values, each gene in units of ``spread`` (gene,)."""
    total, n = squared_errors(measured, restored, judged, spread=spread)
    return float(np.sqrt(total.sum() / n.sum()))


def gene_rmse(measured: Any, restored: Any, judged: Any, *, spread: Any) -> Float[np.ndarray, " gene"]:
    """Return the root mean squared error of each gene in units of ``spread``; NaN where it is not judged."""
    m, r, j = _check(measured, restored, judged)
    error = np.where(j, (r - m) / _spread(spread, m.shape[1]), 0.0)
    with np.errstate(invalid="ignore"):
        return np.asarray(np.sqrt((error**2).sum(axis=0) / j.sum(axis=0)))


def gene_correlation(measured: Any, restored: Any, judged: Any) -> Float[np.ndarray, " gene"]:
    """Return Pearson's r of each gene over the samples where it is judged; NaN where it is not defined."""
    m, r, j = _check(measured, restored, judged)
    return _correlate(m, r, j)


def sample_correlation(
    measured: Any, restored: Any, judged: Any, *, mean: Any, spread: Any
) -> Float[np.ndarray, " sample"]:
    """Return Pearson's r of each sample over its judged genes, standardised by ``mean`` and ``spread`` (gene,).

    Without that nearly all of it would be that some genes are high in every sample.
    """
    m, r, j = _check(measured, restored, judged)
    s = _spread(spread, m.shape[1])
    centre = np.asarray(mean, dtype=np.float64)
    return _correlate(((m - centre) / s).T, ((r - centre) / s).T, j.T)


def _correlate(m: np.ndarray, r: np.ndarray, j: np.ndarray) -> np.ndarray:
    """Pearson's r of each column over the rows where ``j``; NaN for a constant column, or with fewer than three rows."""
    n = j.sum(axis=0)
    with np.errstate(invalid="ignore", divide="ignore"):
        m = np.where(j, m - np.where(j, m, 0.0).sum(axis=0) / n, 0.0)
        r_mean = np.where(j, r, 0.0).sum(axis=0) / n
        size = np.abs(np.where(j, r, 0.0)).max(axis=0)
        r = np.where(j, r - r_mean, 0.0)
        value = (m * r).sum(axis=0) / np.sqrt((m**2).sum(axis=0) * (r**2).sum(axis=0))
    # Restored values come in float32: what varies by less than that does not vary.
    defined = (n >= 3) & (np.abs(m).max(axis=0) > 0) & (np.abs(r).max(axis=0) > RESOLUTION * size)
    return np.where(defined, np.clip(value, -1.0, 1.0), np.nan)


def restoration_coverage(
    measured: Any, lower: Any, upper: Any, judged: Any, *, spread: Any
) -> tuple[np.ndarray, np.ndarray]:
    """Return float64 (sample,): the share of judged values in [lower, upper], and the mean width in units of ``spread``.

    A sample without judged values has NaN.

    Raises
    ------
    DataError
        ``lower`` lies above ``upper``.
    """
    m, low, j = _check(measured, lower, judged)
    _, high, _ = _check(measured, upper, judged)
    crossed = int((low > high)[j].sum())
    if crossed:
        raise DataError("lower lies above upper", got=f"{crossed} of {int(j.sum())} intervals", fix="Swap the two.")
    inside = (m >= low) & (m <= high) & j
    width = np.where(j, (high - low) / _spread(spread, m.shape[1]), 0.0)
    with np.errstate(invalid="ignore"):
        return np.asarray(inside.sum(axis=1) / j.sum(axis=1)), np.asarray(width.sum(axis=1) / j.sum(axis=1))
