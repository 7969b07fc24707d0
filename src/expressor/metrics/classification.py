"""Metrics of predicted labels and of their probabilities. Labels that nobody has, or nobody was given, are counted as such.

All take weights (sample,), for instance how often a resample holds each patient, so that intervals need no new prediction.
"""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from jaxtyping import Float

from expressor.core.errors import DataError, check_range
from expressor.metrics.records import Metric

_CLASSES = "class, mean over classes"
_SAMPLES = "sample, mean over samples"

RECORDS: dict[str, Metric] = {
    one.name: one
    for one in (
        Metric("balanced_accuracy", "balanced accuracy", "Share of the samples of a class that are given it.",
               _CLASSES, "higher", 0.0, 1.0, undefined="no sample has a class"),
        Metric("accuracy", "accuracy", "Share of the samples that are given their class.", _SAMPLES, "higher", 0.0, 1.0),
        Metric("macro_f1", "macro F1", "Harmonic mean of precision and recall of a class.",
               _CLASSES, "higher", 0.0, 1.0, undefined="no sample has a class"),
        Metric("log_loss", "log loss", "Minus the log probability that was given to the right class.",
               _SAMPLES, "lower", 0.0, math.inf, undefined="no probabilities are given"),
        Metric("calibration_error", "calibration error",
               "Distance of the probability of the predicted class from how often it is right, in 10 bins.",
               "bin of samples, weighted mean over bins", "lower", 0.0, 1.0, undefined="no probabilities are given"),
    )
}  # fmt: skip


def _labels(truth: Any, predicted: Any, weights: Any) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    one, other = np.asarray(truth).astype(str), np.asarray(predicted).astype(str)
    if one.ndim != 1 or one.shape != other.shape or not len(one):
        raise DataError(
            "true and predicted labels do not fit", expected="(sample,) each", got=f"{one.shape}, {other.shape}"
        )
    w = np.ones(len(one)) if weights is None else np.asarray(weights, dtype=np.float64)
    if w.shape != one.shape or (w < 0).any():
        raise DataError("the weights do not fit", expected=f"{len(one)} numbers from 0", got=str(w.shape))
    return one, other, w


def confusion(
    truth: Any, predicted: Any, *, classes: Sequence[str] | None = None, weights: Any = None
) -> Float[np.ndarray, "class other"]:
    """Return how many samples of each true class (row) are given each class (column), in the order of ``classes``.

    Raises
    ------
    DataError
        A label is not among ``classes``; by default they are all labels that occur, in alphabetical order.
    """
    one, other, w = _labels(truth, predicted, weights)
    names = np.unique(np.concatenate([one, other])) if classes is None else np.asarray([str(c) for c in classes])
    place = {name: i for i, name in enumerate(names)}
    unknown = sorted((set(one) | set(other)) - set(place))
    if unknown:
        raise DataError(f"label {str(unknown[0])!r} is none of the classes", expected=", ".join(map(str, names[:10])))
    table = np.zeros((len(names), len(names)))
    np.add.at(table, ([place[a] for a in one], [place[b] for b in other]), w)
    return table


def balanced_accuracy(truth: Any, predicted: Any, *, weights: Any = None) -> float:
    """Return the mean over classes that occur in ``truth`` of the share of their samples that are given them."""
    table = confusion(truth, predicted, weights=weights)
    total = table.sum(axis=1)
    there = total > 0
    return float((np.diag(table)[there] / total[there]).mean()) if there.any() else math.nan


def accuracy(truth: Any, predicted: Any, *, weights: Any = None) -> float:
    """Return the share of samples that are given their class."""
    one, other, w = _labels(truth, predicted, weights)
    return float(((one == other) * w).sum() / w.sum()) if w.sum() > 0 else math.nan


def macro_f1(truth: Any, predicted: Any, *, weights: Any = None) -> float:
    """Return the mean over classes, of those that occur or are given, of the harmonic mean of precision and recall."""
    table = confusion(truth, predicted, weights=weights)
    both = table.sum(axis=0) + table.sum(axis=1)
    there = both > 0
    return float((2 * np.diag(table)[there] / both[there]).mean()) if there.any() else math.nan


def _probabilities(truth: Any, probability: Any, classes: Sequence[str], weights: Any) -> tuple[np.ndarray, ...]:
    labels, _, w = _labels(truth, truth, weights)
    p = np.asarray(probability, dtype=np.float64)
    if p.shape != (len(labels), len(classes)):
        raise DataError("probabilities do not fit", expected=f"({len(labels)}, {len(classes)})", got=str(p.shape))
    if not np.isfinite(p).all() or (p < -1e-6).any() or (np.abs(p.sum(axis=1) - 1) > 1e-3).any():
        raise DataError("probabilities of a sample do not add up to 1, or are negative",
                        got=f"sums from {np.nanmin(p.sum(axis=1)):.4g} to {np.nanmax(p.sum(axis=1)):.4g}")  # fmt: skip
    place = {str(name): i for i, name in enumerate(classes)}
    unknown = sorted(set(labels) - set(place))
    if unknown:
        raise DataError(f"label {str(unknown[0])!r} has no column of probabilities", expected=", ".join(place))
    return labels, np.clip(p, 0.0, 1.0), np.array([place[one] for one in labels]), w


def log_losses(truth: Any, probability: Any, classes: Sequence[str], *, floor: float = 1e-6) -> np.ndarray:
    """Return float64 (sample,), minus the log probability of the right class, which is taken to be ``floor`` at least."""
    _, p, right, _ = _probabilities(truth, probability, classes, None)
    return -np.log(np.maximum(p[np.arange(len(right)), right], floor))


def log_loss(
    truth: Any, probability: Any, classes: Sequence[str], *, weights: Any = None, floor: float = 1e-6
) -> float:
    """Return the mean over samples of minus the log probability of the right class.

    Parameters
    ----------
    truth
        (sample,) labels.
    probability
        (sample, class), rows add up to 1.
    classes
        Names of its columns.
    weights
        (sample,), 1 by default.
    floor
        Smallest probability that is believed, so that one sure error does not decide.
    """
    w = np.ones(len(np.asarray(truth))) if weights is None else np.asarray(weights, dtype=np.float64)
    return float(np.average(log_losses(truth, probability, classes, floor=floor), weights=w))


def calibration_error(
    truth: Any, probability: Any, classes: Sequence[str], *, bins: int = 10, weights: Any = None
) -> float:
    """Return the expected calibration error of the predicted class, over ``bins`` equal bins of its probability.

    In each bin the mean probability of the predicted class is compared with how often it is right; the bins are weighted by
    their samples. (Naeini, Cooper and Hauskrecht, AAAI 2015.)
    """
    check_range(bins, name="bins", low=1, integer=True)
    _, p, right, w = _probabilities(truth, probability, classes, weights)
    best = p.argmax(axis=1)
    sure = p[np.arange(len(best)), best]
    own = np.minimum((sure * bins).astype(np.int64), bins - 1)
    gap = np.bincount(own, w * (sure - (best == right)), minlength=bins)
    return float(np.abs(gap).sum() / w.sum())
