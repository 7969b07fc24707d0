"""Metrics of predictive intervals; each returns float64 (section, gene) with the sections in alphabetical order."""

from typing import Any

import numpy as np
from jaxtyping import Float

from expressor.core.errors import DataError, check_range
from expressor.metrics.checks import by_section, check_labels, check_pair


def _bounds(lower: Any, upper: Any) -> tuple[np.ndarray, np.ndarray]:
    lower, upper = check_pair(lower, upper)
    crossed = int((lower > upper).sum())
    if crossed:
        raise DataError("lower lies above upper", got=f"{crossed} of {lower.size} intervals", fix="Swap the two.")
    return lower, upper


def interval_coverage(measured: Any, lower: Any, upper: Any, sections: Any = None) -> Float[np.ndarray, "section gene"]:
    """Return the share of a section's spots whose measured value lies in [lower, upper], for each gene."""
    lower, upper = _bounds(lower, upper)
    measured, _ = check_pair(measured, lower)
    inside = (measured >= lower) & (measured <= upper)
    return np.stack([inside[rows].mean(axis=0) for _, rows in by_section(check_labels(sections, len(inside)))])


def interval_width(lower: Any, upper: Any, sections: Any = None) -> Float[np.ndarray, "section gene"]:
    """Return the mean of ``upper`` - ``lower`` over a section's spots, for each gene, on the scale of the values."""
    lower, upper = _bounds(lower, upper)
    width = upper - lower
    return np.stack([width[rows].mean(axis=0) for _, rows in by_section(check_labels(sections, len(width)))])


def interval_score(
    measured: Any, lower: Any, upper: Any, sections: Any = None, *, coverage: float = 0.9
) -> Float[np.ndarray, "section gene"]:
    """Return the interval score, a proper score: width plus the penalty of spots outside; lower is better.

    Parameters
    ----------
    measured, lower, upper
        (spot, gene) on one scale.
    sections
        (spot,) labels; None for one section.
    coverage
        The coverage the interval was made for, in (0, 1).

    Notes
    -----
    Gneiting and Raftery, J. Am. Stat. Assoc. 102 (2007) 359, equation 43.
    """
    check_range(coverage, name="coverage", low=0.0, high=1.0, open_low=True, open_high=True)
    lower, upper = _bounds(lower, upper)
    measured, _ = check_pair(measured, lower)
    outside = np.maximum(lower - measured, 0.0) + np.maximum(measured - upper, 0.0)
    score = upper - lower + 2.0 / (1.0 - coverage) * outside
    return np.stack([score[rows].mean(axis=0) for _, rows in by_section(check_labels(sections, len(score)))])
