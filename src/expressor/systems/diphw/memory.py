"""The walks with co-expression memory (equation W5) from sparse expression.

A step depends on both of its ends, so the table of probabilities is needed: dense for some thousand cells, and beyond restricted
to each cell's nearest neighbours. The two genes of a step are among those that the cell expresses: only these are looked at.
"""

from collections.abc import Iterator
from typing import Any

import numpy as np
from scipy import sparse

from expressor.core.errors import check_choice
from expressor.systems.diphw import equations
from expressor.systems.diphw.hypergraph import MEMORY, TableWalk, powers, rows_to_one
from expressor.systems.diphw.neighbors import nearest

DENSE_LIMIT = 5000
"""Cells up to which the walk is kept as a whole table."""
_BLOCK = 512
_PAIRS = 8192
_MANY = 0.3  # share of genes that a cell expresses, from which products of whole matrices are quicker


def memory_walk(
    gamma: sparse.csr_matrix, *, walk: str, exponent: float, remembered_exponent: float = 1.0, gene_weight: bool = False,
    neighbors: int | None = None, seed: int = 0,
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
    seed
        Of the search for nearest cells.
    """
    made = _flows(gamma, walk, exponent, remembered_exponent, gene_weight, neighbors, seed)
    if neighbors is None or neighbors >= gamma.shape[0] - 1:
        P = np.concatenate([(flow @ B).toarray() * near for _, flow, near, B in made])
        total = P.sum(axis=1, keepdims=True)
        stuck = np.flatnonzero(total == 0)
        P /= np.where(total > 0, total, 1.0)
        P[stuck, stuck] = 1.0
        return TableWalk(P)
    parts, columns = [], None
    for _, flow, near, B in made:
        columns = B.T.tocsr() if columns is None else columns
        parts.append(_at_pairs(flow, near, columns))
    return TableWalk(_stay_where_stuck(rows_to_one(sparse.vstack(parts, format="csr"))))


def memory_flows(
    gamma: sparse.csr_matrix, visits: np.ndarray, member: np.ndarray, *, walk: str, exponent: float,
    remembered_exponent: float = 1.0, gene_weight: bool = False, neighbors: int | None = None, seed: int = 0,
) -> tuple[np.ndarray, np.ndarray]:  # fmt: skip
    """Return the steps inside each group of cells that each gene carries as the second gene, (group, gene), and of all, (gene,).

    ``visits`` (cell,) says how often cells are left, ``member`` (cell, group) is 1 where a cell is in a group; the rest as for
    :func:`memory_walk`.
    """
    inside, overall = np.zeros((member.shape[1], gamma.shape[1])), np.zeros(gamma.shape[1])
    for rows, flow, near, B in _flows(gamma, walk, exponent, remembered_exponent, gene_weight, neighbors, seed):
        carried = flow.copy()
        carried.data *= _reached(near, B, flow)
        total = np.asarray(carried.sum(axis=1)).ravel()
        weight = np.divide(visits[rows], total, out=np.zeros_like(total), where=total > 0)
        overall += carried.T @ weight
        for group in np.flatnonzero(member[rows].any(axis=0)):
            own = np.flatnonzero(member[rows, group])
            ends = np.flatnonzero(member[:, group])
            within = flow[own]
            within.data *= _reached(near[own][:, ends], B[:, ends], within)
            inside[group] += within.T @ weight[own]
    return inside, overall


def _flows(
    gamma: sparse.csr_matrix, walk: str, exponent: float, mu: float, gene_weight: bool, neighbors: int | None, seed: int
) -> Iterator[tuple[slice, sparse.csr_matrix, Any, sparse.csr_matrix]]:
    """Yield blocks of cells: which; Q / Y of equation W5 (cell, gene); their rows of the network; B (gene, cell), always one."""
    check_choice(walk, MEMORY, name="walk")
    alpha, beta = (1.0 if walk == "comem" else exponent), (exponent if walk == "comem_both" else 1.0)
    n = gamma.shape[0]
    if neighbors is None or neighbors >= n - 1:
        G_V = equations.coexpression(gamma.toarray())
    else:
        G_V = nearest(gamma, neighbors, seed=seed)
    G_E = equations.coexpression(np.ascontiguousarray(gamma.T.toarray()))
    B = rows_to_one(powers(gamma.T.tocsr(), beta))
    remembered = powers(gamma, mu)
    if gene_weight:
        remembered.data *= np.asarray(gamma.sum(axis=0)).ravel()[remembered.indices]
    remembered, A = rows_to_one(remembered), rows_to_one(powers(gamma, alpha))
    for start in range(0, n, _BLOCK):
        rows = slice(start, start + _BLOCK)
        flow = _to_second_gene(remembered[rows], A[rows], G_E)
        reached = _reached(G_V[rows], B, flow)
        flow.data = np.divide(flow.data, reached, out=np.zeros_like(flow.data), where=reached > 0)
        yield rows, flow, G_V[rows], B


def _to_second_gene(remembered: sparse.csr_matrix, A: sparse.csr_matrix, G_E: np.ndarray) -> sparse.csr_matrix:
    """Return Q of equation W5 where a cell expresses the gene: it is 0 elsewhere."""
    Q = A.copy()
    if A.nnz > _MANY * A.shape[0] * A.shape[1]:
        a = A.toarray()
        dense = (equations._divide(remembered.toarray(), a @ G_E) @ G_E) * a
        Q.data = dense[_rows_of(A), A.indices]
        return Q
    for cell in range(A.shape[0]):
        own = slice(A.indptr[cell], A.indptr[cell + 1])
        a, genes = A.data[own], A.indices[own]
        near = G_E[genes[:, None], genes]
        Q.data[own] = a * (near @ equations._divide(remembered.data[own], near @ a))
    return Q


def _reached(near: Any, B: sparse.csr_matrix, at: sparse.csr_matrix) -> np.ndarray:
    """Return near B^T at the stored places of ``at``, in their order."""
    if sparse.issparse(near):
        return np.asarray((near @ B.T).toarray()[_rows_of(at), at.indices])
    return np.asarray((B @ near.T)[at.indices, _rows_of(at)])


def _at_pairs(flow: sparse.csr_matrix, near: sparse.csr_matrix, columns: sparse.csr_matrix) -> sparse.csr_matrix:
    """Return (flow B) times the network, where the network joins; ``columns`` is B transposed, (cell, gene)."""
    dense, found = flow.toarray(), near.copy()
    rows = _rows_of(near)
    for at in range(0, near.nnz, _PAIRS):
        some = slice(at, at + _PAIRS)
        ends = columns[near.indices[some]]
        products = ends.data * dense[np.repeat(rows[some], np.diff(ends.indptr)), ends.indices]
        summed = np.concatenate([[0.0], np.cumsum(products)])
        found.data[some] *= np.maximum(summed[ends.indptr[1:]] - summed[ends.indptr[:-1]], 0.0)
    return found


def _rows_of(matrix: sparse.csr_matrix) -> np.ndarray:
    return np.repeat(np.arange(matrix.shape[0]), np.diff(matrix.indptr))


def _stay_where_stuck(P: sparse.csr_matrix) -> sparse.csr_matrix:
    """Let a cell stay from which no path leads anywhere, so that every row is a probability."""
    stuck = np.asarray(P.sum(axis=1)).ravel() == 0
    return sparse.csr_matrix(P + sparse.diags(stuck.astype(float))) if stuck.any() else P
