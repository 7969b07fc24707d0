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

HIDDEN = 0.5
"""Share of the measured values that are hidden."""

Bounds = Callable[[Any], tuple[np.ndarray, np.ndarray]]


def judge_restoration(
    impute: Callable[[Any], np.ndarray],
    adata: Any,
    genes: Any,
    mean: np.ndarray,
    scale: np.ndarray,
    *,
    bounds: Bounds | None = None,
    coverage: float = 0.9,
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
    mean, scale
        (gene,) of the fit; genes of scale 0 are left out and counted.
    bounds
        The system's intervals of the nominal ``coverage``: data -> lower and upper, (obs, gene) each.
    hidden
        Share of the measured values to hide, in (0, 1).
    seed, n_draws
        Of the hiding, and of the bootstrap over patients.

    Returns
    -------
    Tidy table: ``explained`` (1 minus squared error over that of the training means; the headline), ``rmse`` in standard
    deviations, ``pearson`` per gene over samples (mean over genes), and ``coverage`` where there are bounds; with 95 % intervals
    from resampled patients.
    """
    values = profiles(adata, genes, allow_gaps=True)
    measured, varies = ~np.isnan(values), np.asarray(scale) > 0
    hide = measured & (stream(seed, "hidden values").random(values.shape) < hidden)
    holed = anndata.AnnData(
        np.where(hide, np.float32(np.nan), values), obs=adata.obs, var=pd.DataFrame(index=list(genes)),
        uns={key: adata.uns[key] for key in (keys.UNIT,) if key in adata.uns},
    )  # fmt: skip
    lonely = ~np.isfinite(holed.X).any(axis=1)
    hide[lonely] = False
    holed.X[lonely] = values[lonely]
    judged = hide & varies
    if not judged.any():
        raise DataError("there is no measured value to hide and restore", fix="Give data with measured values.")
    restored = np.asarray(impute(holed), dtype=np.float64)
    safe = np.where(varies, scale, 1.0)
    truth = np.where(judged, (values - mean) / safe, 0.0)
    found = np.where(judged, (restored - mean) / safe, 0.0)
    per_sample = np.column_stack([judged.sum(1), ((found - truth) ** 2).sum(1), (truth**2).sum(1)]).astype(np.float64)
    inside = None
    if bounds is not None:
        lower, upper = bounds(holed)
        within = (values >= lower) & (values <= upper)
        inside = (within & judged).sum(1).astype(np.float64)
    weights = _draws(adata, n_draws, seed)
    undefined = int((~varies).sum())
    r, known = _gene_correlations(found, truth, judged)
    r_draws = np.array([_mean(_gene_correlations(found, truth, judged, one)[0][known]) for one in weights[1:101]])
    total = weights @ per_sample
    rows = [
        _row("explained", "measured value", 1 - total[:, 1] / total[:, 2], int(judged.sum()), undefined),
        _row("rmse", "measured value, in standard deviations", np.sqrt(total[:, 1] / total[:, 0]), int(judged.sum()), undefined),
        _row("pearson", "gene over samples, mean over genes", np.append(_mean(r[known]), r_draws), int(known.sum()),
             int((~known).sum())),
    ]  # fmt: skip
    if inside is not None:
        share = weights @ inside / total[:, 0]
        rows.append(_row("coverage", f"measured value, nominal {coverage:g}", share, int(judged.sum()), undefined))
    return pd.DataFrame(rows)


def _draws(adata: Any, n: int, seed: int) -> np.ndarray:
    """Weights of samples, (1 + draw, sample): first all 1, then as often as their patient was drawn."""
    names = adata.obs[keys.PATIENT].astype(str) if keys.PATIENT in adata.obs else pd.Series(range(adata.n_obs))
    codes, patients = pd.factorize(names)
    drawn = stream(seed, "patients").multinomial(len(patients), np.full(len(patients), 1 / len(patients)), size=n)
    return np.vstack([np.ones(adata.n_obs), drawn[:, codes]])


def _gene_correlations(
    found: np.ndarray, truth: np.ndarray, judged: np.ndarray, weight: np.ndarray | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """Pearson's r of each gene over its judged values; and where it is defined: 3 values, not constant."""
    w = judged * (1.0 if weight is None else weight[:, None])
    n = w.sum(0)
    with np.errstate(invalid="ignore", divide="ignore"):
        a, b = (one - (w * one).sum(0) / n for one in (found, truth))
        spread = (w * a**2).sum(0) * (w * b**2).sum(0)
        r = (w * a * b).sum(0) / np.sqrt(spread)
    return r, (judged.sum(0) >= 3) & (spread > 1e-12)


def _mean(values: np.ndarray) -> float:
    known = values[np.isfinite(values)]
    return float(known.mean()) if len(known) else np.nan


def _row(metric: str, unit: str, draws: np.ndarray, n: int, undefined: int) -> dict[str, Any]:
    draws = draws[np.isfinite(draws)] if len(draws) else np.array([np.nan])
    low, high = np.quantile(draws[1:], [0.025, 0.975]) if len(draws) > 1 else (np.nan, np.nan)
    value = float(draws[0]) if len(draws) else np.nan
    return {"metric": metric, "unit": unit, "value": value, "low": float(low), "high": float(high), "n": n,
            "n_undefined": undefined}  # fmt: skip
