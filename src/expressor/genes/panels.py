"""Scores by which genes are ranked and panels chosen: one float64 per gene from an (observation, gene) matrix.

All functions take CSR, CSC, another SciPy sparse matrix or a dense array, give the same bits for each, and never make a
sparse matrix dense. A gene for which a score is not defined (a constant gene has no correlation) gets NaN, which
:func:`rank_genes` puts last. The order of the genes does not matter to any of them.
"""

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import numpy as np
import pandas as pd
from scipy import sparse
from scipy.spatial import cKDTree

from expressor.core.errors import DataError, check_choice, check_range

HVG_BINS = 20
_BLOCK = 1024  # genes handled at once where an intermediate is larger than the input


def hvg_scores(X: Any) -> np.ndarray:
    """Score genes by the normalised dispersion of Seurat, as scanpy's ``highly_variable_genes`` gives by default.

    Log dispersions (variance over mean of the expm1 of the values) are standardised inside 20 bins of equal width in log1p
    of the mean. A gene alone in its bin gets 1; a gene without variation gets NaN.

    Parameters
    ----------
    X
        (observation, gene), values on a log1p scale, finite and not negative.

    Returns
    -------
    numpy.ndarray
        float64 (gene,), scanpy's column ``dispersions_norm``.

    Raises
    ------
    DataError
        Fewer than two observations, or values that are negative or not finite.

    Notes
    -----
    Satija et al., Nature Biotechnology 33 (2015) 495; flavour ``"seurat"`` of scanpy.
    """
    columns = _columns(X, minimum=0.0)
    n = columns.shape[0]
    if n < 2:
        raise DataError("a dispersion needs at least two observations", got=n)
    columns = sparse.csc_matrix((np.expm1(columns.data), columns.indices, columns.indptr), shape=columns.shape)
    mean = _sums(columns) / n
    variance = _squared_deviations(columns, mean) / (n - 1)
    with np.errstate(divide="ignore", invalid="ignore"):
        dispersion = variance / np.where(mean == 0, 1e-12, mean)
        dispersion[dispersion == 0] = np.nan
        return _standardise_in_bins(np.log(dispersion), np.log1p(np.where(mean == 0, 1e-12, mean)))


def dispersion(X: Any) -> np.ndarray:
    """Score genes by the raw dispersion, variance over mean, without bins.

    On counts it prefers well-detected genes that vary. The binned score of :func:`hvg_scores` gives rare genes the same
    chance as abundant ones, which on shallow assays (legacy Spatial Transcriptomics) picks genes that are mostly zeros.

    Parameters
    ----------
    X
        (observation, gene), finite and not negative; raw counts for the usual meaning.

    Returns
    -------
    numpy.ndarray
        float64 (gene,); NaN for a gene that is zero everywhere.

    Raises
    ------
    DataError
        Fewer than two observations, or values that are negative or not finite.
    """
    columns = _columns(X, minimum=0.0)
    n = columns.shape[0]
    if n < 2:
        raise DataError("a dispersion needs at least two observations", got=n)
    mean = _sums(columns) / n
    with np.errstate(divide="ignore", invalid="ignore"):
        return _squared_deviations(columns, mean) / (n - 1) / np.where(mean == 0, np.nan, mean)


def _standardise_in_bins(dispersion: np.ndarray, mean: np.ndarray) -> np.ndarray:
    if len(mean) == 0:
        return np.empty(0)
    bins = pd.cut(mean, bins=HVG_BINS, labels=False)
    # Sums run over sorted values, so that they do not depend on the order of the genes.
    order = np.lexsort((dispersion, bins))
    order = order[~np.isnan(dispersion[order])]
    count = np.bincount(bins[order], minlength=HVG_BINS)
    with np.errstate(divide="ignore", invalid="ignore"):
        average = np.bincount(bins[order], dispersion[order], HVG_BINS) / count
        squares = np.bincount(bins[order], (dispersion[order] - average[bins[order]]) ** 2, HVG_BINS)
        spread = np.sqrt(squares / (count - 1))
        alone = count == 1
        spread[alone], average[alone] = average[alone], 0.0
        return (dispersion - average[bins]) / spread[bins]


def detection_rate(X: Any) -> np.ndarray:
    """Return float64 (gene,), the share of observations in which each gene is above 0, in [0, 1]."""
    columns = _columns(X)
    above = sparse.csc_matrix(
        ((columns.data > 0).astype(np.float64), columns.indices, columns.indptr), shape=columns.shape
    )
    return _sums(above) / max(1, columns.shape[0])


def mean_expression(X: Any) -> np.ndarray:
    """Return float64 (gene,), the mean over observations, on the scale of ``X``."""
    columns = _columns(X)
    return _sums(columns) / max(1, columns.shape[0])


