"""How well a map meets what was measured at samples: sums over groups of samples from which resamples are judged; structure.

Nothing here knows of voxels without a measurement: a volume's background, where both maps are 0, would raise any correlation.
"""

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float
from scipy.spatial import cKDTree
from scipy.spatial.distance import pdist
from scipy.stats import rankdata

from expressor.core.errors import DataError, check_range
from expressor.metrics.checks import check_pair
from expressor.metrics.records import Metric

_GENES = "gene over samples, mean over genes"

RECORDS: dict[str, Metric] = {
    one.name: one
    for one in (
        Metric("map_r2", "R2", "Share of a gene's variance over samples that the map explains.", _GENES, "higher", -math.inf, 1.0,
               undefined="the gene is constant as measured"),
        Metric("map_r", "r", "Pearson correlation over samples.", _GENES, "higher", -1.0, 1.0,
               undefined="the gene is constant, as measured or in the map"),
        Metric("map_spearman", "Spearman", "Rank correlation over samples.", _GENES, "higher", -1.0, 1.0,
               undefined="the gene is constant, as measured or in the map"),
        Metric("map_mse", "MSE", "Mean squared error over samples.", _GENES, "lower", 0.0, math.inf),
        Metric("map_coverage", "coverage", "Share of measured values inside their 90 % interval.", _GENES, "nominal", 0.0, 1.0,
               undefined="no intervals are given"),
        Metric("map_coverage50", "coverage of 50 %", "Share of measured values inside their 50 % interval.", _GENES, "nominal",
               0.0, 1.0, undefined="no intervals are given"),
        Metric("map_moran", "Moran's I, bias", "Moran's I of the map minus that of what was measured, at the same samples; above "
               "0 where the map is smoother.", _GENES, "nominal", -2.0, 2.0,
               undefined="the gene is constant, as measured or in the map"),
        Metric("map_variogram", "variogram, ratio", "Semivariance of the map over that of what was measured, mean over distances; "
               "below 1 where the map is smoother.", _GENES, "one", 0.0, math.inf, undefined="the gene is constant as measured"),
        Metric("volume_r", "r with background (misleading)", "Pearson correlation over all voxels of a volume, the background "
               "included, which is 0 in both maps: as published, and no measure of a map.", "gene over voxels, mean over genes",
               "higher", -1.0, 1.0, undefined="a map is constant"),
        Metric("volume_mse", "MSE with background (misleading)", "Mean squared error over all voxels of a volume, the background "
               "included: as published, and no measure of a map.", "gene over voxels, mean over genes", "lower", 0.0, math.inf),
    )
}  # fmt: skip


@dataclass(frozen=True, eq=False)
class MapSums:
    """Sums over each group of samples, from which every resample of the groups is judged without looking at samples again.

    Attributes
    ----------
    groups
        Names, (group,).
    n
        float64 (group,): samples.
    t, tt, f, ff, tf
        float64 (group, gene): sums of what was measured, of the map, of their squares and products.
    """

    groups: np.ndarray
    n: np.ndarray
    t: np.ndarray
    tt: np.ndarray
    f: np.ndarray
    ff: np.ndarray
    tf: np.ndarray

    @classmethod
    def of(cls, measured: Any, predicted: Any, groups: Any) -> "MapSums":
        """Add up ``measured`` and ``predicted``, (sample, gene) on one scale, over ``groups``, (sample,)."""
        t, f = check_pair(measured, predicted)
        names, place = np.unique(np.asarray(groups).astype(str), return_inverse=True)
        if len(place) != len(t):
            raise DataError("the groups do not fit the samples", expected=len(t), got=len(place))

        def add(values: np.ndarray) -> np.ndarray:
            total = np.zeros((len(names), values.shape[1]))
            np.add.at(total, place, values)
            return total

        shift = t.mean(axis=0)  # so that squares lose no digits
        t, f = t - shift, f - shift
        n = np.bincount(place, minlength=len(names)).astype(np.float64)
        return cls(names, n, add(t), add(t * t), add(f), add(f * f), add(t * f))

    def r2(self, weights: Float[np.ndarray, "draw group"]) -> Float[np.ndarray, " draw"]:
        """Return R2 of each resample, mean over the genes that vary in it."""
        n = (weights @ self.n)[:, None]
        with np.errstate(invalid="ignore", divide="ignore"):
            total = weights @ self.tt - (weights @ self.t) ** 2 / n
            error = weights @ (self.tt - 2 * self.tf + self.ff)
            return _mean_of_known(np.where(total > 1e-9 * n, 1 - error / total, np.nan))

    def r(self, weights: Float[np.ndarray, "draw group"]) -> Float[np.ndarray, " draw"]:
        """Return Pearson's correlation of each resample, mean over the genes that vary in it."""
        n = (weights @ self.n)[:, None]
        with np.errstate(invalid="ignore", divide="ignore"):
            mt, mf = weights @ self.t / n, weights @ self.f / n
            cross = weights @ self.tf / n - mt * mf
            vt, vf = weights @ self.tt / n - mt**2, weights @ self.ff / n - mf**2
            known = (vt > 1e-12) & (vf > 1e-12)
            return _mean_of_known(np.where(known, cross / np.sqrt(np.where(known, vt * vf, 1.0)), np.nan))

    def mse(self, weights: Float[np.ndarray, "draw group"]) -> Float[np.ndarray, " draw"]:
        """Return the mean squared error of each resample."""
        error = (self.tt - 2 * self.tf + self.ff).mean(axis=1)
        return np.asarray(weights @ error / (weights @ self.n))


