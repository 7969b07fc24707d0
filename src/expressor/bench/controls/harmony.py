"""Harmony: batches of cells brought together by soft clusters that are made to hold all of them.

Written from the equations of Korsunsky et al., Nature Methods 16, 1289 (2019), Methods. The one addition is 1 to observed and
expected numbers of cells in the penalty, without which a batch that a cluster lacks would have an infinite one.
"""

import numpy as np
from sklearn.cluster import KMeans

from expressor.core.errors import DataError, check_range
from expressor.core.rng import child_seed, stream

ROUNDS, STEPS = 10, 20
"""Most corrections, and most steps of clustering before each."""


def harmonise(
    cells: np.ndarray,
    batches: np.ndarray,
    *,
    seed: int,
    clusters: int | None = None,
    diversity: float = 2.0,
    width: float = 0.1,
    ridge: float = 1.0,
) -> np.ndarray:
    """Return cells from which the batches' shifts are taken.

    Parameters
    ----------
    cells
        (cell, dim), such as principal components.
    batches
        (cell,) what each was measured with.
    seed
        Of the first centroids and of the order of cells.
    clusters
        Number of soft clusters, >= 1; by default one for thirty cells, at most 100.
    diversity
        Weight of the penalty on clusters that hold a batch too often, >= 0 (theta in the paper).
    width
        Softness of the clusters, > 0 (sigma).
    ridge
        Penalty on a batch's shift in a cluster, >= 0 (lambda).

    Returns
    -------
    float64 (cell, dim).

    Raises
    ------
    DataError
        A setting is out of its range, or the lengths differ.
    """
    Z = np.asarray(cells, dtype=np.float64)
    codes = np.unique(np.asarray(batches).astype(str), return_inverse=True)[1]
    if Z.ndim != 2 or len(codes) != len(Z) or not len(Z):
        raise DataError(
            "cells and batches do not fit", expected="(cell, dim) and (cell,)", got=f"{Z.shape}, {codes.shape}"
        )
    for name, value in (("diversity", diversity), ("ridge", ridge)):
        check_range(value, name=name, low=0)
    check_range(width, name="width", low=0, open_low=True)
    K = max(1, min(100, round(len(Z) / 30))) if clusters is None else clusters
    check_range(K, name="clusters", low=1, high=len(Z), integer=True)

    phi = np.eye(codes.max() + 1)[codes]
    X = unit(Z)
    Y = unit(KMeans(K, n_init=10, random_state=child_seed(seed, "centroids") % 2**31).fit(X).cluster_centers_)
    R = assign(X @ Y.T, width)
    corrected, last = Z, np.inf
    for turn in range(ROUNDS):
        R, objective = _cluster(X, R, phi, diversity=diversity, width=width, rng=stream(seed, "cells", turn))
        corrected = correct(Z, R, phi, ridge=ridge)
        X = unit(corrected)
        if abs(last - objective) < 1e-4 * abs(last):
            break
        last = objective
    return corrected


def unit(X: np.ndarray) -> np.ndarray:
    """Return rows of length 1; a row of zeros stays."""
    length = np.linalg.norm(X, axis=1, keepdims=True)
    return np.asarray(X / np.where(length > 0, length, 1.0))


def assign(cosines: np.ndarray, width: float, penalty: np.ndarray | None = None) -> np.ndarray:
    """Return the shares of clusters, (cell, cluster): exp(-2 (1 - cosine) / width) times the penalty, over their sum."""
    score = 2 * (cosines - cosines.max(axis=1, keepdims=True)) / width
    raw = np.exp(score) if penalty is None else np.exp(score) * penalty
    return np.asarray(raw / raw.sum(axis=1, keepdims=True))


def _cluster(
    X: np.ndarray, R: np.ndarray, phi: np.ndarray, *, diversity: float, width: float, rng: np.random.Generator
) -> tuple[np.ndarray, float]:
    """Move centroids and shares in turn until the objective rests; shares twentieth by twentieth of the cells."""
    share = phi.mean(axis=0)
    R, last = R.copy(), np.inf
    observed, expected = R.T @ phi, np.outer(R.sum(axis=0), share)
    objective = np.inf
    for _ in range(STEPS):
        cosines = X @ unit(R.T @ X).T
        for part in np.array_split(rng.permutation(len(X)), min(20, len(X))):
            observed -= R[part].T @ phi[part]
            expected -= np.outer(R[part].sum(axis=0), share)
            penalty = ((expected + 1) / (observed + 1)) ** diversity
            R[part] = assign(cosines[part], width, phi[part] @ penalty.T)
            observed += R[part].T @ phi[part]
            expected += np.outer(R[part].sum(axis=0), share)
        objective = _objective(R, cosines, phi, observed, expected, diversity, width)
        if abs(last - objective) < 1e-5 * abs(last):
            break
        last = objective
    return R, objective


def _objective(
    R: np.ndarray, cosines: np.ndarray, phi: np.ndarray, observed: np.ndarray, expected: np.ndarray,
    diversity: float, width: float,
) -> float:  # fmt: skip
    """Distances within clusters, plus width times negative entropy, plus width times diversity times the penalty."""
    entropy = np.sum(R * np.log(np.where(R > 0, R, 1.0)))
    mixed = np.sum(R * (phi @ np.log((observed + 1) / (expected + 1)).T))
    return float(np.sum(R * 2 * (1 - cosines)) + width * entropy + width * diversity * mixed)


def correct(Z: np.ndarray, R: np.ndarray, phi: np.ndarray, *, ridge: float) -> np.ndarray:
    """Return cells less their batches' shifts: per cluster a ridge regression on the batch, weighted by the shares.

    The intercept is not penalised and stays; the shifts of the clusters are taken in proportion to the shares.
    """
    design = np.column_stack([np.ones(len(Z)), phi])
    penalty = np.diag([0.0, *[ridge] * phi.shape[1]])
    found = np.array(Z)
    for share in R.T:
        weighted = design * share[:, None]
        gram = weighted.T @ design + penalty
        shift = np.linalg.lstsq(gram, weighted.T @ Z, rcond=None)[0]
        shift[0] = 0.0
        found -= weighted @ shift
    return found
