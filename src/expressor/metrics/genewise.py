"""Metrics of one gene in one section, computed for all genes at once.

Each takes ``measured`` and ``predicted``, (spot, gene), and ``sections``, (spot,) labels or None for one section, and returns
float64 (section, gene) with the sections in alphabetical order.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Bool, Float
from scipy.stats import rankdata

from expressor.metrics.checks import by_section, check_labels, check_pair

# A gene whose amplitude is below the resolution of float32 (in which predictions are handed over) does not vary: its
# "correlation" would be that of rounding errors.
RESOLUTION = 8 * float(np.finfo(np.float32).eps)

SectionGene = Float[np.ndarray, "section gene"]


def varies(values: Float[np.ndarray, "spot gene"]) -> Bool[np.ndarray, " gene"]:
    """Return whether each gene varies by more than the resolution of float32."""
    spread = values.max(axis=0) - values.min(axis=0)
    return spread > RESOLUTION * np.abs(values).max(axis=0)


def pearson(measured: Any, predicted: Any, sections: Any = None) -> SectionGene:
    """Return Pearson's r of each gene in each section, in [-1, 1]; NaN where either side is constant."""
    return _for_sections(_correlation, measured, predicted, sections)


def spearman(measured: Any, predicted: Any, sections: Any = None) -> SectionGene:
    """Return Spearman's r of each gene in each section, in [-1, 1]; NaN where either side is constant."""
    return _for_sections(_rank_correlation, measured, predicted, sections)


def mean_absolute_error(measured: Any, predicted: Any, sections: Any = None) -> SectionGene:
    """Return the mean absolute error of each gene in each section, on the scale of the values."""
    return _for_sections(lambda m, p: np.abs(m - p).mean(axis=0), measured, predicted, sections)


def root_mean_squared_error(measured: Any, predicted: Any, sections: Any = None) -> SectionGene:
    """Return the root of the mean squared error of each gene in each section, on the scale of the values."""
    return _for_sections(lambda m, p: np.sqrt(((m - p) ** 2).mean(axis=0)), measured, predicted, sections)


def variance_ratio(measured: Any, predicted: Any, sections: Any = None) -> SectionGene:
    """Return predicted over measured variance of each gene in each section; NaN where the measured side is constant."""
    return _for_sections(_variance_ratio, measured, predicted, sections)


def _for_sections(function: Any, measured: Any, predicted: Any, sections: Any) -> np.ndarray:
    measured, predicted = check_pair(measured, predicted)
    labels = check_labels(sections, len(measured))
    return np.stack([function(measured[rows], predicted[rows]) for _, rows in by_section(labels)])


def _correlation(m: np.ndarray, p: np.ndarray) -> np.ndarray:
    defined = varies(m) & varies(p)
    m, p = m - m.mean(axis=0), p - p.mean(axis=0)
    with np.errstate(invalid="ignore", divide="ignore"):
        r = (m * p).sum(axis=0) / np.sqrt((m**2).sum(axis=0) * (p**2).sum(axis=0))
    return np.where(defined, np.clip(r, -1.0, 1.0), np.nan)


def _rank_correlation(m: np.ndarray, p: np.ndarray) -> np.ndarray:
    defined = varies(m) & varies(p)
    return np.where(defined, _correlation(rankdata(m, axis=0), rankdata(p, axis=0)), np.nan)


def _variance_ratio(m: np.ndarray, p: np.ndarray) -> np.ndarray:
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.where(varies(m), p.var(axis=0) / m.var(axis=0), np.nan)


@dataclass(frozen=True)
class Summary:
    """A mean over genes in each section, then over sections, and what was left out of it.

    Attributes
    ----------
    value
        Mean over sections of the mean over the genes that are defined there; NaN if none is.
    sections
        float64 (section,), the mean over genes in each section.
    n_values
        Number of (section, gene) pairs.
    n_undefined
        Number of them that have no value and are in no mean.
    """

    value: float
    sections: np.ndarray
    n_values: int
    n_undefined: int


def summarise(values: SectionGene) -> Summary:
    """Average (section, gene) values over genes and then over sections; undefined ones are left out and counted."""
    defined = ~np.isnan(values)
    with np.errstate(invalid="ignore"):
        means = np.where(defined, values, 0.0).sum(axis=1) / defined.sum(axis=1)
    known = means[~np.isnan(means)]
    return Summary(float(known.mean()) if len(known) else np.nan, means, values.size, int((~defined).sum()))