def rank_correlation(measured: Any, predicted: Any) -> Float[np.ndarray, " gene"]:
    """Return Spearman's correlation of each gene over samples; NaN where it is constant, as measured or in the map."""
    t, f = check_pair(measured, predicted)
    ranks, others = rankdata(t, axis=0), rankdata(f, axis=0)
    ranks, others = ranks - ranks.mean(axis=0), others - others.mean(axis=0)
    size = np.sqrt((ranks**2).sum(axis=0) * (others**2).sum(axis=0))
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.where(size > 0, (ranks * others).sum(axis=0) / size, np.nan)


def moran_at(values: Any, places: Any, *, n_neighbors: int = 6) -> Float[np.ndarray, " gene"]:
    """Return Moran's I of each gene over places of any dimension, the nearest neighbours weighed alike; NaN for a constant gene.

    Parameters
    ----------
    values
        (sample, gene).
    places
        (sample, axis).
    n_neighbors
        Neighbours, at least 1 and fewer than the samples.
    """
    check_range(n_neighbors, name="n_neighbors", low=1, integer=True)
    x, places = np.asarray(values, dtype=np.float64), np.asarray(places, dtype=np.float64)
    if len(x) <= n_neighbors:
        return np.full(x.shape[1], np.nan)
    near = cKDTree(places).query(places, k=n_neighbors + 1)[1]
    # Of places that coincide any may come first, so that a sample is left out by its number.
    rows = np.arange(len(x))[:, None]
    near = np.take_along_axis(near, np.argsort(near == rows, axis=1, kind="stable"), axis=1)[:, :n_neighbors]
    x = x - x.mean(axis=0)
    total = (x**2).sum(axis=0)
    lag = x[near].mean(axis=1)
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.where(total > 1e-9 * len(x), (x * lag).sum(axis=0) / total, np.nan)


def semivariogram(values: Any, places: Any, *, n_bins: int = 10) -> Float[np.ndarray, "bin gene"]:
    """Return half the mean squared difference of pairs of samples, by their distance.

    Parameters
    ----------
    values
        (sample, gene).
    places
        (sample, axis).
    n_bins
        Bins of equal width, from 0 to half of the largest distance; NaN where no pair is in a bin.
    """
    check_range(n_bins, name="n_bins", low=1, integer=True)
    x, distance = np.asarray(values, dtype=np.float64), pdist(np.asarray(places, dtype=np.float64))
    if not len(distance) or distance.max() == 0:
        return np.full((n_bins, x.shape[1]), np.nan)
    bins = np.floor(distance / (distance.max() / 2) * n_bins).astype(np.int64)
    kept = np.flatnonzero(bins < n_bins)
    bins, count = bins[kept], np.bincount(bins[kept], minlength=n_bins)
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.stack(
            [
                np.bincount(bins, pdist(one[:, None], "sqeuclidean")[kept], minlength=n_bins) / (2 * count)
                for one in x.T
            ],
            axis=1,
        )


def variogram_ratio(measured: Any, predicted: Any, places: Any, *, n_bins: int = 10) -> Float[np.ndarray, " gene"]:
    """Return the semivariance of the map over that of what was measured, mean over distances: below 1 for a smoother map."""
    t, f = check_pair(measured, predicted)
    real, made = (semivariogram(one, places, n_bins=n_bins) for one in (t, f))
    with np.errstate(invalid="ignore", divide="ignore"):
        ratio = np.where(real > 0, made / real, np.nan)
    known = np.isfinite(ratio)
    return _mean_of_known(np.where(known, ratio, np.nan).T)


def _mean_of_known(values: np.ndarray) -> np.ndarray:
    """Mean over the last axis, of what is defined."""
    known = np.isfinite(values)
    with np.errstate(invalid="ignore"):
        return np.where(known, values, 0.0).sum(axis=-1) / known.sum(axis=-1)
