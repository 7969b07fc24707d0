"""Expected co-occurrence in closed form, for all cells or against landmarks, and the positions of cells that follow from it.

Skip-gram on walks factorises, in effect, how much more often than by chance two cells are seen near each other on a walk (Levy and
Goldberg 2014). Its expectation needs no walks: sums of powers of the transition matrix. Columns of it, for landmark cells, need no
table of cell by cell either, and are those of the whole table exactly, both orders of a pair included.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from scipy import sparse
from sklearn.utils.extmath import randomized_svd

from expressor.core.rng import child_seed
from expressor.systems.diphw.equations import unit_length, window_weights
from expressor.systems.diphw.hypergraph import FactorWalk, TableWalk, Walk

_ROWS = 4096


@dataclass(frozen=True)
class GeneSide:
    """What is kept of a walk of two factors so that a new cell gets the position it would have had in the fit.

    Attributes
    ----------
    ahead, behind
        float32 (gene, landmark): pairs of a landmark with a cell that chose the gene, and with a cell that the gene chose.
    behind_all
        float64 (gene,): the sum of ``behind`` over all cells in the landmarks' place.
    passing
        float64 (gene,): how often a walk passes through the gene.
    """

    ahead: np.ndarray
    behind: np.ndarray
    behind_all: np.ndarray
    passing: np.ndarray


@dataclass(frozen=True)
class Embedding:
    """Positions, and what is needed to place a row of co-occurrences among them.

    Attributes
    ----------
    positions
        float32 (cell, dim), rows of length 1 where that was asked for (0 for a cell that is seen near none more often than by
        chance).
    landmarks
        (landmark,) which cells they are.
    margin
        float64 (landmark,): the landmarks' sums of co-occurrence.
    total
        The sum of all co-occurrences.
    projection
        float32 (landmark, dim): a row of the factorised matrix times this is the cell's position before scaling.
    """

    positions: np.ndarray
    landmarks: np.ndarray
    margin: np.ndarray
    total: float
    projection: np.ndarray


def visits(walk: Walk, T: int) -> tuple[np.ndarray, np.ndarray]:
    """Return f of equation E1, and the sum of the laws of all steps but the last, from which the next steps leave."""
    at = np.full(walk.n, 1.0 / walk.n)
    left = np.zeros(walk.n)
    for _ in range(T):
        left += at
        at = walk.backward(at)
    return (left + at) / (T + 1), left


def embed(
    walk: Walk, landmarks: np.ndarray, *, T: int, W: int, dim: int, seed: int, unit_rows: bool = True
) -> tuple[Embedding, np.ndarray, GeneSide | None]:
    """Return positions from the co-occurrence of all cells with the landmarks, the visits, and the gene side where there is one.

    Parameters
    ----------
    walk
        The walk.
    landmarks
        (landmark,) indices of cells; all of them give the closed form without approximation.
    T, W
        Steps of a walk and the window of skip-gram.
    dim
        Number of dimensions, at least 1.
    seed
        Of the randomised decomposition.
    unit_rows
        Whether positions are scaled to length 1.
    """
    f, left = visits(walk, T)
    c = window_weights(T, W)
    margin = c.sum() * f + _after(walk, f, c)
    gene_side = isinstance(walk, FactorWalk) and walk.lazy
    if isinstance(walk, FactorWalk) and gene_side and walk.A.shape[1] < walk.n:
        ahead, behind = _through_genes(walk, landmarks, f, c)
    else:
        ahead, behind = _through_cells(walk, landmarks, f, c)
        if isinstance(walk, FactorWalk) and gene_side:
            ahead, behind = walk.B @ ahead, walk.A_T @ behind
    scale = margin.sum() / np.where(margin[landmarks] > 0, margin[landmarks], 1.0)
    M = np.empty((walk.n, len(landmarks)), dtype=np.float32)
    rows_ahead = walk.forward(ahead) if not gene_side else None
    rows_behind = None
    if rows_ahead is not None:
        everyone = len(landmarks) == walk.n
        rows_behind = (f[:, None] * rows_ahead).T if everyone else walk.backward(behind)
    for start in range(0, walk.n, _ROWS):
        rows = slice(start, start + _ROWS)
        if isinstance(walk, FactorWalk) and gene_side:
            C = f[rows, None].astype(np.float32) * (walk.A[rows].astype(np.float32) @ ahead)
            C += walk.B_T[rows].astype(np.float32) @ behind
        else:
            C = f[rows, None] * rows_ahead[rows] + rows_behind[rows]  # type: ignore[index]
        M[rows] = positive_pmi_of(C, margin[rows], scale)
    positions, projection = factorise(M, dim, seed)
    positions = unit_length(positions) if unit_rows else positions
    kept = None
    if isinstance(walk, FactorWalk) and gene_side:
        behind_all = _through_genes_once(walk, f, c)
        kept = GeneSide(ahead.astype(np.float32), behind.astype(np.float32), behind_all, walk.A_T @ left)
    found = Embedding(positions, landmarks, margin[landmarks], float(margin.sum()), projection)
    return found, f, kept


def positive_pmi_of(C: np.ndarray, margin: np.ndarray, scale: np.ndarray) -> np.ndarray:
    """Return equation E4 for some rows of the co-occurrence: ``scale`` is the total over the columns' sums."""
    C = C * (1 / np.where(margin > 0, margin, 1.0))[:, None] * scale
    return np.log(np.maximum(C, 1.0)).astype(np.float32)


