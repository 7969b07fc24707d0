"""Skip-gram: which pairs it sees, and its steps against the formulas."""

import numpy as np
import pytest

from expressor.estimator.skip_gram import _descend, kept_shares, pairs, skip_gram


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


def test_positions_are_those_of_gensim() -> None:
    """The same walks, the same settings: cells are as near to each other as by gensim's word2vec, up to the noise of draws."""
    word2vec = pytest.importorskip("gensim.models").Word2Vec
    rng = np.random.default_rng(0)
    kind = np.repeat(np.arange(4), 20)
    near = np.where(kind[:, None] == kind, 1.0, 0.03) * rng.gamma(1.0, size=(80, 80))
    steps = np.cumsum(near / near.sum(axis=1, keepdims=True), axis=1)
    walks = np.empty((80 * 40, 21), dtype=np.int32)
    walks[:, 0] = np.tile(np.arange(80), 40)
    for t in range(20):
        walks[:, t + 1] = np.minimum((steps[walks[:, t]] < rng.random((len(walks), 1))).sum(axis=1), 79)
    theirs = word2vec(
        [[str(one) for one in walk] for walk in walks],
        vector_size=10,
        window=3,
        min_count=0,
        sg=1,
        workers=1,
        seed=1,
        sample=1 / 80,
    )
    placed = [skip_gram(walks, 80, dim=10, W=3, seed=seed) for seed in (0, 1)]
    placed.append(np.stack([theirs.wv[str(one)] for one in range(80)]))
    pairs_of = np.triu_indices(80, 1)
    unit = [one / np.linalg.norm(one, axis=1, keepdims=True) for one in placed]
    cosines = np.stack([(one @ one.T)[pairs_of] for one in unit])
    alike = np.corrcoef(cosines)
    assert alike[0, 2] > 0.9
    assert alike[0, 2] > alike[0, 1] - 0.05
    lengths = [np.linalg.norm(one, axis=1).mean() for one in placed]
    assert lengths[2] == pytest.approx(lengths[0], rel=0.1)
