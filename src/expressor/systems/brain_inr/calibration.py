"""How far to trust a map: errors on samples that were held out, by gene and by distance to the nearest sample."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from sklearn.isotonic import IsotonicRegression

from expressor.systems.brain_inr.equations import conformal_quantile

LEVELS = np.r_[np.arange(50, 100) / 100, 0.995]
"""Coverages that are kept."""
ONE_SD = 0.6827

_BINS = 12  # of distance


@dataclass(frozen=True, eq=False)
class Calibration:
    """Quantiles of held-out errors.

    Attributes
    ----------
    distance, width
        float64 (level,): how large errors are at a distance in mm from the nearest sample, 1 on the mean; never falling. Of no
        length where the field has a standard deviation of its own.
    radius
        float64 (level, gene): quantiles of the errors divided by that width.
    """

    distance: np.ndarray
    width: np.ndarray
    radius: np.ndarray

    @classmethod
    def of(cls, error: np.ndarray, distance: np.ndarray, own: np.ndarray | None) -> "Calibration":
        """Learn from errors of held-out samples.

        Parameters
        ----------
        error
            float64 (sample, gene), absolute, in standard scores.
        distance
            (sample,) to the nearest sample that was not held out.
        own
            (sample,) the field's own standard deviation, if it has one.
        """
        knots, width = np.empty(0), np.empty(0)
        if own is None:
            knots, width = _by_distance(error.mean(axis=1), distance)
        scale = np.interp(distance, knots, width) if own is None else own
        scores = error / scale[:, None]
        return cls(knots, width, np.stack([conformal_quantile(scores, float(one)) for one in LEVELS]))

    def radius_at(self, coverage: float, distance: np.ndarray, own: np.ndarray | None, genes: np.ndarray) -> np.ndarray:
        """Return half the width of intervals, float64 (point, gene); the next kept coverage above is used."""
        row = min(int(np.searchsorted(LEVELS, coverage - 1e-9)), len(LEVELS) - 1)
        scale = np.interp(distance, self.distance, self.width) if own is None else own
        return scale[:, None] * self.radius[row, genes]

    def arrays(self) -> dict[str, np.ndarray]:
        """Return the arrays by name; :meth:`from_arrays` is the way back."""
        return {"distance": self.distance, "width": self.width, "radius": self.radius}

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, Any]) -> "Calibration":
        """Rebuild from what :meth:`arrays` returned."""
        return cls(arrays["distance"], arrays["width"], arrays["radius"])


def _by_distance(error: np.ndarray, distance: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return knots of distance and the mean error there, made monotone, as shares of the mean."""
    bins = np.array_split(np.argsort(distance, kind="stable"), min(_BINS, max(1, len(error) // 5)))
    knots = np.array([distance[one].mean() for one in bins])
    mean = np.array([error[one].mean() for one in bins])
    size = np.array([len(one) for one in bins])
    smooth = IsotonicRegression().fit_transform(knots, mean, sample_weight=size)
    return knots, np.maximum(smooth / max(float(error.mean()), 1e-12), 1e-3)