def factorise(M: np.ndarray, dim: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Return Y of equation E5, its leading directions by a randomised method, and the projection that gives it."""
    dim = min(dim, *M.shape)
    _, s, V = randomized_svd(M, dim, n_iter=5, random_state=child_seed(seed, "decomposition") % 2**32)
    known = s > 1e-6 * max(float(s[0]), 1e-12)
    root = np.where(known, np.sqrt(np.where(known, s, 1.0)), 0.0)
    projection = (V.T * np.where(known, 1 / np.where(known, root, 1.0), 0.0)).astype(np.float32)
    # By the projection, so that a cell that is placed afterwards stands where it stood in the fit.
    return M @ projection, projection


def place(
    A: sparse.csr_matrix, B_T: sparse.csr_matrix, *, genes: GeneSide, among: Embedding, n: int, T: int, W: int
) -> np.ndarray:
    """Return the positions, not scaled, of new cells, float32 (cell, dim): what the fit would give, were they among its cells.

    Parameters
    ----------
    A
        (cell, gene), probability of a gene given each new cell.
    B_T
        (cell, gene), probability of each new cell given a gene, by the gene's total over the cells of the fit.
    genes, among
        Of the fit.
    n, T, W
        Number of cells of the fit, steps, window.
    """
    f = (1 / n + B_T @ genes.passing) / (T + 1)
    margin = window_weights(T, W).sum() * f + B_T @ genes.behind_all
    C = f[:, None] * (A @ genes.ahead) + B_T @ genes.behind
    M = positive_pmi_of(C, margin, among.total / np.where(among.margin > 0, among.margin, 1.0))
    return M @ among.projection


def _after(walk: Walk, f: np.ndarray, c: np.ndarray) -> np.ndarray:
    """Return the sum over r of c_r (P^T)^r f."""
    total = np.zeros_like(f)
    for one in c[::-1]:
        total = walk.backward(total + one * f)
    return total


def _selected(landmarks: np.ndarray, n: int, weight: np.ndarray | None = None) -> np.ndarray:
    E = np.zeros((n, len(landmarks)), dtype=np.float32)
    E[landmarks, np.arange(len(landmarks))] = 1.0 if weight is None else weight[landmarks]
    return E


def _through_cells(walk: Walk, landmarks: np.ndarray, f: np.ndarray, c: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the sums over r of c_r P^(r-1) E and of c_r (P^T)^(r-1) diag(f) E, (cell, landmark), by Horner's scheme."""
    # A dense table is quicker than its factors for few cells.
    forward, backward = walk.forward, walk.backward
    if walk.n <= 2 * len(landmarks) and not (isinstance(walk, TableWalk) and walk.sparse):
        table = TableWalk(walk.table().astype(np.float32))
        forward, backward = table.forward, table.backward
    sums = []
    if len(landmarks) == walk.n:
        # All powers of P commute, and each is the other's transpose but for f: one side gives both.
        total = _horner(_selected(landmarks, walk.n), forward, c)
        return total, (f[:, None].astype(np.float32) * total).T
    for E, apply in ((_selected(landmarks, walk.n), forward), (_selected(landmarks, walk.n, f), backward)):
        sums.append(_horner(E, apply, c))
    return sums[0], sums[1]


def _horner(E: np.ndarray, apply: Callable[[np.ndarray], np.ndarray], c: np.ndarray) -> np.ndarray:
    """Return the sum over r of c_r times the operator to the power r - 1, applied to E."""
    total = np.float32(c[-1]) * E
    for one in c[-2::-1]:
        total = apply(total).astype(np.float32, copy=False)
        total += np.float32(one) * E
    return total


def _through_genes(
    walk: FactorWalk, landmarks: np.ndarray, f: np.ndarray, c: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Return B times, and A^T times, what :func:`_through_cells` gives, (gene, landmark), by steps from gene to gene."""
    R = (walk.B @ walk.A).toarray().astype(np.float32)
    starts = walk.B_T[landmarks].toarray().T, (walk.A[landmarks].toarray() * f[landmarks, None]).T
    sums = []
    for start, step in zip(starts, (R, np.ascontiguousarray(R.T))):
        start = np.ascontiguousarray(start, dtype=np.float32)
        total = np.float32(c[-1]) * start
        for one in c[-2::-1]:
            total = step @ total
            total += np.float32(one) * start
        sums.append(total)
    return sums[0], sums[1]


def _through_genes_once(walk: FactorWalk, f: np.ndarray, c: np.ndarray) -> np.ndarray:
    """Return A^T times the sum over r of c_r (P^T)^(r-1) f, (gene,)."""
    total = c[-1] * f
    for one in c[-2::-1]:
        total = walk.backward(total) + one * f
    return walk.A_T @ total
