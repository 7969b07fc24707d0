"""Intervals by resampling patients: weights for every resample, and intervals of a statistic and of a paired difference.

A patient is drawn with all samples. A statistic is computed once for each resample from weights, so that two methods judged on
the same patients are compared on the same resamples.
"""

import math
from collections.abc import Callable
from typing import Any

import numpy as np
from jaxtyping import Float

from expressor.core.errors import DataError, check_range
from expressor.metrics.bootstrap import Interval

DESIGN = "patients"


def bootstrap_weights(
    patients: Any, *, n_draws: int = 1000, rng: np.random.Generator
) -> Float[np.ndarray, "draw sample"]:
    """Return how often each sample is in each resample of the patients.

    Parameters
    ----------
    patients
        (sample,) labels.
    n_draws
        Number of resamples, at least 1.
    rng
        Source of the draws. They depend on the set of patients only, not on the order of samples.
    """
    check_range(n_draws, name="n_draws", low=1, integer=True)
    labels = np.asarray(patients).astype(str)
    if labels.ndim != 1 or not len(labels):
        raise DataError("there are no patients to resample", expected="(sample,) labels", got=str(labels.shape))
    names, owner = np.unique(labels, return_inverse=True)
    return rng.multinomial(len(names), np.full(len(names), 1 / len(names)), size=n_draws).astype(np.float64)[:, owner]


def draw_statistic(
    statistic: Callable[[np.ndarray], float], weights: Float[np.ndarray, "draw sample"]
) -> Float[np.ndarray, " draw"]:
    """Return ``statistic(weights of one resample)`` for each resample."""
    return np.array([statistic(one) for one in weights], dtype=np.float64)


def interval_of(value: float, draws: Any, *, n_patients: int, coverage: float = 0.95) -> Interval:
    """Return the percentile interval of a statistic; resamples in which it is not defined are left out and counted.

    Parameters
    ----------
    value
        The statistic on all patients.
    draws
        (draw,) the statistic on each resample.
    n_patients
        Number of patients behind it. With fewer than two there is no interval (NaN).
    coverage
        In (0, 1).
    """
    check_range(coverage, name="coverage", low=0.0, high=1.0, open_low=True, open_high=True)
    draws = np.asarray(draws, dtype=np.float64)
    known = draws[~np.isnan(draws)]
    if n_patients < 2 or not len(known):
        return Interval(float(value), math.nan, math.nan, coverage, n_patients, len(draws) - len(known), "none")
    low, high = np.quantile(known, [(1 - coverage) / 2, (1 + coverage) / 2])
    return Interval(float(value), float(low), float(high), coverage, n_patients, len(draws) - len(known), DESIGN)


def paired_difference(
    first: float, second: float, first_draws: Any, second_draws: Any, *, n_patients: int, coverage: float = 0.95
) -> Interval:
    """Return the interval of the difference of two methods, whose draws are on the same resamples in the same order."""
    one, other = np.asarray(first_draws, dtype=np.float64), np.asarray(second_draws, dtype=np.float64)
    if one.shape != other.shape:
        raise DataError("the two methods were resampled differently", expected=str(one.shape), got=str(other.shape))
    return interval_of(first - second, one - other, n_patients=n_patients, coverage=coverage)


def corrected_resampled_t(differences: Any, *, test_share: float) -> tuple[float, float]:
    """Return t and two-sided p of a mean difference over the folds of repeated cross-validation.

    The variance is enlarged for the training data that folds share (Nadeau and Bengio, Machine Learning 52 (2003) 239).

    Parameters
    ----------
    differences
        (fold,) difference of two methods on each fold of each repeat, two or more; NaN is left out.
    test_share
        Test over training patients of a fold, 1/4 in five-fold cross-validation.
    """
    from scipy.stats import t as student

    check_range(test_share, name="test_share", low=0.0, open_low=True)
    d = np.asarray(differences, dtype=np.float64)
    d = d[~np.isnan(d)]
    if len(d) < 2:
        return math.nan, math.nan
    error = math.sqrt((1 / len(d) + test_share) * float(d.var(ddof=1)))
    if error == 0:
        return (0.0, 1.0) if d.mean() == 0 else (math.copysign(math.inf, d.mean()), 0.0)
    statistic = float(d.mean() / error)
    return statistic, float(2 * student.sf(abs(statistic), len(d) - 1))
