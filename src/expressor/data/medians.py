"""Medians of genes over any number of cells, in one pass and bounded memory."""

import math

import numpy as np
from numba import njit

from expressor.core.errors import check_range
from expressor.data.blocks import Blocks

_LOW, _HIGH = 1e-3, 1e4  # of counts per 10,000
_PARTS = 1024
_STEP = math.log(_HIGH / _LOW) / _PARTS


def gene_medians(blocks: Blocks, *, rows: np.ndarray | None = None, at_once: int = 4096) -> np.ndarray:
    """Return the median of each gene's positive values, as Geneformer scales genes before it ranks them.

    Values are counts per 10,000 of the whole cell. They are counted in 1,024 steps of equal ratio, so that a median is known to
    0.8 % whatever the number of cells; 4 KiB a gene are held.

    Parameters
    ----------
    blocks
        The cells.
    rows
        Positions of the cells to use, such as those of a training split; all by default.
    at_once
        Cells in memory at a time, >= 1.

    Returns
    -------
    float64 (gene,), in counts per 10,000; NaN for a gene without counts, which a :class:`~expressor.data.Tokeniser` that is given
    these ``medians`` leaves out.

    References
    ----------
    Theodoris CV, Xiao L, Chopra A, et al. Transfer learning enables predictions in network biology. Nature 618, 616-624 (2023).
    """
    check_range(at_once, name="at_once", low=1, integer=True)
    wanted = np.arange(len(blocks)) if rows is None else np.sort(np.asarray(rows, dtype=np.int64))
    seen = np.zeros((len(blocks.genes), _PARTS), dtype=np.uint32)
    for start in range(0, len(wanted), at_once):
        matrix, size = blocks.load(wanted[start : start + at_once])
        per_10k = 1e4 * matrix.data / np.repeat(np.where(size > 0, size, 1.0), np.diff(matrix.indptr))
        _count(matrix.indices, per_10k, seen)
    return _middle(seen)


@njit(cache=True, nogil=True)
def _count(genes: np.ndarray, values: np.ndarray, seen: np.ndarray) -> None:
    for k in range(len(genes)):
        part = int(math.log(values[k] / _LOW) / _STEP)
        seen[genes[k], min(max(part, 0), _PARTS - 1)] += 1


def _middle(seen: np.ndarray) -> np.ndarray:
    """Return the middle of the step in which the median lies; between the middle two of an even number."""
    total = seen.sum(axis=1, dtype=np.int64)
    reached = np.cumsum(seen, axis=1, dtype=np.int64)
    places = np.stack([(total - 1) // 2, total // 2])
    parts = np.stack([(reached <= one[:, None]).sum(axis=1) for one in places])
    middle = _LOW * np.exp(_STEP * (parts + 0.5))
    return np.where(total > 0, middle.mean(axis=0), np.nan)
