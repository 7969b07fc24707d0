"""Surrogates of a map that are as smooth in space as the map itself and otherwise random.

Two smooth maps that have nothing to do with each other correlate far more than two of independent points. What a correlation is
worth is seen against surrogates of one of the maps that keep its smoothness. Two ways to make them are here, for places in two or
three dimensions, or any distances between points. Both are written from published descriptions of the methods.

Moran spectral randomisation (Wagner and Dray, Methods in Ecology and Evolution 6 (2015) 1169) writes the map in the eigenvectors
v_k of the centred matrix of inverse distances, x = mean + sum_k c_k v_k, and draws the signs of the c_k (``"singleton"``), or turns
pairs of neighbouring c_k by a random angle (``"pair"``). Mean and variance stay exactly; with signs, so do the power of each v_k
and Moran's I.

Variogram matching (Burt et al., NeuroImage 220 (2020) 117038) shuffles the map, smooths it over the k nearest points with weights
exp(-d / d_k), and mixes it with white noise, sqrt(beta) smoothed + sqrt(alpha) noise, where the variogram of the map is
regressed on that of the smoothed one, gamma = beta gamma_smoothed + alpha. Of several widths, that with the least squares is taken.
Two things are ours. Slope and intercept are held at 0 or above, where the method takes absolute values. And a point counts among
its own neighbours, of which as few as 3 % are tried: without, surrogates of 90 places in a brain were rougher than the map at short
distances and smoother at long ones.
"""

from typing import Any

import numpy as np
from jaxtyping import Float
from scipy import sparse

from expressor.core.errors import DataError, check_choice, check_range

NULLS = ("moran", "variogram")
PROCEDURES = ("singleton", "pair")
MAX_POINTS = 5000
"""Points up to which all distances are held in memory."""

_SHARES = (0.03, 0.05, *np.arange(1, 10) / 10)  # of the neighbours, over which a shuffled map is smoothed
_NEIGHBOURS = 1000
_BINS = 25
_REACH = 25.0  # percentile of the distances up to which variograms are compared
_SAMPLED = 400  # points among which the variogram is taken
_SHARP = 2.68  # of the variogram's Gaussian kernel, as Viladomat et al., Biometrics 70 (2014) 409


