"""From an AnnData to the weights of the hypergraph: the paper's preprocessing, replayed on new cells gene by gene."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy import sparse

from expressor.core.errors import DataError, GeneError
from expressor.core.log import logger
from expressor.data.checks import check_finite, check_numeric, is_counts, values_of
from expressor.genes.panels import hvg_scores, rank_genes

SCALES = ("auto", "counts", "as given")
LOGS: dict[str, Callable[[np.ndarray], np.ndarray]] = {"natural": np.log1p, "log2": lambda x: np.log2(x + 1)}


@dataclass(frozen=True)
class Preparation:
    """How expression was made, so that it is made alike for other cells.

    Attributes
    ----------
    counts
        Whether the data held raw counts, which are brought to counts per million and logarithms; if not, they are taken as given.
    log
        ``"natural"`` or ``"log2"``, of the value plus 1.
    genes
        Names of the chosen genes, in alphabetical order.
    """

    counts: bool
    log: str
    genes: tuple[str, ...]


def prepare(adata: Any, *, scale: str, log: str, n_genes: int | None) -> tuple[sparse.csr_matrix, Preparation]:
    """Return expression of the chosen genes, float64 CSR (cell, gene), and how it was made.

    Parameters
    ----------
    adata
        Cells; raw counts, or values that are not negative, such as logarithms of normalised counts.
    scale
        ``"counts"``, ``"as given"``, or ``"auto"``: counts where all values are whole numbers.
    log
        See :class:`Preparation`.
    n_genes
        Keep so many highly variable genes (Seurat's flavour); None for all that are expressed.

    Raises
    ------
    DataError
        Values are negative, not finite, or no counts where counts were said to be; or no gene is expressed.
    """
    X, names = _checked(adata), np.asarray(adata.var_names, dtype=object)
    counts = is_counts(X) if scale == "auto" else scale == "counts"
    if counts and not is_counts(X):
        raise DataError("X does not hold raw counts", expected="whole numbers from 0",
                        fix='Give raw counts, or scale="as given".')  # fmt: skip
    order = np.argsort(names.astype(str), kind="stable")
    X, names = _ordered(X, order), names[order]
    values = _logged(X, log) if counts else X
    expressed = np.flatnonzero(values.getnnz(axis=0) > 0)
    if not len(expressed):
        raise DataError("no gene is expressed in any cell", got=f"{X.shape[0]} cells of zeros")
    values, names = values[:, expressed], names[expressed]
    if n_genes is not None and n_genes < len(names):
        ranked = rank_genes(hvg_scores(values), names)
        kept = np.sort(ranked[:n_genes])
        values, names = values[:, kept], names[kept]
    values.sort_indices()
    return values, Preparation(bool(counts), log, tuple(map(str, names)))


def replay(adata: Any, preparation: Preparation, known: Any) -> sparse.csr_matrix:
    """Return expression of new cells as in the fit, float64 CSR (cell, gene); a gene that was not measured joins no cell.

    Parameters
    ----------
    adata
        New cells.
    preparation
        Of the fit.
    known
        All genes of the fit (a vocabulary): the library size is summed over those of them that are there.

    Raises
    ------
    DataError
        Values are negative, not finite, or no counts where the fit had counts.
    GeneError
        None of the chosen genes is there.
    """
    X, names = _checked(adata), [str(one) for one in adata.var_names]
    if preparation.counts and not is_counts(X):
        raise DataError("X does not hold raw counts, as the data of the fit did", expected="whole numbers from 0",
                        fix="Give raw counts.")  # fmt: skip
    if not preparation.counts and X.nnz and is_counts(X) and X.data.max() > 30:
        raise DataError(
            "X holds raw counts, and the fit was on values as given", fix="Normalise them as those of the fit were."
        )
    order = np.array(
        sorted((i for i, name in enumerate(names) if name in known), key=names.__getitem__), dtype=np.int64
    )
    X = _ordered(X, order)
    place = {names[i]: j for j, i in enumerate(order)}
    found = [name in place for name in preparation.genes]
    missing = len(found) - sum(found)
    if missing == len(found):
        raise GeneError(f"none of the {len(found)} genes of the hypergraph is in the data", expected=repr(preparation.genes[0]),
                        got=repr(names[0]) if names else "no genes", fix="Check species and namespace.")  # fmt: skip
    if missing:
        logger.warning("%d of %d genes of the hypergraph are not in the data and join no cell", missing, len(found))
    values = (_logged(X, preparation.log) if preparation.counts else X).tocsc()
    wanted = [j for j, there in enumerate(found) if there]
    picked = values[:, [place[preparation.genes[j]] for j in wanted]].tocoo()
    columns = np.asarray(wanted, dtype=np.int64)[picked.col]
    full = sparse.csr_matrix((picked.data, (picked.row, columns)), shape=(values.shape[0], len(found)))
    full.sort_indices()
    return full


def _checked(adata: Any) -> sparse.csr_matrix:
    if adata.X is None:
        raise DataError("the data hold no expression: X is empty", fix="Give counts of cells.")
    X = adata.X
    check_numeric(X, where="X")
    check_finite(X, where="X")
    low = float(values_of(X).min(initial=0.0))
    if low < 0:
        raise DataError(
            "X holds negative values, and a gene cannot join a cell with a negative weight", expected="values from 0",
            got=f"{low:g}", fix="Give raw counts or their logarithms, before centring or scaling (such as adata.raw.to_adata()).",
        )  # fmt: skip
    found = sparse.csr_matrix(X, dtype=np.float64, copy=True)
    found.sum_duplicates()
    found.eliminate_zeros()
    return found


def _ordered(X: sparse.csr_matrix, order: np.ndarray) -> sparse.csr_matrix:
    found = X[:, order]
    found.sort_indices()
    return found


def _logged(X: sparse.csr_matrix, log: str) -> sparse.csr_matrix:
    size = np.asarray(X.sum(axis=1)).ravel()
    found = X.copy()
    found.data = LOGS[log](X.data * np.repeat(1e6 / np.where(size > 0, size, 1.0), np.diff(X.indptr)))
    return found
