"""What is asked of a matrix before it is used: numbers, finite, counts; and of observations: unique names."""

from collections.abc import Iterator
from typing import Any

import numpy as np
import pandas as pd
from scipy import sparse

from expressor.core.errors import DataError, FormatError

_SLICE = 1 << 22  # values examined at once, so that a check allocates little


def values_of(X: Any) -> np.ndarray:
    """Return the stored values of a sparse matrix, or all of a dense one, as a flat array (no copy where possible)."""
    return X.data if sparse.issparse(X) else np.asarray(X).ravel(order="K")


def check_numeric(X: Any, *, where: str) -> None:
    """Refuse a matrix that is no two-dimensional array of real numbers."""
    if len(getattr(X, "shape", ())) != 2 or X.dtype.kind not in "biuf":
        raise DataError(
            f"{where} is no matrix of real numbers",
            expected="two axes (observation, gene) of numbers",
            got=f"{getattr(X, 'dtype', type(X).__name__)} of shape {getattr(X, 'shape', '?')}",
        )


def check_finite(X: Any, *, where: str) -> None:
    """Refuse NaN and infinite values; the message counts them."""
    bad = sum(int((~np.isfinite(part)).sum()) for part in _parts(values_of(X)))
    if bad:
        raise DataError(f"{where} holds values that are not finite", got=f"{bad} NaN or infinite values",
                        fix="Remove or impute them; a missing count is not a 0.")  # fmt: skip


def is_counts(X: Any) -> bool:
    """Whether all values are finite, non-negative whole numbers."""
    return not any(_offends(part).any() for part in _parts(values_of(X)))


def check_counts(X: Any, *, where: str, fix: str | None = None) -> None:
    """Refuse a matrix that does not hold raw counts; ``fix`` is advice that fits the case better than the general one.

    Raises
    ------
    DataError
        Values are not finite, negative, or not whole numbers. The message says which, and what the values look like.
    """
    check_numeric(X, where=where)
    if is_counts(X):
        return
    check_finite(X, where=where)
    values = values_of(X)
    offender = next(part[_offends(part)][0] for part in _parts(values) if _offends(part).any())
    low, high = float(values.min()), float(values.max())
    if low < 0:
        looks = "scaled or centred values"
    elif high < 25:
        looks = "log-transformed values"
    else:
        looks = "normalised values"
    raise DataError(
        f"{where} does not hold raw counts but what looks like {looks}",
        expected="whole numbers from 0",
        got=f"values such as {float(offender):g} in [{low:g}, {high:g}]",
        fix=fix
        or "Put raw counts there, or name the layer that holds them with layer=. Counts kept in adata.raw can be had "
        "with adata.raw.to_adata().",
    )


def _parts(values: np.ndarray) -> Iterator[np.ndarray]:
    for start in range(0, len(values), _SLICE):
        yield values[start : start + _SLICE]


def _offends(part: np.ndarray) -> np.ndarray:
    if part.dtype.kind in "bu":
        return np.zeros(len(part), dtype=bool)
    if part.dtype.kind == "i":
        return part < 0
    with np.errstate(invalid="ignore"):
        return ~((part >= 0) & (part == np.floor(part)) & (part < np.inf))


def check_unique(names: pd.Index, *, where: str) -> None:
    """Refuse observation names that repeat."""
    if not names.is_unique:
        repeated = names[names.duplicated()].unique()
        raise DataError(
            f"{len(repeated)} observation names in {where} stand more than once, such as {repeated[0]!r}",
            expected="every name once",
            fix="Prefix the names with their section (anndata.concat has index_unique='-').",
        )


def check_sparse(X: Any, *, where: str) -> None:
    """Check every index of a sparse matrix against its shape: SciPy's compiled loops trust them blindly.

    Raises
    ------
    FormatError
        An index points outside the matrix, or the row pointers do not fit.
    """
    if not sparse.issparse(X) or X.format not in ("csr", "csc"):
        return
    try:
        X.check_format(full_check=True)
    except ValueError as error:
        raise FormatError(f"the sparse matrix {where} is damaged ({error})") from error
