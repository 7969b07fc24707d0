"""What every metric checks about its arrays before it computes."""

from collections.abc import Iterator
from typing import Any

import numpy as np

from expressor.core.errors import DataError


def check_matrix(values: Any, *, name: str) -> np.ndarray:
    """Return ``values`` as float64 (spot, gene), or raise DataError where it is not a finite matrix."""
    matrix = np.asarray(values)
    if matrix.ndim != 2 or matrix.dtype.kind not in "biuf":
        raise DataError(
            f"{name} is not a matrix of numbers", expected="(spot, gene) numbers", got=f"{matrix.dtype} {matrix.shape}"
        )
    matrix = matrix.astype(np.float64, copy=False)
    bad = int((~np.isfinite(matrix)).sum())
    if bad:
        raise DataError(f"{name} holds values that are not finite", got=f"{bad} of {matrix.size}")
    if 0 in matrix.shape:
        raise DataError(f"{name} is empty", expected="at least one spot and one gene", got=str(matrix.shape))
    return matrix


def check_pair(measured: Any, predicted: Any) -> tuple[np.ndarray, np.ndarray]:
    """Return both as float64 (spot, gene) of one shape."""
    one, other = check_matrix(measured, name="measured"), check_matrix(predicted, name="predicted")
    if one.shape != other.shape:
        raise DataError("measured and predicted differ in shape", expected=str(one.shape), got=str(other.shape))
    return one, other


def check_labels(labels: Any, n: int, *, name: str = "sections") -> np.ndarray:
    """Return ``labels`` as strings (n,); None stands for one section."""
    if labels is None:
        return np.full(n, "", dtype=object).astype(str)
    array = np.asarray(labels)
    if array.shape != (n,):
        raise DataError(f"{name} does not fit the matrix", expected=f"({n},) labels", got=str(array.shape))
    missing = int(sum(one is None or one != one for one in array.tolist()))
    if missing:
        raise DataError(f"{name} holds missing labels", got=f"{missing} of {n}", fix="Leave those spots out.")
    return array.astype(str)


def check_coords(coords: Any, n: int) -> np.ndarray:
    """Return ``coords`` as float64 (n, 2)."""
    array = np.asarray(coords, dtype=np.float64)
    if array.shape != (n, 2):
        raise DataError("coords does not fit the matrix", expected=f"({n}, 2)", got=str(array.shape))
    if not np.isfinite(array).all():
        raise DataError("some coordinates are not finite", got=f"{int((~np.isfinite(array)).any(1).sum())} spots")
    return array


def by_section(sections: np.ndarray) -> Iterator[tuple[str, np.ndarray]]:
    """Yield each section's name and its rows, sections in alphabetical order."""
    names, codes = np.unique(sections, return_inverse=True)
    for code, name in enumerate(names):
        yield str(name), np.flatnonzero(codes == code)
