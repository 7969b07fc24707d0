"""Skip-gram: which pairs it sees, and its steps against the formulas."""

import numpy as np

from expressor.estimator.skip_gram import _descend, kept_shares, pairs


def test_frequent_cells_are_thinned() -> None:
    """Word2vec's rule; what is left stands closer together."""
    np.testing.assert_allclose(kept_shares(np.array([0.0, 1e-3, 4e-3, 0.1]), 1e-3), [1, 1, 0.75, 0.11])
    walks = np.tile(np.array([0, 1, 2, 1], dtype=np.int32), (20_000, 1))
    centre, context = pairs(walks, 1, np.array([1.0, 0.25, 1.0]), np.array([5], dtype=np.uint64))
    seen = np.zeros((3, 3))
    np.add.at(seen, (centre, context), 1 / 20_000)
    # 0 and 2 meet where the 1 between them is taken out; a 1 meets its kept neighbours.
    np.testing.assert_allclose(seen, [[0, 0.25, 0.75], [0.25, 0, 0.5], [0.75, 0.5, 0]], atol=0.015)


def descend_one_by_one(inner: np.ndarray, outer: np.ndarray, pair: tuple[int, int], rate: float) -> None:
    """A step of skip-gram without negatives, as written in its paper."""
    x, y = inner[pair[0]].copy(), outer[pair[1]].copy()
    slope = rate * (1 - 1 / (1 + np.exp(-x @ y)))
    inner[pair[0]] += slope * y
    outer[pair[1]] += slope * x


def test_skip_gram_without_negatives_by_loop() -> None:
    rng = np.random.default_rng(0)
    inner, outer = rng.normal(size=(2, 5, 4)).astype(np.float32)
    expected = inner.astype(float), outer.astype(float)
    centres, contexts = rng.integers(0, 5, size=(2, 30)).astype(np.int32)
    table, state = np.zeros(1, dtype=np.int32), np.array([3], dtype=np.uint64)
    _descend(inner, outer, centres, contexts, table, 0, 0.5, 0.1, state)
    for k, pair in enumerate(zip(centres, contexts)):
        descend_one_by_one(*expected, pair, 0.5 - 0.4 * k / 30)
    np.testing.assert_allclose(inner, expected[0], rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(outer, expected[1], rtol=1e-4, atol=1e-5)
    # A negative only pushes away, and the context itself is no negative.
    inner, outer = np.ones((2, 3, 2), dtype=np.float32)
    _descend(inner, outer, np.array([0], dtype=np.int32), np.array([1], dtype=np.int32), np.array([2], dtype=np.int32), 1,
             0.5, 0.5, state)  # fmt: skip
    near, far = 1 / (1 + np.exp(-2.0)) * np.array([1, 1])
    np.testing.assert_allclose(outer, [[1, 1], np.full(2, 1 + 0.5 * (1 - near)), np.full(2, 1 - 0.5 * far)], rtol=1e-5)
    np.testing.assert_allclose(inner[0], 1 + 0.5 * (1 - near) - 0.5 * far, rtol=1e-5)
