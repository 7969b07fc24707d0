"""Normalisation of columns over rows: scaled robust sigmoid and its relatives (Fulcher and Fornito, PNAS 113, 1435, 2016)."""

from collections.abc import Callable

import numpy as np

from expressor.core.errors import check_choice

NORMALISATIONS = ("srs", "robust_sigmoid", "sigmoid", "scaled_sigmoid", "zscore", "minmax", "center", "none")
"""``srs``: robust sigmoid, scaled to 0 to 1; ``robust_sigmoid``: logistic of the distance from the median in units of the
interquartile range / 1.349; ``sigmoid``: of that from the mean in standard deviations; ``scaled_sigmoid``: that, scaled;
``zscore``; ``minmax``: scaled to 0 to 1; ``center``: minus the mean; ``none``."""

_IQR_OF_NORMAL = 1.3489795003921634


def normalise(values: np.ndarray, method: str) -> np.ndarray:
    """Return columns normalised over the rows, float64 of the same shape; NaN in a column without any spread.

    Parameters
    ----------
    values
        (row, column) finite numbers.
    method
        One of :data:`NORMALISATIONS`.
    """
    check_choice(method, NORMALISATIONS, name="normalisation")
    with np.errstate(divide="ignore", invalid="ignore"):
        normed = _METHODS[method](np.asarray(values, dtype=np.float64))
    if method not in ("center", "none"):
        normed[:, ~np.isfinite(normed).all(axis=0)] = np.nan
    return normed


def _logistic(values: np.ndarray) -> np.ndarray:
    with np.errstate(over="ignore"):
        return 1.0 / (1.0 + np.exp(-values))


def _zscore(values: np.ndarray) -> np.ndarray:
    return (values - values.mean(axis=0)) / values.std(axis=0, ddof=1)


def _scale(values: np.ndarray) -> np.ndarray:
    low = values.min(axis=0)
    return (values - low) / (values.max(axis=0) - low)


def _robust(values: np.ndarray) -> np.ndarray:
    low, middle, high = np.percentile(values, [25, 50, 75], axis=0)
    return _logistic((values - middle) / ((high - low) / _IQR_OF_NORMAL))


_METHODS: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "srs": lambda values: _scale(_robust(values)),
    "robust_sigmoid": _robust,
    "sigmoid": lambda values: _logistic(_zscore(values)),
    "scaled_sigmoid": lambda values: _scale(_logistic(_zscore(values))),
    "zscore": _zscore,
    "minmax": _scale,
    "center": lambda values: values - values.mean(axis=0),
    "none": lambda values: values.copy(),
}
