"""Many tests at once."""

from typing import Any

import numpy as np
from jaxtyping import Float

from expressor.core.errors import DataError


def bh_qvalues(pvalues: Any) -> Float[np.ndarray, " test"]:
    """Return the q-values of Benjamini and Hochberg: the smallest false discovery rate at which each test is called.

    Parameters
    ----------
    pvalues
        (test,) in [0, 1]; NaN marks a test that could not be made. It stays NaN and does not count as a test.

    Notes
    -----
    Benjamini and Hochberg, J. R. Stat. Soc. B 57 (1995) 289. Valid for independent or positively dependent tests.
    """
    p = np.asarray(pvalues, dtype=np.float64)
    known = ~np.isnan(p)
    if p.ndim != 1 or (p[known] < 0).any() or (p[known] > 1).any():
        raise DataError("p-values are out of range", expected="a vector of numbers in [0, 1]", got=str(p.shape))
    order = np.argsort(p[known], kind="stable")
    n = len(order)
    scaled = p[known][order] * n / np.arange(1, n + 1)
    q = np.full(p.shape, np.nan)
    q[np.flatnonzero(known)[order]] = np.minimum(np.minimum.accumulate(scaled[::-1])[::-1], 1.0)
    return q
