"""Agreement of clusters with labels, against scikit-learn."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn import metrics as oracle

from expressor.core.errors import DataError
from expressor.metrics.catalogue import record
from expressor.metrics.clustering import (
    adjusted_mutual_information,
    adjusted_rand_index,
    contingency,
    normalised_mutual_information,
)

BOTH = (
    (adjusted_rand_index, oracle.adjusted_rand_score),
    (normalised_mutual_information, oracle.normalized_mutual_info_score),
    (adjusted_mutual_information, oracle.adjusted_mutual_info_score),
)


@given(st.integers(2, 60), st.integers(1, 6), st.integers(1, 8), st.integers(0, 10**6))
def test_scikit_learn_says_the_same(n: int, classes: int, clusters: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    truth, labels = rng.integers(0, classes, n), rng.integers(0, clusters, n)
    times = rng.integers(0, 3, n)
    times[0] = 2
    for ours, theirs in BOTH:
        assert ours(truth, labels) == pytest.approx(theirs(truth, labels), abs=1e-9)
        assert ours(truth, truth) == pytest.approx(1.0)
        again = theirs(np.repeat(truth, times), np.repeat(labels, times))
        assert ours(truth, labels, weights=times) == pytest.approx(again, abs=1e-9)


def test_names_do_not_matter() -> None:
    truth, labels = ["a", "a", "b", "b", "c"], [3, 3, 1, 1, 2]
    for ours, _ in BOTH:
        assert ours(truth, labels) == pytest.approx(1.0)
    np.testing.assert_array_equal(contingency(["b", "a", "b"], [1, 1, 0]), [[0, 1], [1, 1]])
    assert np.isnan(adjusted_rand_index([1], [1]))


def test_errors_and_records() -> None:
    with pytest.raises(DataError, match=r"labels and clusters do not fit; expected \(obs,\) each, got \(2,\), \(3,\)"):
        adjusted_rand_index([1, 2], [1, 2, 3])
    with pytest.raises(DataError, match="the weights do not fit; expected 2 whole numbers from 0"):
        adjusted_rand_index([1, 2], [1, 2], weights=[0.5, 1])
    assert {record(name).direction for name in ("ari", "nmi", "ami")} == {"higher"}
