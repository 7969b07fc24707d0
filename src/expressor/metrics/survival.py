"""Metrics of predicted survival: concordance, Brier score, time-dependent AUC; Kaplan-Meier and log-rank.

Times are positive and right-censored; ``event`` says whether the event ended them. A risk is larger where the event is expected
earlier. Pairs of patients are compared within a stratum only, for instance within a fold, whose risks have one scale. What
depends on censoring weights each patient by the inverse of the probability of not being censored, from training outcomes.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Bool, Float
from scipy.stats import chi2

from expressor.core.errors import DataError
from expressor.metrics.records import Metric

TIED_RISK = 1e-8  # risks nearer than this count as tied, as in scikit-survival

_PAIRS = "pair of patients in one fold, whose order in time is known, share of all pairs"
_WEIGHTED = "pair of patients in one fold, weighted share of all pairs"
_PATIENTS = "patient, mean over patients"
_NO_PAIRS = "no two patients can be compared"

RECORDS: dict[str, Metric] = {
    one.name: one
    for one in (
        Metric("concordance", "Harrell C", "Share of comparable pairs in which the patient of higher risk has the event first.",
               _PAIRS, "higher", 0.0, 1.0, undefined=_NO_PAIRS),
        Metric("uno_concordance", "Uno C", "Concordance up to a time, weighted so that censoring does not matter.",
               _WEIGHTED, "higher", 0.0, 1.0, undefined=_NO_PAIRS),
        Metric("brier_skill", "Brier skill",
               "1 minus the integrated Brier score over that of the training patients' Kaplan-Meier curve.",
               _PATIENTS, "higher", -math.inf, 1.0,
               undefined="no method of this kind gives survival curves"),
        Metric("auc_1y", "AUC 1 y", "Time-dependent area under the ROC curve at one year.",
               _WEIGHTED, "higher", 0.0, 1.0,
               undefined="no event before, or nobody followed beyond, that time"),
        Metric("auc_3y", "AUC 3 y", "Time-dependent area under the ROC curve at three years.",
               _WEIGHTED, "higher", 0.0, 1.0,
               undefined="no event before, or nobody followed beyond, that time"),
        Metric("auc_5y", "AUC 5 y", "Time-dependent area under the ROC curve at five years.",
               _WEIGHTED, "higher", 0.0, 1.0,
               undefined="no event before, or nobody followed beyond, that time"),
        Metric("calibration_slope", "calibration slope",
               "Slope of a Cox regression of the outcomes on the predicted risk (a log hazard); below 1 is over-fitted.",
               "cohort, folds as strata", "one", -math.inf, math.inf, undefined="the risk is constant or no event happened"),
        Metric("d_calibration", "D-calibration p",
               "p-value of the hypothesis that predicted survival at the own time of each patient is uniform; small is bad.",
               _PATIENTS, "nominal", 0.0, 1.0, undefined="no method of this kind gives survival curves"),
    )
}  # fmt: skip


@dataclass(frozen=True)
class KaplanMeier:
    """An estimated survival curve, a step function that holds from each time to the next.

    Attributes
    ----------
    time
        float64 (step,), distinct times, rising.
    survival
        float64 (step,), the probability of surviving beyond each.
    low, high
        float64 (step,), 95 % bounds on the log(-log) scale; 1 before the first event.
    at_risk
        int64 (step,), patients in view just before each.
    """

    time: np.ndarray
    survival: np.ndarray
    low: np.ndarray
    high: np.ndarray
    at_risk: np.ndarray

    def at(self, times: Any) -> np.ndarray:
        """Return the survival probability at ``times``; 1 before the first, the last value beyond the last."""
        place = np.searchsorted(self.time, np.asarray(times, dtype=np.float64), side="right") - 1
        return np.where(place >= 0, self.survival[np.maximum(place, 0)], 1.0)


def check_outcomes(time: Any, event: Any) -> tuple[Float[np.ndarray, " sample"], Bool[np.ndarray, " sample"]]:
    """Return times and events as arrays; DataError where they do not fit, or are no times and events."""
    t, e = np.asarray(time, dtype=np.float64), np.asarray(event)
    if t.ndim != 1 or e.shape != t.shape or not len(t):
        raise DataError("times and events do not fit", expected="(sample,) each", got=f"{t.shape} and {e.shape}")
    if not np.isfinite(t).all() or (t < 0).any():
        raise DataError("a time is negative or not finite", got=f"{int((~np.isfinite(t) | (t < 0)).sum())} of {len(t)}")
    if not np.isin(e, (0, 1)).all():
        raise DataError("events are coded by other values", expected="bool, or 0 and 1", got=repr(np.unique(e)[:3]))
    return t, e.astype(bool)


def check_risk(risk: Any, n: int) -> Float[np.ndarray, " sample"]:
    """Return the risks as float64 (sample,); DataError where they are not ``n`` finite numbers."""
    r = np.asarray(risk, dtype=np.float64)
    if r.shape != (n,) or not np.isfinite(r).all():
        raise DataError("the risk does not fit the outcomes", expected=f"{n} finite numbers", got=str(r.shape))
    return r


def kaplan_meier(time: Any, event: Any, *, censoring: bool = False) -> KaplanMeier:
    """Estimate the survival curve (Kaplan and Meier 1958), or the curve of not being censored.

    Parameters
    ----------
    time, event
        (sample,) outcomes.
    censoring
        Take censoring for the event. Where both happen at one time, the event comes first.
    """
    t, e = check_outcomes(time, event)
    steps, at = np.unique(t, return_inverse=True)
    died = np.bincount(at, e, len(steps))
    left = np.bincount(at, ~e, len(steps))
    risk = len(t) - np.concatenate([[0.0], np.cumsum(died + left)[:-1]])
    if censoring:
        died, exposed = left, risk - died
    else:
        exposed = risk
    with np.errstate(divide="ignore", invalid="ignore"):
        survival = np.cumprod(np.where(exposed > 0, 1.0 - died / exposed, 1.0))
        variance = np.cumsum(np.where(exposed > died, died / (exposed * (exposed - died)), 0.0))
        log = np.log(survival)
        half = 1.959963984540054 * np.sqrt(variance) / np.abs(log)
        low, high = survival ** np.exp(half), survival ** np.exp(-half)
    inside = (survival > 0) & (survival < 1)
    return KaplanMeier(
        steps, survival, np.where(inside, low, survival), np.where(inside, high, survival), risk.astype(np.int64)
    )


def number_at_risk(time: Any, times: Any) -> np.ndarray:
    """Return int64 (time,): how many of the patients are still in view at each of ``times``."""
    t = np.sort(np.asarray(time, dtype=np.float64))
    return (len(t) - np.searchsorted(t, np.asarray(times, dtype=np.float64), side="left")).astype(np.int64)


def log_rank(time: Any, event: Any, groups: Any) -> tuple[float, float]:
    """Return the chi-squared statistic and p-value of the log-rank test that the groups have one survival curve.

    Raises
    ------
    DataError
        There are fewer than two groups.
    """
    t, e = check_outcomes(time, event)
    names, group = np.unique(np.asarray(groups).astype(str), return_inverse=True)
    if group.shape != t.shape or len(names) < 2:
        raise DataError("the log-rank test needs groups", expected="two groups or more", got=f"{len(names)}")
    k = len(names)
    observed, expected, variance = np.zeros(k), np.zeros(k), np.zeros((k, k))
    for now in np.unique(t[e]):
        risk = np.bincount(group[t >= now], minlength=k).astype(np.float64)
        died = np.bincount(group[(t == now) & e], minlength=k).astype(np.float64)
        n, d = risk.sum(), died.sum()
        share = risk / n
        observed += died
        expected += d * share
        if n > 1:
            variance += d * (n - d) / (n - 1) * (np.diag(share) - np.outer(share, share))
    difference = (observed - expected)[:-1]
    statistic = float(difference @ np.linalg.pinv(variance[:-1, :-1]) @ difference)
    return statistic, float(chi2.sf(statistic, k - 1))


@dataclass(frozen=True, eq=False)
class Pairs:
    """What each pair of patients adds to a concordance, so that resamples of patients need no new comparison.

    Attributes
    ----------
    blocks
        For each stratum: positions (sample,) and two matrices (sample, sample), the weight of each comparable pair, and the
        part of it that the risk orders rightly (a half where risks are tied).
    """

    blocks: tuple[tuple[np.ndarray, np.ndarray, np.ndarray], ...]

    def value(self, weights: Any = None) -> float:
        """Return the concordance; ``weights`` (sample,) say how often each patient is there. NaN without pairs."""
        n = sum(len(rows) for rows, _, _ in self.blocks)
        return float(self.draws(np.ones((1, n)) if weights is None else np.asarray(weights)[None])[0])

    def draws(self, weights: Any) -> Float[np.ndarray, " draw"]:
        """Return the concordance of each resample; ``weights`` is (draw, sample)."""
        w = np.asarray(weights, dtype=np.float64)
        right, all_ = np.zeros(len(w)), np.zeros(len(w))
        for rows, comparable, ordered in self.blocks:
            own = w[:, rows]
            right += ((own @ ordered) * own).sum(axis=1)
            all_ += ((own @ comparable) * own).sum(axis=1)
        with np.errstate(invalid="ignore"):
            return np.where(all_ > 0, right / all_, np.nan)


def compare_pairs(time: Any, event: Any, risk: Any, *, strata: Any = None, weights: Any = None) -> Pairs:
    """Compare every two patients of a stratum whose order in time is known.

    A pair can be compared when the earlier time is an event; at equal times, when one is an event and the other is not.

    Parameters
    ----------
    time, event, risk
        (sample,).
    strata
        (sample,) labels; None for one stratum.
    weights
        (sample,) weight of a pair, by the patient with the earlier event; 1 by default.
    """
    t, e = check_outcomes(time, event)

    def known(rows: np.ndarray) -> np.ndarray:
        first, later = t[rows, None], t[None, rows]
        return e[rows, None] & ((first < later) | ((first == later) & ~e[None, rows]))

    return _pairs(known, check_risk(risk, len(t)), strata, weights)


def _pairs(known: Callable[[np.ndarray], np.ndarray], r: np.ndarray, strata: Any, weights: Any) -> Pairs:
    """Which pairs of some rows can be compared is asked stratum by stratum, so that no table holds all patients."""
    labels = (
        np.zeros(len(r), dtype=np.int64) if strata is None else np.unique(np.asarray(strata), return_inverse=True)[1]
    )
    w = np.ones(len(r)) if weights is None else np.asarray(weights, dtype=np.float64)
    blocks = []
    for label in np.unique(labels):
        rows = np.flatnonzero(labels == label)
        difference = r[rows, None] - r[None, rows]
        tied = np.abs(difference) <= TIED_RISK
        weight = known(rows) * w[rows, None]
        blocks.append((rows, weight, weight * np.where(tied, 0.5, difference > 0)))
    return Pairs(tuple(blocks))


def concordance(time: Any, event: Any, risk: Any, *, strata: Any = None) -> float:
    """Return Harrell's C, the share of comparable pairs that the risk orders rightly; NaN where no pair can be compared.

    Parameters
    ----------
    time, event, risk
        (sample,) outcomes, and risks that are larger where the event is expected earlier.
    strata
        (sample,) labels within which patients are compared; None for one stratum.
    """
    return compare_pairs(time, event, risk, strata=strata).value()


def uno_concordance(
    train_time: Any, train_event: Any, time: Any, event: Any, risk: Any, *, tau: float | None = None
) -> float:
    """Return Uno's C up to ``tau``: pairs are weighted by the inverse squared probability of not being censored.

    Parameters
    ----------
    train_time, train_event
        Outcomes from which the censoring is estimated.
    time, event, risk
        (sample,) of the patients judged.
    tau
        Only events before it count. NaN where no pair can be compared; DataError where, before ``tau``, everyone of the
        training patients is censored, so that there is no weight.

    Notes
    -----
    Uno, Cai, Pencina, D'Agostino and Wei, Statistics in Medicine 30 (2011) 1105.
    """
    t, e = check_outcomes(time, event)
    weights = uno_weights(train_time, train_event, t, e, tau=tau)
    return compare_pairs(t, e, risk, weights=weights).value()


def uno_weights(
    train_time: Any, train_event: Any, time: Any, event: Any, *, tau: float | None = None
) -> Float[np.ndarray, " sample"]:
    """Return what :func:`uno_concordance` weighs each patient's pairs by; 0 where the own time is no event before ``tau``.

    With them, :func:`compare_pairs` gives the concordance of any resample of the patients.
    """
    t, e = check_outcomes(time, event)
    counted = e if tau is None else e & (t < tau)
    weights = np.zeros(len(t))
    weights[counted] = _inverse_censoring(train_time, train_event, t[counted]) ** 2
    return weights


def _inverse_censoring(train_time: Any, train_event: Any, times: np.ndarray) -> np.ndarray:
    free = kaplan_meier(train_time, train_event, censoring=True).at(times)
    if (free <= 0).any():
        raise DataError(
            "the censoring cannot be weighed: all training patients are censored before the last times judged",
            fix="Choose a smaller tau, or earlier times.",
        )
    return 1.0 / free


def brier_scores(
    train_time: Any, train_event: Any, time: Any, event: Any, survival: Any, times: Any
) -> Float[np.ndarray, " time"]:
    """Return the Brier score at each of ``times``, weighted for censoring: the mean of :func:`brier_terms` over patients."""
    return np.asarray(brier_terms(train_time, train_event, time, event, survival, times).mean(axis=0))


def brier_terms(
    train_time: Any, train_event: Any, time: Any, event: Any, survival: Any, times: Any
) -> Float[np.ndarray, "sample time"]:
    """Return what each patient adds to the Brier score at each of ``times``, weighted for censoring.

    Parameters
    ----------
    train_time, train_event
        Outcomes from which the censoring is estimated.
    time, event
        (sample,) outcomes of the patients judged.
    survival
        (sample, time) predicted probability of surviving beyond each of ``times``.
    times
        (time,), rising.

    Notes
    -----
    Graf, Schmoor, Sauerbrei and Schumacher, Statistics in Medicine 18 (1999) 2529.
    """
    t, e = check_outcomes(time, event)
    at, predicted = _curves(survival, times, len(t))
    free = kaplan_meier(train_time, train_event, censoring=True)
    own, then = free.at(t), free.at(at)
    over = (t[:, None] <= at) & e[:, None]
    alive = t[:, None] > at
    with np.errstate(divide="ignore"):
        before = np.where(own > 0, 1.0 / own, 0.0)[:, None]
        after = np.where(then > 0, 1.0 / then, 0.0)[None]
    return np.asarray(predicted**2 * over * before + (1 - predicted) ** 2 * alive * after)


def _curves(survival: Any, times: Any, n: int) -> tuple[np.ndarray, np.ndarray]:
    at, predicted = np.asarray(times, dtype=np.float64), np.asarray(survival, dtype=np.float64)
    if at.ndim != 1 or not len(at) or (np.diff(at) <= 0).any() or predicted.shape != (n, len(at)):
        raise DataError("survival curves do not fit", expected=f"({n}, time) at rising times", got=str(predicted.shape))
    if not np.isfinite(predicted).all() or predicted.min() < -1e-6 or predicted.max() > 1 + 1e-6:
        raise DataError("survival curves hold values that are no probabilities", expected="0 to 1",
                        got=f"{np.nanmin(predicted):.3g} to {np.nanmax(predicted):.3g}")  # fmt: skip
    return at, predicted


def integrated_brier(scores: Any, times: Any) -> float:
    """Return the mean over time of Brier scores at rising ``times``, two or more, by the trapezoidal rule."""
    return float(_over_time(np.asarray(scores, dtype=np.float64), times))


def _over_time(scores: np.ndarray, times: Any) -> np.ndarray:
    at = np.asarray(times, dtype=np.float64)
    if len(at) < 2:
        raise DataError("a Brier score is integrated over times", expected="two or more", got=len(at))
    return np.asarray(np.trapezoid(scores, at, axis=-1) / (at[-1] - at[0]))


def brier_skill(train_time: Any, train_event: Any, time: Any, event: Any, survival: Any, times: Any) -> float:
    """Return 1 - IBS / IBS of the Kaplan-Meier curve of the training patients, which knows nothing of a patient.

    Above 0 the curves say something; the parameters are those of :func:`brier_terms`.
    """
    own, none = brier_against_none(train_time, train_event, time, event, survival, times)
    return float(1.0 - own.sum() / none.sum()) if none.sum() > 0 else math.nan


def brier_against_none(
    train_time: Any, train_event: Any, time: Any, event: Any, survival: Any, times: Any
) -> tuple[Float[np.ndarray, " sample"], Float[np.ndarray, " sample"]]:
    """Return each patient's part of the integrated Brier score, and that of the training patients' Kaplan-Meier curve.

    Sums over patients, of any resample of them, give the skill.
    """
    outcomes = (train_time, train_event, time, event)
    null = np.tile(kaplan_meier(train_time, train_event).at(times), (len(np.asarray(time)), 1))
    own, none = (_over_time(brier_terms(*outcomes, one, times), times) for one in (survival, null))
    return own, none


def dynamic_auc(
    train_time: Any, train_event: Any, time: Any, event: Any, risk: Any, times: Any
) -> Float[np.ndarray, " time"]:
    """Return the cumulative/dynamic AUC at each of ``times``; NaN where nobody had the event before or is followed beyond.

    Patients with the event until then are compared with those still in view, the former weighted for censoring.

    Notes
    -----
    Uno, Cai, Tian and Wei, JASA 102 (2007) 527; Hung and Chiang, Canadian Journal of Statistics 38 (2010) 8.
    """
    t, e = check_outcomes(time, event)
    free = kaplan_meier(train_time, train_event, censoring=True).at(t)
    weights = np.where(e & (free > 0), 1.0 / np.maximum(free, 1e-300), 0.0)
    ats = np.asarray(times, dtype=np.float64)
    return np.array([compare_until(t, e, risk, now, weights=weights).value() for now in ats])


def compare_until(time: Any, event: Any, risk: Any, horizon: float, *, weights: Any, strata: Any = None) -> Pairs:
    """Compare patients who had the event by ``horizon`` with those of the stratum in view beyond it.

    Parameters
    ----------
    time, event, risk
        (sample,).
    horizon
        In the unit of ``time``.
    weights
        (sample,) weight of a patient with the event: the inverse of the probability of not being censored until then.
    strata
        (sample,) labels; None for one stratum.
    """
    t, e = check_outcomes(time, event)
    case, control = (t <= horizon) & e, t > horizon
    return _pairs(lambda rows: case[rows, None] & control[None, rows], check_risk(risk, len(t)), strata, weights)