def moran_surrogates(
    values: Any, distances: Any, *, n: int, rng: np.random.Generator, procedure: str = "singleton"
) -> Float[np.ndarray, "draw point"]:
    """Return surrogates by Moran spectral randomisation.

    Parameters
    ----------
    values
        (point,) finite, not constant.
    distances
        (point, point): symmetric, above 0 between points; see :func:`distances_of`.
    n
        Number of surrogates, at least 1.
    rng
        Source of the draws.
    procedure
        ``"singleton"`` keeps Moran's I and knows 2^(points - 1) surrogates; ``"pair"`` keeps it nearly and knows infinitely many.
    """
    x, d = _checked(values, distances)
    check_range(n, name="n", low=1, integer=True)
    check_choice(procedure, PROCEDURES, name="procedure")
    vectors = moran_vectors(d)
    power = vectors.T @ (x - x.mean())
    if procedure == "singleton":
        power = power * rng.choice((-1.0, 1.0), size=(n, len(power)))
    else:
        even = len(power) // 2 * 2
        size, angle = np.hypot(power[:even:2], power[1:even:2]), rng.uniform(0, 2 * np.pi, size=(n, even // 2))
        turned = np.stack([size * np.cos(angle), size * np.sin(angle)], axis=2).reshape(n, even)
        alone = power[even:] * rng.choice((-1.0, 1.0), size=(n, len(power) - even))
        power = np.concatenate([turned, alone], axis=1)
    return x.mean() + power @ vectors.T


def moran_vectors(distances: Any) -> Float[np.ndarray, "point dim"]:
    """Return the eigenvectors of the centred matrix of inverse distances, but the constant one, by falling eigenvalue.

    They are orthonormal and sum to 0; the first are the smoothest.
    """
    d = np.asarray(distances, dtype=np.float64)
    weights = _inverse(d)
    centred = weights - weights.mean(axis=0) - weights.mean(axis=1)[:, None] + weights.mean()
    # The constant vector gets a value below all others, so that it is the first to be found.
    centred -= 2 * np.abs(weights).sum(axis=1).max() / len(d)
    return np.linalg.eigh(centred)[1][:, :0:-1]


def moran_index(values: Any, distances: Any) -> Float[np.ndarray, " draw"]:
    """Return Moran's I of maps (draw, point) with inverse distances as weights."""
    maps = np.atleast_2d(np.asarray(values, dtype=np.float64))
    weights = _inverse(np.asarray(distances, dtype=np.float64))
    centred = maps - maps.mean(axis=1, keepdims=True)
    return (
        maps.shape[1] / weights.sum() * np.einsum("di,ij,dj->d", centred, weights, centred, optimize=True)
        / np.square(centred).sum(axis=1)
    )  # fmt: skip


def variogram_surrogates(
    values: Any, distances: Any, *, n: int, rng: np.random.Generator, keep_values: bool = False
) -> Float[np.ndarray, "draw point"]:
    """Return surrogates by variogram matching.

    Parameters
    ----------
    values, distances, n, rng
        As for :func:`moran_surrogates`.
    keep_values
        Give the surrogates the map's own values by rank, so that their distribution is the map's.
    """
    x, d = _checked(values, distances)
    check_range(n, name="n", low=1, integer=True)
    mean = x.mean()
    shuffled = rng.permuted(np.tile(x - mean, (n, 1)), axis=1).T
    pairs = _Pairs(d, rng)
    wanted = pairs.variogram(x[:, None])
    best, made = np.full(n, np.inf), np.empty_like(shuffled)
    slope, level = np.empty(n), np.empty(n)
    order, k_most = np.argsort(d, axis=1), min(len(x), _NEIGHBOURS)
    for share in _SHARES:
        smoothed = _smoother(d, order, max(2, round(share * k_most))) @ shuffled
        found = pairs.variogram(smoothed)
        beta, alpha, error = _regressed(wanted, found)
        better = error < best
        made[:, better] = smoothed[:, better]
        best[better], slope[better], level[better] = error[better], beta[better], alpha[better]
    noise = rng.normal(size=(n, len(x)))
    maps = mean + np.sqrt(slope)[:, None] * made.T + np.sqrt(level)[:, None] * noise
    return np.sort(x)[np.argsort(np.argsort(maps, axis=1), axis=1)] if keep_values else maps


def variogram(values: Any, distances: Any) -> tuple[Float[np.ndarray, " step"], Float[np.ndarray, "draw step"]]:
    """Return distances and, for maps (draw, point), half the mean squared difference of points about that far apart.

    Distances reach up to the 25th percentile of all pairs; a Gaussian kernel of about a step's width takes the mean.
    """
    maps = np.atleast_2d(np.asarray(values, dtype=np.float64))
    pairs = _Pairs(np.asarray(distances, dtype=np.float64), None)
    return pairs.steps, pairs.variogram(maps.T).T


def distances_of(places: Any) -> Float[np.ndarray, "point other"]:
    """Return the straight distances between places (point, axis), at most :data:`MAX_POINTS`."""
    places = np.asarray(places, dtype=np.float64)
    if places.ndim != 2 or not np.isfinite(places).all():
        raise DataError("places are not finite numbers (point, axis)", got=str(places.shape))
    if len(places) > MAX_POINTS:
        raise DataError(
            "there are too many points for all their distances", expected=f"at most {MAX_POINTS:,}", got=f"{len(places):,}",
            fix="Use means per parcel, or the voxels of a coarser grid, such as expressor.data.brain_grid(resolution=8).",
        )  # fmt: skip
    return np.sqrt(np.square(places[:, None] - places[None]).sum(axis=2))


class _Pairs:
    """Pairs of points that are not far apart, and the kernel that takes means over them."""

    def __init__(self, distances: np.ndarray, rng: np.random.Generator | None) -> None:
        n = len(distances)
        rows = np.arange(n) if rng is None or n <= _SAMPLED else np.sort(rng.choice(n, _SAMPLED, replace=False))
        i, j = np.triu_indices(len(rows), k=1)
        self.i, self.j = rows[i], rows[j]
        apart = distances[self.i, self.j]
        near = apart <= np.percentile(apart, _REACH)
        self.i, self.j, apart = self.i[near], self.j[near], apart[near]
        self.steps = np.linspace(apart.min(), apart.max(), _BINS)
        width = 3 * (self.steps[1] - self.steps[0])
        scaled = _SHARP * (self.steps[:, None] - apart) / width if width > 0 else np.zeros((_BINS, len(apart)))
        kernel = np.exp(-np.square(scaled) / 2)
        self.kernel = kernel / kernel.sum(axis=1, keepdims=True)

    def variogram(self, maps: np.ndarray) -> np.ndarray:
        """Return (step, draw) of maps (point, draw)."""
        parts = []
        for start in range(0, maps.shape[1], 200):
            some = maps[:, start : start + 200]
            parts.append(self.kernel @ (np.square(some[self.i] - some[self.j]) / 2))
        return np.concatenate(parts, axis=1)


def _smoother(distances: np.ndarray, order: np.ndarray, k: int) -> sparse.csr_matrix:
    """Return the matrix that takes means over the ``k`` nearest points with weights exp(-d / d_k)."""
    n = len(distances)
    near = order[:, :k]
    away = np.take_along_axis(distances, near, axis=1)
    weight = np.exp(-away / away[:, -1:])
    weight /= weight.sum(axis=1, keepdims=True)
    return sparse.csr_matrix((weight.ravel(), near.ravel(), np.arange(0, n * k + 1, k)), shape=(n, n))


def _regressed(wanted: np.ndarray, found: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Regress (step, 1) on each column of (step, draw), slope and intercept at least 0; and squared error, each (draw,)."""
    mean, middle = wanted.mean(), found.mean(axis=0)
    spread, size = np.square(found - middle).sum(axis=0), np.square(found).sum(axis=0)
    cross = ((found - middle) * (wanted - mean)).sum(axis=0)
    beta = np.divide(cross, spread, out=np.zeros_like(cross), where=spread > 0)
    through_zero = np.divide((wanted * found).sum(axis=0), size, out=np.zeros_like(cross), where=size > 0)
    beta = np.where(mean - beta * middle < 0, through_zero, np.maximum(beta, 0))
    alpha = np.maximum(mean - beta * middle, 0)
    alpha[beta == through_zero] = 0
    return beta, alpha, np.square(wanted - alpha - beta * found).sum(axis=0)


def _inverse(distances: np.ndarray) -> np.ndarray:
    """Return 1 / distance off the diagonal and 0 on it."""
    apart = distances + np.diag(np.full(len(distances), np.inf))
    return 1 / apart


def _checked(values: Any, distances: Any) -> tuple[np.ndarray, np.ndarray]:
    x, d = np.asarray(values, dtype=np.float64), np.asarray(distances, dtype=np.float64)
    if x.ndim != 1 or d.shape != (len(x), len(x)):
        raise DataError(
            "map and distances do not fit", expected="(point,) and (point, point)", got=f"{x.shape} and {d.shape}"
        )
    if len(x) < 10:
        raise DataError("a map of so few points has no surrogates", expected="at least 10", got=len(x))
    if not np.isfinite(x).all() or np.ptp(x) == 0:
        raise DataError("the map is constant or not finite", fix="Leave out points without a value.")
    if not np.isfinite(d).all() or not np.allclose(d, d.T) or (d[~np.eye(len(d), dtype=bool)] <= 0).any():
        raise DataError(
            "distances are not symmetric, or not above 0 between points", fix="Join points that lie at the same place."
        )
    return x, d
