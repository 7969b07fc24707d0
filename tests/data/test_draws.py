"""Numbers that a cell's seed alone decides."""

import numpy as np
from scipy import stats

from expressor.data import draws


def test_a_table_of_uniform_numbers_depends_on_seed_and_place_alone():
    seeds = np.random.default_rng(0).integers(0, 2**64, size=200, dtype=np.uint64)
    table = draws.uniform_table(seeds, 100)
    assert table.dtype == np.float32
    assert table.shape == (200, 100)
    assert (table >= 0).all()
    assert (table < 1).all()
    assert np.array_equal(draws.uniform_table(seeds[50:60], 30), table[50:60, :30])
    assert stats.kstest(table.ravel(), "uniform").pvalue > 0.001
    assert np.abs(np.corrcoef(table[:, :20], rowvar=False) - np.eye(20)).max() < 0.3


def test_it_is_not_the_stream_that_the_same_seed_gives_elsewhere():
    state = np.array([7], dtype=np.uint64)
    one_by_one = np.array([draws.uniform(state) for _ in range(50)], dtype=np.float32)
    assert not np.isin(one_by_one, draws.uniform_table(np.array([7], dtype=np.uint64), 50)).any()
