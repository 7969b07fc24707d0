"""Whether predicted survival is right in size, not only in order: slope of the risk, D-calibration, the curve of groups."""

import math
from typing import Any

import numpy as np
from scipy.stats import chi2

from expressor.core.errors import DataError, check_range
from expressor.metrics.survival import check_outcomes, check_risk, kaplan_meier


def calibration_slope(time: Any, event: Any, risk: Any, *, strata: Any = None) -> float:
    """Return the slope of a Cox regression of the outcomes on the risk, a log hazard; 1 is right, less is over-fitted.

    Ties as Breslow. NaN where there is no event or the risk does not vary within a stratum, and where the slope runs to
    infinity (a risk that orders all patients without fault).
    """
    t, e = check_outcomes(time, event)
    r = check_risk(risk, len(t))
    labels = np.zeros(len(t)) if strata is None else np.unique(np.asarray(strata), return_inverse=True)[1]
    spread = r.std()
    if spread < 1e-12:
        return math.nan
    x, slope = (r - r.mean()) / spread, 0.0
    parts = []
    for label in np.unique(labels):
        rows = np.flatnonzero(labels == label)
        rows = rows[np.argsort(-t[rows], kind="stable")]
        # The risk set of an event holds all that come until the last of its own time, in falling order of time.
        end = np.searchsorted(-t[rows], -t[rows], side="right") - 1
        parts.append((x[rows], e[rows], end))
    for _ in range(50):
        gradient = curvature = 0.0
        for own, happened, end in parts:
            hazard = np.exp(slope * own - (slope * own).max())
            total, first, second = (np.cumsum(hazard * own**k)[end] for k in range(3))
            mean = first / total
            gradient += float((own - mean)[happened].sum())
            curvature += float((second / total - mean**2)[happened].sum())
        if curvature < 1e-12:
            return math.nan
        step = gradient / curvature
        slope += float(np.clip(step, -2.0, 2.0))
        if abs(step) < 1e-10:
            return slope / float(spread)
    return math.nan


def d_calibration(survival_at_time: Any, event: Any, *, bins: int = 10) -> tuple[float, float, np.ndarray]:
    """Test whether predicted survival probabilities at the patients' own times are uniform.

    A patient with the event counts in the bin of the own probability; a censored one is spread evenly over the probabilities
    from 0 to the own.

    Parameters
    ----------
    survival_at_time
        (sample,) predicted probability of surviving beyond the own time of event or censoring.
    event
        (sample,).
    bins
        Number of equal bins, at least 2.

    Returns
    -------
    statistic, p, shares
        Chi-squared statistic with ``bins - 1`` degrees of freedom, its p-value, and (bin,) the share of patients in each bin.

    Notes
    -----
    Haider, Hoehn, Davis and Greiner, Journal of Machine Learning Research 21 (2020) 85.
    """
    check_range(bins, name="bins", low=2, integer=True)
    p, e = np.asarray(survival_at_time, dtype=np.float64), np.asarray(event).astype(bool)
    if p.ndim != 1 or p.shape != e.shape or not len(p) or not ((p >= -1e-6) & (p <= 1 + 1e-6)).all():
        raise DataError(
            "survival at the own time is no probability a sample", expected="(sample,) in 0 to 1", got=str(p.shape)
        )
    p = np.clip(p, 0.0, 1.0)
    edges = np.linspace(0.0, 1.0, bins + 1)
    own = np.minimum((p * bins).astype(np.int64), bins - 1)
    counts = np.bincount(own[e], minlength=bins).astype(np.float64)
    for value in p[~e]:
        covered = np.clip(value - edges[:-1], 0.0, 1.0 / bins)
        counts += covered / value if value > 0 else np.eye(bins)[0]
    expected = len(p) / bins
    statistic = float(((counts - expected) ** 2 / expected).sum())
    return statistic, float(chi2.sf(statistic, bins - 1)), counts / len(p)


def calibration_curve(
    time: Any, event: Any, survival: Any, *, horizon: float, groups: int = 5
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Compare predicted survival at one time with what Kaplan-Meier finds in groups of rising prediction.

    Parameters
    ----------
    time, event
        (sample,) outcomes.
    survival
        (sample,) predicted probability of surviving beyond ``horizon``.
    horizon
        The time, in the unit of ``time``.
    groups
        Number of groups of equal size, at least 2.

    Returns
    -------
    predicted, observed, low, high
        float64 (group,): mean prediction, Kaplan-Meier at ``horizon`` with its 95 % bounds; NaN where nobody of a group is
        followed that far and its curve is still above 0.
    """
    check_range(groups, name="groups", low=2, integer=True)
    t, e = check_outcomes(time, event)
    s = check_risk(survival, len(t))
    parts = np.array_split(np.argsort(s, kind="stable"), groups)
    rows = []
    for part in parts:
        curve = kaplan_meier(t[part], e[part])
        place = int(np.searchsorted(curve.time, horizon, side="right")) - 1
        known = t[part].max() >= horizon or curve.survival[-1] == 0
        found = (curve.survival[place], curve.low[place], curve.high[place]) if place >= 0 else (1.0, 1.0, 1.0)
        rows.append((s[part].mean(), *(found if known else (math.nan,) * 3)))
    predicted, observed, low, high = np.array(rows).T
    return predicted, observed, low, high
