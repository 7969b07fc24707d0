"""Which cells correlate best: all pairs compared for some thousand cells, and beyond only those that stand in the same region.

Standardised cells lie on a sphere, where the largest correlation is the smallest distance. Beyond 8,192 cells the sphere is cut
into regions of about 128 cells (k-means on leading directions), and the cells of a region are compared, on all genes, with those
of the regions around it, 4,096 cells at least: time and memory grow with the cells, not with their square.
"""

from typing import final

import numpy as np
from scipy import sparse
from sklearn.cluster import MiniBatchKMeans
from sklearn.utils.extmath import randomized_svd

from expressor.core.rng import child_seed, stream
from expressor.systems.diphw.equations import unit_length

EXACT_LIMIT = 8192
"""Cells up to which all are compared."""
_COMPARED = 4096
_REGION = 128
_DIRECTIONS = 50
_LEARNT_FROM = 20_000  # cells
_BLOCK = 512


def nearest(
    gamma: sparse.csr_matrix, neighbors: int, *, seed: int = 0, exact_limit: int = EXACT_LIMIT
) -> sparse.csr_matrix:
    """Return the absolute correlations of each cell with its ``neighbors`` nearest other cells, CSR (cell, cell).

    Parameters
    ----------
    gamma
        (cell, gene) expression.
    neighbors
        How many, at least 1 and fewer than cells.
    seed
        Of the regions.
    exact_limit
        Cells up to which all are compared. Beyond, cells are looked for where the correlation is positive and large.
    """
    n = gamma.shape[0]
    unit = standardised(gamma)
    found, values = Regions(unit, seed=seed, exact_limit=exact_limit).search(unit, neighbors, others=True)
    starts = np.arange(0, n * neighbors + 1, neighbors)
    network = sparse.csr_matrix((values.ravel().astype(np.float64), found.ravel(), starts), shape=(n, n))
    network.eliminate_zeros()
    network.sort_indices()
    return network


def mean_of_similar(new: sparse.csr_matrix, regions: "Regions", positions: np.ndarray, neighbors: int) -> np.ndarray:
    """Return for each new cell the mean position of the known cells that it correlates with best, weighed by the correlation.

    The direction is that of the mean position and the length the mean of the lengths: a mean of directions that differ is short,
    and would draw new cells to the middle. A cell without expression stands at 0.

    Parameters
    ----------
    new
        (cell, gene) expression.
    regions
        The known cells.
    positions
        (known cell, dim).
    neighbors
        How many are averaged, at least 1.
    """
    best, weight = regions.search(standardised(new), min(neighbors, len(positions)))
    weight = np.maximum(weight, 1e-6)
    length = (weight * np.linalg.norm(positions, axis=1)[best]).sum(axis=1) / weight.sum(axis=1)
    mean = unit_length((weight[:, :, None] * positions[best]).sum(axis=1)) * length[:, None]
    mean[new.getnnz(axis=1) == 0] = 0.0
    return mean


def standardised(gamma: sparse.csr_matrix) -> np.ndarray:
    """Return rows centred and at unit length, float32 (cell, gene), so that products are correlations; 0 for a constant row."""
    n_genes = gamma.shape[1]
    mean = np.asarray(gamma.mean(axis=1)).ravel()
    length = np.sqrt(np.maximum(np.asarray(gamma.multiply(gamma).sum(axis=1)).ravel() - n_genes * mean**2, 0.0))
    known = length > 1e-6 * np.maximum(mean, 1e-300)
    scale = np.where(known, 1 / np.where(known, length, 1.0), 0.0)
    unit = gamma.astype(np.float32)
    unit.data *= np.repeat(scale, np.diff(unit.indptr)).astype(np.float32)
    found = unit.toarray()
    found -= (scale * mean).astype(np.float32)[:, None]
    return found


@final
class Regions:
    """Cells in regions of the sphere, to be searched for those that correlate best with given ones.

    Parameters
    ----------
    unit
        float32 (cell, gene), see :func:`standardised`.
    seed
        Of the regions.
    exact_limit
        Cells up to which there is one region, so that all are compared.
    """

    def __init__(self, unit: np.ndarray, *, seed: int, exact_limit: int = EXACT_LIMIT) -> None:
        self.unit = unit
        n = len(unit)
        if n <= exact_limit:
            self._directions = np.zeros((unit.shape[1], 1), dtype=np.float32)
            self._centres, region = np.zeros((1, 1), dtype=np.float32), np.zeros(n, dtype=np.int64)
        else:
            some = np.sort(stream(seed, "cells that shape regions").permutation(n)[:_LEARNT_FROM])
            number = child_seed(seed, "regions") % 2**32
            dim = min(_DIRECTIONS, *unit[some].shape)
            _, _, V = randomized_svd(unit[some], dim, n_iter=2, random_state=number)
            self._directions = np.ascontiguousarray(V.T)
            learnt = unit[some] @ self._directions
            made = min(-(-n // _REGION), len(some) // 8)
            clusters = MiniBatchKMeans(made, batch_size=4096, max_iter=5, n_init=1, random_state=number)
            self._centres = clusters.fit(learnt).cluster_centers_.astype(np.float32)
            region = self._region_of(unit)
        order = np.argsort(region, kind="stable")
        ends = np.searchsorted(region[order], np.arange(len(self._centres) + 1))
        self._members = [order[a:b] for a, b in zip(ends[:-1], ends[1:])]

    def search(self, unit: np.ndarray, k: int, *, others: bool = False) -> tuple[np.ndarray, np.ndarray]:
        """Return which k known cells correlate best with each of ``unit``, (cell, k), and the correlations.

        With ``others`` the cells are the known ones, none is near itself, and correlations are absolute.
        """
        region = self._region_of(unit)
        found, values = np.zeros((len(unit), k), dtype=np.int64), np.zeros((len(unit), k), dtype=np.float32)
        for one in np.unique(region).tolist():
            asked, known = np.flatnonzero(region == one), self._around(one, k + 1)
            against = self.unit if len(known) == len(self.unit) else self.unit[known]
            for start in range(0, len(asked), _BLOCK):
                rows = asked[start : start + _BLOCK]
                near = unit[rows] @ against.T
                if others:
                    near = np.abs(near)
                    near[np.arange(len(rows)), np.searchsorted(known, rows)] = -1.0
                best = np.argpartition(-near, k - 1, axis=1)[:, :k]
                found[rows] = known[best]
                values[rows] = np.clip(np.take_along_axis(near, best, axis=1), 0.0, 1.0)
        return found, values

    def _region_of(self, unit: np.ndarray) -> np.ndarray:
        if len(self._centres) == 1:
            return np.zeros(len(unit), dtype=np.int64)
        half = (self._centres**2).sum(axis=1) / 2
        parts = [unit[at : at + 4096] @ self._directions @ self._centres.T - half for at in range(0, len(unit), 4096)]
        return np.concatenate([one.argmax(axis=1) for one in parts])

    def _around(self, region: int, least: int) -> np.ndarray:
        """Return the cells of the regions nearest to one, itself the first, ascending: ``least`` and 4,096 at least."""
        distance = ((self._centres - self._centres[region]) ** 2).sum(axis=1)
        distance[region] = -1.0
        parts, n = [], 0
        for one in np.argsort(distance, kind="stable"):
            parts.append(self._members[one])
            n += len(parts[-1])
            if n >= max(_COMPARED, least):
                break
        return np.sort(np.concatenate(parts))
