"""Resampling of patients: what is drawn, and that intervals cover."""

import numpy as np
import pytest
from scipy.stats import ttest_1samp

from expressor.core.errors import DataError
from expressor.metrics.catalogue import ALL, record
from expressor.metrics.patients import (
    bootstrap_weights,
    corrected_resampled_t,
    draw_statistic,
    interval_of,
    paired_difference,
)


def rng(seed=0):
    return np.random.default_rng(seed)


def test_patients_are_drawn_whole():
    weights = bootstrap_weights(["b", "a", "b", "c"], n_draws=500, rng=rng())
    assert weights.shape == (500, 4)
    np.testing.assert_array_equal(weights[:, 0], weights[:, 2])
    np.testing.assert_array_equal(weights[:, [0, 1, 3]].sum(axis=1), 3)
    again = bootstrap_weights(["c", "b", "a"], n_draws=500, rng=rng())
    np.testing.assert_array_equal(again[:, [2, 1, 0]], weights[:, [1, 0, 3]])


def test_interval_of_a_mean_covers():
    covered = 0
    for seed in range(200):
        values = rng(seed).normal(size=60)
        weights = bootstrap_weights(np.arange(60), n_draws=300, rng=rng(seed + 1000))
        draws = draw_statistic(lambda w, values=values: float(w @ values / w.sum()), weights)
        interval = interval_of(values.mean(), draws, n_patients=60)
        assert interval.design == "patients"
        covered += interval.low <= 0 <= interval.high
    assert 0.90 <= covered / 200 <= 0.99


def test_undefined_resamples_are_counted():
    interval = interval_of(1.0, [1.0, np.nan, 2.0], n_patients=5)
    assert interval.n_undefined == 1
    assert np.isnan(interval_of(1.0, [np.nan], n_patients=5).low)
    assert interval_of(1.0, [1.0], n_patients=1).design == "none"


def test_paired_differences_are_narrower():
    values = rng().normal(size=(2, 50)) * 0.1 + rng(1).normal(size=50)
    weights = bootstrap_weights(np.arange(50), rng=rng(2))
    draws = weights @ values.T / weights.sum(axis=1, keepdims=True)
    paired = paired_difference(*values.mean(axis=1), draws[:, 0], draws[:, 1], n_patients=50)
    assert paired.value == pytest.approx(values[0].mean() - values[1].mean())
    alone = interval_of(values[0].mean(), draws[:, 0], n_patients=50)
    assert paired.high - paired.low < 0.5 * (alone.high - alone.low)
    with pytest.raises(DataError, match="resampled differently"):
        paired_difference(0.0, 0.0, draws[:5, 0], draws[:, 1], n_patients=50)


def test_corrected_t():
    differences = rng().normal(0.3, 1, size=10)
    plain = ttest_1samp(differences, 0)
    t, p = corrected_resampled_t(differences, test_share=1e-12)
    assert (t, p) == (pytest.approx(plain.statistic), pytest.approx(plain.pvalue))
    corrected, p_corrected = corrected_resampled_t(differences, test_share=0.25)
    assert corrected == pytest.approx(plain.statistic / np.sqrt(1 + 10 * 0.25))
    assert p_corrected > p
    assert np.isnan(corrected_resampled_t([0.1, np.nan], test_share=0.25)[0])
    assert corrected_resampled_t([0.0, 0.0], test_share=0.25) == (0.0, 1.0)


def test_catalogue():
    assert record("concordance").direction == "higher"
    assert record("pearson") is ALL["pearson"]
    with pytest.raises(DataError, match="no metric is called 'concordanse'; nearest: 'concordance'"):
        record("concordanse")
    for name, one in ALL.items():
        assert one.name == name
        assert one.low < one.high
        assert one.meaning.endswith(".")
