"""The hypergraph as sparse matrices, and the walks on it, none of which forms a table of cell by cell unless it must.

A walk of two factors, P = A B (a gene of the cell, a cell of the gene), is kept as its factors. A walk with memory depends on both
ends of a step, so its table is needed: dense for some thousand cells, and beyond restricted to each cell's nearest neighbours.
"""

from collections.abc import Iterator
from typing import Any, Literal, Protocol, final, runtime_checkable

import numpy as np
from scipy import sparse

from expressor.core.errors import check_choice
from expressor.systems.diphw import equations

TwoFactors = Literal["edvw", "diphw", "both"]
TWO_FACTORS = ("edvw", "diphw", "both")
MEMORY = ("comem", "comem_diphw", "comem_both")
WALKS = TWO_FACTORS + MEMORY
DENSE_LIMIT = 5000
"""Cells up to which a walk with memory is kept as a whole table."""
_NEGLIGIBLE = 1e-10  # of the largest probability of a row: below, an entry only costs time
_BLOCK = 512


@runtime_checkable
class Walk(Protocol):
    """What a back-end asks of a walk."""

    @property
    def n(self) -> int:
        """Number of cells."""
        ...

    def forward(self, X: np.ndarray) -> np.ndarray:
        """Return P X, (cell, column)."""
        ...

    def backward(self, X: np.ndarray) -> np.ndarray:
        """Return P^T X, (cell, column)."""
        ...

    def step(self, cells: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """Return where one step from each of ``cells`` leads."""
        ...

    def table(self) -> np.ndarray:
        """Return P, (cell, cell)."""
        ...


@final
class FactorWalk:
    """A walk of two factors.

    Parameters
    ----------
    A
        (cell, gene), probability of a gene given a cell.
    B
        (gene, cell), probability of a cell given a gene.
    lazy
        Whether the walk may stay where it is (see equation W6).

    Attributes
    ----------
    staying
        (cell,), probability of staying, 0 for a walk that never does.
    """

    def __init__(self, A: sparse.csr_matrix, B: sparse.csr_matrix, *, lazy: bool = True) -> None:
        self.A, self.B, self.lazy = A, B, lazy
        self.A_T, self.B_T = A.T.tocsr(), B.T.tocsr()
        self.staying = np.zeros(A.shape[0])
        if not lazy:
            staying = np.asarray(A.multiply(self.B_T).sum(axis=1)).ravel()
            # A cell that leads to none but itself has nowhere to go: it stays after all.
            self.staying = np.where(staying < 1 - 1e-9, staying, 0.0)
        self._samplers: tuple[RowSampler, RowSampler] | None = None

    @property
    def n(self) -> int:
        """Number of cells."""
        return self.A.shape[0]

    def forward(self, X: np.ndarray) -> np.ndarray:
        """Return P X."""
        found = self.A @ (self.B @ X)
        return found if self.lazy else _scale(found - _scale(X, self.staying), 1 / (1 - self.staying))

    def backward(self, X: np.ndarray) -> np.ndarray:
        """Return P^T X."""
        if self.lazy:
            return self.B_T @ (self.A_T @ X)
        X = _scale(X, 1 / (1 - self.staying))
        return self.B_T @ (self.A_T @ X) - _scale(X, self.staying)

    def table(self) -> np.ndarray:
        """Return P, (cell, cell)."""
        P = (self.A @ self.B).toarray()
        if not self.lazy:
            P[np.diag_indices_from(P)] -= self.staying
            P /= (1 - self.staying)[:, None]
        return P

    def step(self, cells: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """Draw a gene of each cell, and a cell of each gene; a cell left for good is cut out of what is drawn from."""
        if self._samplers is None:
            A = self.A
            if not self.lazy:
                away = A.copy()
                away.data *= 1 - _entries(self.B_T, A)
                moves = self.staying > 0
                A = _to_one(sparse.diags(moves.astype(float)) @ away + sparse.diags((~moves).astype(float)) @ A)
            self._samplers = RowSampler(A), RowSampler(self.B)
        to_gene, to_cell = self._samplers
        genes = to_gene.draw(cells, rng)
        if self.lazy:
            return to_cell.draw(genes, rng)
        return to_cell.draw(genes, rng, without=np.where(self.staying[cells] > 0, cells, -1))


@final
class TableWalk:
    """A walk whose table is kept, dense or sparse.

    Parameters
    ----------
    P
        (cell, cell), rows sum to 1.

    Attributes
    ----------
    sparse
        Whether it is kept as a sparse matrix.
    """

    def __init__(self, P: np.ndarray | sparse.csr_matrix) -> None:
        self.P: Any = P
        self._transposed: Any = sparse.csr_matrix(P.T) if sparse.issparse(P) else P.T
        self.sparse = sparse.issparse(P)
        self._sampler: RowSampler | None = None

    @property
    def n(self) -> int:
        """Number of cells."""
        return self.P.shape[0]

    def forward(self, X: np.ndarray) -> np.ndarray:
        """Return P X."""
        return self.P @ X

    def backward(self, X: np.ndarray) -> np.ndarray:
        """Return P^T X."""
        return self._transposed @ X

    def table(self) -> np.ndarray:
        """Return P, (cell, cell)."""
        return self.P.toarray() if sparse.issparse(self.P) else self.P

    def step(self, cells: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """Draw a cell from each cell's row."""
        if self._sampler is None:
            self._sampler = RowSampler(sparse.csr_matrix(self.P))
        return self._sampler.draw(cells, rng)


@final
class RowSampler:
    """Draws columns of a sparse matrix's rows by their probabilities, many rows at once.

    The rows' cumulative probabilities stand one after another in a single ascending array, row i between i and i + 1, so that one
    binary search serves all draws and nothing dense is made.

    Parameters
    ----------
    rows
        (row, column), not negative; each row that is drawn from sums to 1.
    """

    def __init__(self, rows: sparse.csr_matrix) -> None:
        self.indptr, self.n_columns = rows.indptr.astype(np.int64), rows.shape[1]
        self.columns = rows.indices
        counts = np.diff(self.indptr)
        which = np.repeat(np.arange(rows.shape[0]), counts)
        total = np.concatenate([[0.0], np.cumsum(rows.data, dtype=np.float64)])
        inside = total[1:] - total[self.indptr[:-1]][which]
        self.cumulative = which + np.minimum(inside / np.maximum(inside[self.indptr[1:] - 1], 1e-300)[which], 1.0)
        self.keys = which * np.int64(self.n_columns) + self.columns

    def draw(self, rows: np.ndarray, rng: np.random.Generator, *, without: np.ndarray | None = None) -> np.ndarray:
        """Return a column for each of ``rows``.

        Parameters
        ----------
        rows
            (draw,), none of them empty.
        rng
            One uniform number a draw is taken from it.
        without
            (draw,) a column that is left out of the row, -1 for none; another column must have a probability.
        """
        first, last = self.indptr[rows], self.indptr[rows + 1] - 1
        u = rng.random(len(rows))
        if without is None:
            place = np.searchsorted(self.cumulative, rows + u, side="right")
            return self.columns[np.clip(place, first, last)]
        at = np.searchsorted(self.keys, rows * np.int64(self.n_columns) + without)
        at = np.minimum(at, len(self.keys) - 1)
        there = (without >= 0) & (self.keys[at] == rows * np.int64(self.n_columns) + without)
        before = np.where(at > first, self.cumulative[np.maximum(at - 1, 0)], rows) - rows
        width = np.where(there, self.cumulative[at] - rows - before, 0.0)
        u *= 1 - width
        u = np.where(there & (u >= before), u + width, u)
        place = np.clip(np.searchsorted(self.cumulative, rows + u, side="right"), first, last)
        # Rounding may still end at the column that is left out; its neighbour is as near.
        place = np.where(there & (place == at), np.where(at < last, at + 1, at - 1), place)
        return self.columns[place]


def gene_probabilities(gamma: sparse.csr_matrix, omega: np.ndarray, *, walk: str, exponent: float) -> sparse.csr_matrix:
    """Return A, (cell, gene): the probability of a gene given a cell.

    Parameters
    ----------
    gamma
        (cell, gene), not negative, no stored zeros.
    omega
        (gene,), the genes' weights.
    walk
        ``"edvw"``, ``"diphw"`` or ``"both"`` (equations W1 to W3).
    exponent
        Not negative.
    """
    check_choice(walk, TWO_FACTORS, name="walk")
    A = gamma.copy() if walk == "diphw" else powers(gamma, exponent if walk == "both" else 0.0)
    A.data = A.data * omega[A.indices]
    return _prune(_to_one(A))


def powers(rows: sparse.csr_matrix, exponent: float) -> sparse.csr_matrix:
    """Return each row to the power, divided by the row's largest (equation H2 before it is normalised)."""
    found = rows.astype(np.float64)
    which = np.repeat(np.arange(rows.shape[0]), np.diff(rows.indptr))
    top = np.zeros(rows.shape[0])
    np.maximum.at(top, which, found.data)
    found.data = np.exp(exponent * np.log(found.data / top[which]))
    return found


def factor_walk(gamma: sparse.csr_matrix, *, walk: TwoFactors, exponent: float, lazy: bool = True) -> FactorWalk:
    """Return the walk of two factors on expression gamma, (cell, gene), whose cells and genes are none of them empty."""
    omega = np.asarray(gamma.sum(axis=0)).ravel()
    A = gene_probabilities(gamma, omega, walk=walk, exponent=exponent)
    B = _prune(_to_one(powers(gamma.T.tocsr(), 1.0 if walk == "edvw" else exponent)))
    return FactorWalk(A, B, lazy=lazy)


def memory_walk(
    gamma: sparse.csr_matrix, *, walk: str, exponent: float, remembered_exponent: float = 1.0, gene_weight: bool = False,
    neighbors: int | None = None,
) -> TableWalk:  # fmt: skip
    """Return the walk with co-expression memory (equation W5).

    Parameters
    ----------
    gamma
        (cell, gene), not negative; no cell and no gene is empty.
    walk
        ``"comem"`` (no exponent), ``"comem_diphw"`` (on the gene step) or ``"comem_both"`` (on both steps).
    exponent
        Of the walk, not negative.
    remembered_exponent
        Of the remembered gene, not negative.
    gene_weight
        Whether the remembered gene is also weighed by its sum over cells.
    neighbors
        Restrict the network of cells to so many nearest ones of each cell, by absolute correlation; None for all.
    """
    if neighbors is None or neighbors >= gamma.shape[0] - 1:
        alpha, beta = _exponents(walk, exponent)
        dense = gamma.toarray()
        P = equations.comem_walk(
            dense, equations.coexpression(dense), equations.coexpression(np.ascontiguousarray(dense.T)), alpha, beta,
            remembered_exponent, equations.gene_weight(dense) if gene_weight else None,
        )  # fmt: skip
        return TableWalk(_stay_where_stuck(sparse.csr_matrix(P)).toarray())
    parts = []
    _, beta = _exponents(walk, exponent)
    columns = _to_one(powers(gamma.T.tocsr(), beta)).T.tocsr()
    for _, flow_to_genes, near, _ in _memory_blocks(gamma, walk, exponent, remembered_exponent, gene_weight, neighbors):
        pairs = near.tocoo()
        flow = np.empty(len(pairs.data))
        for at in range(0, len(flow), 8192):
            some = slice(at, at + 8192)
            ends = columns[pairs.col[some]]
            which = np.repeat(pairs.row[some], np.diff(ends.indptr))
            products = np.concatenate([[0.0], np.cumsum(ends.data * flow_to_genes[which, ends.indices])])
            flow[some] = products[ends.indptr[1:]] - products[ends.indptr[:-1]]
        pairs.data = np.maximum(flow, 0.0) * pairs.data
        parts.append(pairs.tocsr())
    return TableWalk(_stay_where_stuck(_to_one(sparse.vstack(parts, format="csr"))))


def memory_flows(
    gamma: sparse.csr_matrix, visits: np.ndarray, member: np.ndarray, *, walk: str, exponent: float,
    remembered_exponent: float = 1.0, gene_weight: bool = False, neighbors: int | None = None,
) -> tuple[np.ndarray, np.ndarray]:  # fmt: skip
    """Return the steps inside each group of cells that each gene carries as the second gene, (group, gene), and of all, (gene,).

    ``visits`` (cell,) says how often cells are left, ``member`` (cell, group) is 1 where a cell is in a group; the rest as for
    :func:`memory_walk`.
    """
    inside, overall = np.zeros((member.shape[1], gamma.shape[1])), np.zeros(gamma.shape[1])
    n = gamma.shape[0]
    made = _memory_blocks(
        gamma, walk, exponent, remembered_exponent, gene_weight, n - 1 if neighbors is None else neighbors
    )
    for rows, flow_to_genes, near, B in made:
        carried = flow_to_genes * (near @ B.T).toarray()
        total = carried.sum(axis=1)
        weight = np.divide(visits[rows], total, out=np.zeros_like(total), where=total > 0)
        overall += weight @ carried
        for group in np.flatnonzero(member[rows].any(axis=0)):
            ends = member[:, group] > 0
            reached = (near[:, ends] @ B[:, ends].T).toarray()
            inside[group] += (weight * member[rows, group]) @ (flow_to_genes * reached)
    return inside, overall


def _exponents(walk: str, exponent: float) -> tuple[float, float]:
    """Return alpha and beta of equation W5."""
    check_choice(walk, MEMORY, name="walk")
    return (1.0 if walk == "comem" else exponent), (exponent if walk == "comem_both" else 1.0)


def _memory_blocks(
    gamma: sparse.csr_matrix, walk: str, exponent: float, mu: float, gene_weight: bool, neighbors: int
) -> Iterator[tuple[slice, np.ndarray, sparse.csr_matrix, sparse.csr_matrix]]:
    """Yield blocks of rows of equation W5: which, (Q / Y) dense (cell, gene), their network of cells, and B, which is common.

    The same products as in the equation, but that the network of cells is sparse.
    """
    alpha, beta = _exponents(walk, exponent)
    G_V = nearest(gamma, min(neighbors, gamma.shape[0] - 1))
    G_E = equations.coexpression(np.ascontiguousarray(gamma.T.toarray()))
    B = _to_one(powers(gamma.T.tocsr(), beta))
    remembered = powers(gamma, mu)
    if gene_weight:
        remembered.data *= np.asarray(gamma.sum(axis=0)).ravel()[remembered.indices]
    remembered, A = _to_one(remembered), _to_one(powers(gamma, alpha))
    for start in range(0, gamma.shape[0], _BLOCK):
        rows = slice(start, start + _BLOCK)
        a, near = A[rows].toarray(), G_V[rows]
        Q = (equations._divide(remembered[rows].toarray(), a @ G_E) @ G_E) * a
        yield rows, equations._divide(Q, (near @ B.T).toarray()), near, B


def nearest(gamma: sparse.csr_matrix, neighbors: int) -> sparse.csr_matrix:
    """Return the absolute correlations of each cell with its ``neighbors`` nearest other cells, CSR (cell, cell).

    Blocks of rows are compared with all cells: time grows with the square of the cells, memory does not.
    """
    n = gamma.shape[0]
    all_cells = standardised(gamma)
    columns, values = np.empty((n, neighbors), dtype=np.int64), np.empty((n, neighbors))
    for start in range(0, n, _BLOCK):
        block = np.abs(all_cells[start : start + _BLOCK] @ all_cells.T)
        rows = np.arange(len(block))
        block[rows, start + rows] = -1.0
        best = np.argpartition(-block, neighbors - 1, axis=1)[:, :neighbors]
        columns[start : start + _BLOCK] = best
        values[start : start + _BLOCK] = np.clip(block[rows[:, None], best], 0.0, 1.0)
    found = sparse.csr_matrix(
        (values.ravel(), columns.ravel(), np.arange(0, n * neighbors + 1, neighbors)), shape=(n, n)
    )
    found.eliminate_zeros()
    found.sort_indices()
    return found


def standardised(gamma: sparse.csr_matrix) -> np.ndarray:
    """Return rows centred and at unit length, float32 (cell, gene), so that products are correlations; 0 for a constant row."""
    n_genes = gamma.shape[1]
    mean = np.asarray(gamma.mean(axis=1)).ravel()
    length = np.sqrt(np.maximum(np.asarray(gamma.multiply(gamma).sum(axis=1)).ravel() - n_genes * mean**2, 0.0))
    known = length > 1e-6 * np.maximum(mean, 1e-300)
    scale = np.where(known, 1 / np.where(known, length, 1.0), 0.0)
    unit = sparse.diags(scale) @ gamma
    return (unit.toarray() - (scale * mean)[:, None]).astype(np.float32)


def mean_of_similar(
    new: sparse.csr_matrix, known: sparse.csr_matrix, positions: np.ndarray, neighbors: int
) -> np.ndarray:
    """Return for each new cell the mean position of the known cells that it correlates with best, weighed by the correlation.

    Parameters
    ----------
    new, known
        (cell, gene) expression.
    positions
        (known cell, dim).
    neighbors
        How many are averaged, at least 1.
    """
    those, these = standardised(known), standardised(new)
    k = min(neighbors, len(those))
    found = np.empty((len(these), positions.shape[1]))
    for start in range(0, len(these), _BLOCK):
        block = these[start : start + _BLOCK] @ those.T
        best = np.argpartition(-block, k - 1, axis=1)[:, :k]
        weight = np.maximum(np.take_along_axis(block, best, axis=1), 1e-6)
        found[start : start + _BLOCK] = (weight[:, :, None] * positions[best]).sum(axis=1) / weight.sum(axis=1)[:, None]
    return found


def _stay_where_stuck(P: sparse.csr_matrix) -> sparse.csr_matrix:
    """Let a cell stay from which no path leads anywhere, so that every row is a probability."""
    stuck = np.asarray(P.sum(axis=1)).ravel() == 0
    return sparse.csr_matrix(P + sparse.diags(stuck.astype(float))) if stuck.any() else P


def _entries(rows: sparse.csr_matrix, where: sparse.csr_matrix) -> np.ndarray:
    """Return the entries of ``rows`` at the stored places of ``where``, in their order."""
    n = np.int64(rows.shape[1])
    keys = [np.repeat(np.arange(one.shape[0]), np.diff(one.indptr)) * n + one.indices for one in (rows, where)]
    place = np.minimum(np.searchsorted(keys[0], keys[1]), max(len(keys[0]) - 1, 0))
    return np.where(keys[0][place] == keys[1], rows.data[place], 0.0)


def _to_one(rows: sparse.csr_matrix) -> sparse.csr_matrix:
    total = np.asarray(rows.sum(axis=1)).ravel()
    rows = sparse.csr_matrix(sparse.diags(np.where(total > 0, 1 / np.where(total > 0, total, 1.0), 0.0)) @ rows)
    rows.sort_indices()
    return rows


def _prune(rows: sparse.csr_matrix) -> sparse.csr_matrix:
    """Drop probabilities that are nothing beside the largest of their row."""
    which = np.repeat(np.arange(rows.shape[0]), np.diff(rows.indptr))
    top = np.zeros(rows.shape[0])
    np.maximum.at(top, which, rows.data)
    kept = rows.copy()
    kept.data = np.where(rows.data >= _NEGLIGIBLE * top[which], rows.data, 0.0)
    kept.eliminate_zeros()
    return _to_one(kept)


def _scale(X: np.ndarray, by: np.ndarray) -> np.ndarray:
    return X * (by[:, None] if X.ndim == 2 else by)
