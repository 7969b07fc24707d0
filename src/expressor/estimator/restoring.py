"""How well a system restores expression: hide measured values, have them restored, compare."""

from collections.abc import Callable
from typing import Any

import anndata
import numpy as np
import pandas as pd

from expressor.core.errors import DataError
from expressor.core.rng import stream
from expressor.data import keys
from expressor.data.profiles import profiles
from expressor.estimator.judging import patients_of, row
from expressor.metrics.patients import bootstrap_weights
from expressor.metrics.restoration import gene_correlation, squared_errors

HIDDEN = 0.5
"""Share of the measured values that are hidden."""
_GENE_DRAWS = 100  # resamples for correlations, of which each takes a pass over all genes

Bounds = Callable[[Any], tuple[np.ndarray, np.ndarray]]


def judge_restoration(
    impute: Callable[[Any], np.ndarray],
    adata: Any,
    genes: Any,
    *,
    scale: np.ndarray,
    bounds: Bounds | None = None,
    hidden: float = HIDDEN,
    seed: int = 0,
    n_draws: int = 1000,
) -> pd.DataFrame:
    """Hide values at random, restore them, and compare in standard deviations of the training samples.

    Parameters
    ----------
    impute
        The system's: data -> (obs, gene) for all ``genes``.
    adata
        Measured samples, NaN where they were not.
    genes
        The genes of the fit.
    scale
        (gene,) standard deviations of the fit; genes of 0 are left out and counted.
    bounds
        The system's 90 % intervals: data -> lower and upper, (obs, gene) each.
    hidden
        Share of the measured values to hide, in (0, 1).
    seed, n_draws
        Of the hiding, and of the bootstrap over patients.

    Returns
    -------
    Tidy table: ``gene_r`` (the headline), ``restoration_rmse``, and ``restoration_coverage`` where there are bounds; with 95 %
    intervals from resampled patients.
    """
    values = profiles(adata, genes, allow_gaps=True)
    varies = np.asarray(scale) > 0
    hide = ~np.isnan(values) & (stream(seed, "hidden values").random(values.shape) < hidden)
    # A sample of which nothing would be left is left alone.
    hide[(np.isnan(values) | hide).all(axis=1)] = False
    judged = (hide & varies)[:, varies]
    if not judged.any():
        raise DataError("there is no measured value to hide and restore", fix="Give data with measured values.")
    holed = anndata.AnnData(
        np.where(hide, np.float32(np.nan), values), obs=adata.obs, var=pd.DataFrame(index=list(genes)),
        uns={key: adata.uns[key] for key in (keys.UNIT,) if key in adata.uns},
    )  # fmt: skip
    restored, undefined = np.asarray(impute(holed))[:, varies], int((~varies).sum())
    truth, spread = np.where(judged, values[:, varies], 0.0), np.asarray(scale)[varies]
    patients = patients_of(adata)
    weights = np.vstack(
        [np.ones(adata.n_obs), bootstrap_weights(patients, n_draws=n_draws, rng=stream(seed, "patients"))]
    )
    errors, n = squared_errors(truth, restored, judged, spread=spread)
    r = gene_correlation(truth, restored, judged)
    correlations = [_resampled_r(truth, restored, judged, one) for one in weights[1 : 1 + _GENE_DRAWS]]
    with np.errstate(invalid="ignore", divide="ignore"):
        rmse = np.sqrt(weights @ errors / (weights @ n))
    rows = [
        row("gene_r", _mean(r), correlations, patients, n=int((~np.isnan(r)).sum()),
            n_undefined=undefined + int(np.isnan(r).sum())),
        row("restoration_rmse", rmse[0], rmse[1:], patients, n=int(judged.sum()), n_undefined=undefined),
    ]  # fmt: skip
    if bounds is not None:
        lower, upper = (np.asarray(one)[:, varies] for one in bounds(holed))
        inside = ((truth >= lower) & (truth <= upper) & judged).sum(axis=1)
        with np.errstate(invalid="ignore", divide="ignore"):
            share = weights @ inside / (weights @ n)
        rows.append(
            row("restoration_coverage", share[0], share[1:], patients, n=int(judged.sum()), n_undefined=undefined)
        )
    return pd.DataFrame(rows)


def _resampled_r(truth: np.ndarray, restored: np.ndarray, judged: np.ndarray, weight: np.ndarray) -> float:
    drawn = np.repeat(np.arange(len(weight)), weight.astype(np.int64))
    return _mean(gene_correlation(truth[drawn], restored[drawn], judged[drawn])) if judged[drawn].any() else np.nan


def _mean(values: np.ndarray) -> float:
    known = values[np.isfinite(values)]
    return float(known.mean()) if len(known) else np.nan