def moran_i(X: Any, coords: Any, groups: Sequence[Any] | np.ndarray | pd.Series, *, n_neighbors: int = 6) -> np.ndarray:
    """Score genes by Moran's I, the correlation of a spot with the mean of its neighbours, averaged over sections.

    Parameters
    ----------
    X
        (spot, gene), finite values on any scale.
    coords
        (spot, 2) positions in any unit that is the same within a section.
    groups
        (spot,) section of each spot. Neighbours are sought within a section, and values centred on its mean.
    n_neighbors
        Neighbours of a spot; all that are as near as the last of them (to 1 %) count, so that regular grids leave no choice.

    Returns
    -------
    numpy.ndarray
        float64 (gene,): mean over the sections in which the gene varies, NaN where it varies in none. Sections of fewer than
        ``n_neighbors + 2`` spots are left out.

    Raises
    ------
    DataError
        Shapes that differ, coordinates that are not finite, or no section that is large enough.

    Notes
    -----
    Moran, Biometrika 37 (1950) 17, with row-standardised weights.
    """
    check_range(n_neighbors, name="n_neighbors", low=1, integer=True)
    coords, labels = np.asarray(coords, dtype=np.float64), pd.factorize(np.asarray(groups))[0]
    columns = _columns(X)
    n, n_genes = columns.shape
    if coords.shape != (n, 2) or len(labels) != n:
        raise DataError(
            "coordinates and groups do not fit the matrix",
            expected=f"coords ({n}, 2) and groups ({n},)", got=f"coords {coords.shape} and groups ({len(labels)},)",
        )  # fmt: skip
    if not np.isfinite(coords).all():
        raise DataError("some coordinates are not finite", got=f"{int((~np.isfinite(coords)).any(1).sum())} spots")
    rows = columns.tocsr()
    total, defined = np.zeros(n_genes), np.zeros(n_genes)
    large = [spots for spots in (np.flatnonzero(labels == one) for one in range(labels.max() + 1 if n else 0))
             if len(spots) >= n_neighbors + 2]  # fmt: skip
    if not large:
        raise DataError(
            "no section is large enough for Moran's I", expected=f"at least {n_neighbors + 2} spots in a section"
        )
    for spots in large:
        value = _moran_of_section(rows[spots].tocsc(), _neighbour_weights(coords[spots], n_neighbors))
        known = ~np.isnan(value)
        total[known] += value[known]
        defined += known
    with np.errstate(invalid="ignore"):
        return total / defined


def _neighbour_weights(coords: np.ndarray, n_neighbors: int) -> sparse.csr_matrix:
    """Row-standardised weights (spot, spot) of the nearest neighbours."""
    tree = cKDTree(coords)
    reach = tree.query(coords, k=n_neighbors + 1)[0][:, -1] * 1.01
    near = tree.query_ball_point(coords, reach, return_sorted=True)
    row = np.repeat(np.arange(len(coords)), [len(one) for one in near])
    column = np.concatenate([np.asarray(one, dtype=np.int64) for one in near])
    other = row != column
    row, column = row[other], column[other]
    weight = 1.0 / np.bincount(row, minlength=len(coords))[row]
    return sparse.csr_matrix((weight, (row, column)), shape=(len(coords), len(coords)))


def _moran_of_section(columns: sparse.csc_matrix, weights: sparse.csr_matrix) -> np.ndarray:
    """Return z'Wz / z'z for z = x - mean, expanded so that x stays sparse; as rows of W sum to 1, n / sum(W) is 1."""
    n = columns.shape[0]
    arriving = np.asarray(weights.sum(axis=0)).ravel()
    value = np.full(columns.shape[1], np.nan)
    for start, block in _blocks(columns):
        mean = _sums(block) / n
        lagged = sparse.csc_matrix(block.multiply(weights @ block))
        from_lag = _sums(sparse.csc_matrix(block.multiply((arriving + 1.0)[:, None])))
        across = _sums(lagged) - mean * from_lag + n * mean**2
        spread = _squared_deviations(block, mean)
        varies = spread > 0
        value[start : start + block.shape[1]][varies] = across[varies] / spread[varies]
    return value


