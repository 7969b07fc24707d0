"""What held-out predictions tell: the line to the unit of expression, interval widths, and which genes to believe."""

from dataclasses import dataclass

import numpy as np
import pandas as pd

from expressor.core.rng import stream
from expressor.metrics.blocks import block_bootstrap_pearson, block_permutation_pvalues
from expressor.metrics.genewise import pearson
from expressor.metrics.multiplicity import bh_qvalues
from expressor.systems.agl import equations

LEVELS = np.append(np.arange(1, 100) / 100, 0.995)
"""Coverages for which half-widths are kept."""
SHOWN_COVERAGE = 0.9
_CHECKED = (0.5, 0.8, 0.9, 0.95)
_DRAWS = 500


@dataclass(frozen=True)
class HeldOut:
    """Predictions of spots by networks that were not trained on them.

    Attributes
    ----------
    predicted
        (spot, gene), the networks' own scale.
    measured
        (spot, gene), the unit of expression.
    group, section
        (spot,) what was held out together; the section.
    um
        (spot, 2) positions, um.
    """

    predicted: np.ndarray
    measured: np.ndarray
    group: np.ndarray
    section: np.ndarray
    um: np.ndarray


@dataclass(frozen=True)
class Calibration:
    """The outcome.

    Attributes
    ----------
    slope, intercept
        (gene,), from the networks' scale to the unit of expression.
    half_widths
        (level, gene), for :data:`LEVELS`.
    table
        One row a gene: pcc, pcc_low, pcc_high, p_value, q_value, trusted, slope, intercept, half_width.
    coverage
        Nominal and measured coverage; measured on each group with line and width from the other groups.
    """

    slope: np.ndarray
    intercept: np.ndarray
    half_widths: np.ndarray
    table: pd.DataFrame
    coverage: pd.DataFrame


def calibrate(names: pd.Index, held: HeldOut, *, permutations: int, false_discovery: float, seed: int) -> Calibration:
    """Calibrate on held-out predictions.

    Parameters
    ----------
    names
        Of the genes.
    held
        The predictions.
    permutations
        Of the block permutation test.
    false_discovery
        Largest q-value at which a gene is trusted.
    seed
        The estimator's.
    """
    codes = np.unique(held.group, return_inverse=True)[1]
    slope, intercept = equations.recalibration(held.predicted, held.measured, codes)
    residual = _residuals(held.predicted, held.measured, codes)
    widths = np.stack([equations.conformal_half_width(residual, codes, float(level)) for level in LEVELS])
    table = _verdicts(names, held, permutations, false_discovery, seed)
    table["slope"], table["intercept"] = slope, intercept
    table["half_width"] = widths[int(np.searchsorted(LEVELS, SHOWN_COVERAGE - 1e-9))]
    return Calibration(slope, intercept, widths, table, _coverage(held, codes))


def half_width_at(half_widths: np.ndarray, coverage: float) -> np.ndarray:
    """Return the half-width of each gene at the next kept level that is not below ``coverage``."""
    return half_widths[min(int(np.searchsorted(LEVELS, coverage - 1e-9)), len(LEVELS) - 1)]


def _residuals(predicted: np.ndarray, measured: np.ndarray, codes: np.ndarray) -> np.ndarray:
    """Return errors of each group under the line fitted on the other groups (its own, where there is one group only)."""
    residual = np.empty(measured.shape)
    for one in range(codes.max() + 1):
        here = codes == one
        others = ~here if (~here).any() else here
        slope, intercept = equations.recalibration(predicted[others], measured[others], codes[others])
        residual[here] = measured[here] - (slope * predicted[here] + intercept)
    return residual


def _coverage(held: HeldOut, codes: np.ndarray) -> pd.DataFrame:
    """Go through the whole procedure without each group in turn, and see how much of it the intervals cover."""
    inside: dict[float, list[float]] = {level: [] for level in _CHECKED}
    for one in range(codes.max() + 1):
        here, others = codes == one, codes != one
        if not others.any():
            break
        slope, intercept = equations.recalibration(held.predicted[others], held.measured[others], codes[others])
        error = np.abs(held.measured[here] - (slope * held.predicted[here] + intercept))
        rest = np.unique(codes[others], return_inverse=True)[1]
        residual = _residuals(held.predicted[others], held.measured[others], rest)
        for level in _CHECKED:
            width = equations.conformal_half_width(residual, rest, level)
            inside[level].append(float((error <= width).mean()))
    measured = [float(np.mean(shares)) if shares else np.nan for shares in inside.values()]
    return pd.DataFrame({"nominal": list(inside), "measured": measured})


def _verdicts(names: pd.Index, held: HeldOut, permutations: int, false_discovery: float, seed: int) -> pd.DataFrame:
    arguments = held.measured, held.predicted, held.um, held.section
    pcc = _mean_over_sections(pearson(held.measured, held.predicted, held.section))
    p_value = block_permutation_pvalues(*arguments, n_permutations=permutations, rng=stream(seed, "trust"))
    drawn = block_bootstrap_pearson(*arguments, n_draws=_DRAWS, rng=stream(seed, "trust interval"))
    means = np.stack([_mean_over_sections(one) for one in drawn])
    low, high = _percentiles(means, (0.025, 0.975))
    q_value = bh_qvalues(p_value)
    with np.errstate(invalid="ignore"):
        trusted = (q_value <= false_discovery) & (pcc > 0)
    return pd.DataFrame(
        {"pcc": pcc, "pcc_low": low, "pcc_high": high, "p_value": p_value, "q_value": q_value, "trusted": trusted},
        index=names,
    )


def _mean_over_sections(values: np.ndarray) -> np.ndarray:
    """Average (section, gene) over the sections in which a gene is defined; NaN where it is in none."""
    known = ~np.isnan(values)
    with np.errstate(invalid="ignore"):
        return np.where(known, values, 0.0).sum(0) / known.sum(0)


def _percentiles(draws: np.ndarray, shares: tuple[float, float]) -> tuple[np.ndarray, np.ndarray]:
    found = np.full((2, draws.shape[1]), np.nan)
    for gene in range(draws.shape[1]):
        known = draws[:, gene][~np.isnan(draws[:, gene])]
        if len(known):
            found[:, gene] = np.quantile(known, shares)
    return found[0], found[1]
