"""The hypergraph as sparse matrices, and walks on it, which form no table of cell by cell unless they must.

A walk of two factors, P = A B (a gene of the cell, a cell of the gene), is kept as its factors; a walk with memory
(:mod:`expressor.systems.diphw.memory`) as a table.
"""

from typing import Any, Literal, Protocol, final, runtime_checkable

import numpy as np
from scipy import sparse

from expressor.core.errors import check_choice
from expressor.data.draws import first_above

TwoFactors = Literal["edvw", "diphw", "both"]
TWO_FACTORS = ("edvw", "diphw", "both")
MEMORY = ("comem", "comem_diphw", "comem_both")
WALKS = TWO_FACTORS + MEMORY
_NEGLIGIBLE = 1e-10  # of the largest probability of a row: below, an entry only costs time


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
                A = rows_to_one(sparse.diags(moves.astype(float)) @ away + sparse.diags((~moves).astype(float)) @ A)
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

    The rows' cumulative probabilities stand one after another in a single ascending array, row i between i and i + 1; a draw is a
    binary search among its row's, and nothing dense is made.

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
            return self.columns[first_above(self.cumulative, first, last, rows + u)]
        key = rows * np.int64(self.n_columns) + without
        at = first_above(self.keys, first, last, key - 1)
        there = (without >= 0) & (self.keys[at] == key)
        before = np.where(at > first, self.cumulative[np.maximum(at - 1, 0)], rows) - rows
        width = np.where(there, self.cumulative[at] - rows - before, 0.0)
        u *= 1 - width
        u = np.where(there & (u >= before), u + width, u)
        place = first_above(self.cumulative, first, last, rows + u)
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
    return _prune(rows_to_one(A))


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
    B = _prune(rows_to_one(powers(gamma.T.tocsr(), 1.0 if walk == "edvw" else exponent)))
    return FactorWalk(A, B, lazy=lazy)


def _entries(rows: sparse.csr_matrix, where: sparse.csr_matrix) -> np.ndarray:
    """Return the entries of ``rows`` at the stored places of ``where``, in their order."""
    n = np.int64(rows.shape[1])
    keys = [np.repeat(np.arange(one.shape[0]), np.diff(one.indptr)) * n + one.indices for one in (rows, where)]
    place = np.minimum(np.searchsorted(keys[0], keys[1]), max(len(keys[0]) - 1, 0))
    return np.where(keys[0][place] == keys[1], rows.data[place], 0.0)


def rows_to_one(rows: sparse.csr_matrix) -> sparse.csr_matrix:
    """Return rows that sum to 1, with the same stored places; an empty row stays."""
    total = np.asarray(rows.sum(axis=1)).ravel()
    found = sparse.csr_matrix(rows, dtype=np.float64, copy=True)
    found.data *= np.repeat(np.where(total > 0, 1 / np.where(total > 0, total, 1.0), 0.0), np.diff(found.indptr))
    found.sort_indices()
    return found


def _prune(rows: sparse.csr_matrix) -> sparse.csr_matrix:
    """Drop probabilities that are nothing beside the largest of their row."""
    which = np.repeat(np.arange(rows.shape[0]), np.diff(rows.indptr))
    top = np.zeros(rows.shape[0])
    np.maximum.at(top, which, rows.data)
    kept = rows.copy()
    kept.data = np.where(rows.data >= _NEGLIGIBLE * top[which], rows.data, 0.0)
    kept.eliminate_zeros()
    return rows_to_one(kept)


def _scale(X: np.ndarray, by: np.ndarray) -> np.ndarray:
    return X * (by[:, None] if X.ndim == 2 else by)