def coexpression(X: Any, primary_index: Iterable[int], *, summary: str = "mean") -> np.ndarray:
    """Score genes by their absolute Pearson correlation with the primary genes.

    Parameters
    ----------
    X
        (observation, gene), finite values on the scale on which correlations are meant.
    primary_index
        Columns of the primary genes. A gene's correlation with itself does not count.
    summary
        ``"mean"`` or ``"max"`` over the primaries for which the correlation is defined.

    Returns
    -------
    numpy.ndarray
        float64 (gene,) in [0, 1]; NaN for a constant gene.

    Raises
    ------
    DataError
        No primary gene, or an index outside the matrix.
    """
    check_choice(summary, ("mean", "max"), name="summary")
    columns = _columns(X)
    n, n_genes = columns.shape
    primary = np.asarray(list(primary_index), dtype=np.int64)
    if primary.size == 0 or primary.min() < 0 or primary.max() >= n_genes:
        raise DataError(
            "primary_index does not name columns of the matrix",
            expected=f"at least one integer in [0, {n_genes - 1}]",
            got=str(primary.tolist()[:5]),
        )
    mean = _sums(columns) / n
    spread = _squared_deviations(columns, mean)
    varies = spread > 0
    primary = np.sort(primary[varies[primary]])
    if primary.size == 0:
        return np.full(n_genes, np.nan)
    product = np.asarray((columns.T @ columns[:, primary]).todense()) - n * np.outer(mean, mean[primary])
    with np.errstate(invalid="ignore", divide="ignore"):
        r = np.abs(product) / np.sqrt(np.where(varies, spread, np.nan)[:, None] * spread[primary])
    r = np.minimum(r, 1.0)
    r[primary, np.arange(primary.size)] = np.nan
    # fmin/fmax-like reductions without warnings: NaN counts as absent.
    known = ~np.isnan(r)
    if summary == "max":
        best = np.where(known, r, -1.0).max(axis=1)
        return np.where(best < 0, np.nan, best)
    with np.errstate(invalid="ignore"):
        return np.where(known, r, 0.0).sum(axis=1) / known.sum(axis=1)


def rank_genes(scores: Any, names: Iterable[str]) -> np.ndarray:
    """Return int64 (gene,), the genes' positions with the best (highest) score first.

    Ties are broken by name, so the order of the columns does not matter; NaN comes last.

    Raises
    ------
    DataError
        There is not one name for each score.
    """
    scores, labels = np.asarray(scores, dtype=np.float64), np.asarray(list(names), dtype=object).astype(str)
    if scores.ndim != 1 or len(scores) != len(labels):
        raise DataError(
            "scores and names do not fit", expected=f"one score for each of {len(labels)} names", got=scores.shape
        )
    return np.lexsort((labels, -scores)).astype(np.int64)


def _columns(X: Any, *, minimum: float | None = None) -> sparse.csc_matrix:
    """Return the matrix as canonical float64 CSC: the one form on which every sum has one order."""
    if not sparse.issparse(X):
        X = np.asarray(X)
    if X.ndim != 2 or X.dtype.kind not in "biuf":
        raise DataError(
            "not a matrix of numbers", expected="(observation, gene) numbers", got=f"{X.dtype} of shape {X.shape}"
        )
    own = sparse.csc_matrix(X, dtype=np.float64)
    if own.data is getattr(X, "data", None) or (sparse.issparse(X) and np.shares_memory(own.data, X.data)):
        own = own.copy()
    own.sum_duplicates()
    own.eliminate_zeros()
    if not np.isfinite(own.data).all():
        raise DataError("the matrix holds values that are not finite", got=f"{int((~np.isfinite(own.data)).sum())} of them",
                        fix="Remove or impute NaN and infinite values first.")  # fmt: skip
    if minimum is not None and own.nnz and own.data.min() < minimum:
        raise DataError(
            "the matrix holds values that are too small", expected=f"at least {minimum}", got=own.data.min()
        )
    return own


def _sums(columns: sparse.csc_matrix, values: np.ndarray | None = None) -> np.ndarray:
    """Column sums of canonical CSC: one order of addition, whatever form the matrix came in."""
    total = np.zeros(columns.shape[1])
    filled = np.flatnonzero(np.diff(columns.indptr))
    if filled.size:
        total[filled] = np.add.reduceat(columns.data if values is None else values, columns.indptr[filled])
    return total


def _squared_deviations(columns: sparse.csc_matrix, mean: np.ndarray) -> np.ndarray:
    """Sum of squared deviations from the mean by column; exactly 0 where a column is constant but for rounding."""
    stored = np.diff(columns.indptr)
    deviation = columns.data - np.repeat(mean, stored)
    n = columns.shape[0]
    total = _sums(columns, deviation**2) + (n - stored) * mean**2
    return np.where(total > 1e-13 * n * mean**2, total, 0.0)


def _blocks(columns: sparse.csc_matrix) -> Iterator[tuple[int, sparse.csc_matrix]]:
    for start in range(0, columns.shape[1], _BLOCK):
        yield start, columns[:, start : start + _BLOCK]
