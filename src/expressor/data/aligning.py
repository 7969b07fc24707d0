"""The compiled loop that checks rows of counts, sums them, and brings their genes to the order of a vocabulary."""

import math

from numba import njit

FINE, NO_GENE, NO_COUNT = 0, 1, 2
"""What :func:`align_rows` found: nothing wrong, a gene position that is not there, a value that is no count."""


@njit(cache=True, nogil=True)
def align_rows(data, indices, indptr, target, values, genes, starts, sizes):  # type: ignore[no-untyped-def]
    """Write values and vocabulary positions of what is not zero, row pointers and library sizes; stop at the first wrong entry.

    Parameters
    ----------
    data, indices, indptr
        Rows as stored.
    target
        int32 (gene of the source,): its position in the vocabulary, or -1.
    values, genes
        float32 and int32, as long as ``data``: written up to ``starts[-1]``.
    starts
        int32 (cell + 1,), written.
    sizes
        float32 (cell,), written: counts of all genes of the source.
    """
    n = 0
    starts[0] = 0
    for cell in range(len(indptr) - 1):
        total = 0.0
        for at in range(indptr[cell], indptr[cell + 1]):
            gene, value = indices[at], data[at]
            if gene < 0 or gene >= len(target):
                return NO_GENE
            if not value >= 0 or value != math.floor(value) or math.isinf(value):
                return NO_COUNT
            total += value
            if value != 0 and target[gene] >= 0:
                values[n], genes[n] = value, target[gene]
                n += 1
        starts[cell + 1] = n
        sizes[cell] = total
    return FINE
