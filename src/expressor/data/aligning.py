"""Compiled loops over rows of counts: check and sum them, bring their genes to the order of a vocabulary, gather some of them."""

import numpy as np
from numba import njit

NO_GENE, NO_COUNT, NOT_PLAIN = 1, 2, 4
"""What :func:`check_rows` found, added up: a gene position that is not there, a value that is no count; stored zeros, or genes of a
row that do not rise."""


# Counts are whole numbers, so that their sum does not depend on the order in which the compiler adds.
@njit(cache=True, nogil=True, fastmath={"reassoc"})
def check_rows(data, indices, indptr, genes, sizes):  # type: ignore[no-untyped-def]
    """Look at every entry, write the sum of each row, and say what was found; 0 is nothing of the above.

    Parameters
    ----------
    data, indices, indptr
        Rows as stored.
    genes
        How many there are.
    sizes
        float32 (cell,), written.
    """
    no_gene, no_count, not_plain = np.uint8(0), np.uint8(0), np.uint8(0)
    for cell in range(len(indptr) - 1):
        low, high = indptr[cell], indptr[cell + 1]
        total = 0.0
        for at in range(low, high):
            value = data[np.uint64(at)]
            no_count |= np.uint8(not (value >= 0 and value == np.floor(value) and value < np.inf))
            not_plain |= np.uint8(value == 0)
            total += value
        sizes[cell] = total
        for at in range(low, high):
            gene = indices[np.uint64(at)]
            no_gene |= np.uint8(gene < 0) | np.uint8(gene >= genes)
        for at in range(low + 1, high):
            not_plain |= np.uint8(indices[np.uint64(at - 1)] >= indices[np.uint64(at)])
    return NO_GENE * no_gene + NO_COUNT * no_count + NOT_PLAIN * not_plain


@njit(cache=True, nogil=True)
def align_rows(data, indices, indptr, target, values, genes, starts):  # type: ignore[no-untyped-def]
    """Write values and vocabulary positions of what is not zero and in the vocabulary, and row pointers.

    Parameters
    ----------
    data, indices, indptr
        Rows as stored, checked.
    target
        int32 (gene of the source,): its position in the vocabulary, or -1.
    values, genes
        float32 and int32, as long as ``data``: written up to ``starts[-1]``.
    starts
        int32 (cell + 1,), written.
    """
    n = np.uint64(0)
    starts[0] = 0
    for cell in range(len(indptr) - 1):
        for at in range(indptr[cell], indptr[cell + 1]):
            value, gene = data[np.uint64(at)], target[indices[np.uint64(at)]]
            values[n], genes[n] = value, gene  # overwritten by the next where it is not wanted
            n += np.uint64((value != 0) & (gene >= 0))
        starts[cell + 1] = n


@njit(cache=True, nogil=True)
def gather_rows(data, indices, indptr, rows, values, genes, starts):  # type: ignore[no-untyped-def]
    """Write the entries of some rows of a CSR matrix, one row after another.

    Parameters
    ----------
    data, indices, indptr
        The matrix.
    rows
        Positions of the rows, also repeated.
    values, genes
        Written; as many as the rows hold.
    starts
        Row pointers of the rows, (row + 1,).
    """
    for place in range(len(rows)):
        low, high, to = indptr[rows[place]], indptr[rows[place] + 1], starts[place]
        values[to : to + high - low] = data[low:high]
        genes[to : to + high - low] = indices[low:high]
