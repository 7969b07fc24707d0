import numpy as np
import pytest
from scipy import sparse

from expressor.core.errors import DataError, FormatError
from expressor.data import checks


@pytest.mark.parametrize("dtype", [bool, np.uint8, np.int64, np.float32, np.float64])
def test_whole_numbers_of_any_type_are_counts(dtype):
    assert checks.is_counts(np.eye(4, dtype=dtype))
    assert checks.is_counts(sparse.csr_matrix(np.eye(4, dtype=dtype)))


@pytest.mark.parametrize("bad", [-1, 0.25, np.nan, np.inf, -np.inf])
def test_one_wrong_value_anywhere_is_seen(bad, monkeypatch):
    monkeypatch.setattr(checks, "_SLICE", 7)
    for place in range(16):
        X = np.ones((4, 4))
        X.flat[place] = bad
        assert not checks.is_counts(X)
        assert not checks.is_counts(sparse.csc_matrix(X))


def test_a_count_of_offenders_is_given():
    X = np.ones((4, 4))
    X[0] = np.nan
    with pytest.raises(DataError, match="here holds values that are not finite; got 4 NaN"):
        checks.check_finite(X, where="here")


@pytest.mark.parametrize("form", [sparse.csr_matrix, sparse.csc_matrix])
def test_sparse_indices_are_checked_in_full(form):
    X = form(np.eye(3))
    checks.check_sparse(X, where="X")
    X.indices[1] = 3
    with pytest.raises(FormatError, match="the sparse matrix X is damaged"):
        checks.check_sparse(X, where="X")
