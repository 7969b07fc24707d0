"""Intervals have the coverage they state on known cases; few clusters are treated as few."""

import numpy as np
import pytest
from scipy import stats

from expressor import metrics
from expressor.core.errors import DataError
from expressor.core.rng import stream


def coverage_of(draw, truth, repeats=600, **options):
    rng = stream(0, "coverage")
    hits = 0
    for _ in range(repeats):
        values, clusters = draw(rng)
        interval = metrics.cluster_interval(values, clusters, rng=rng, n_draws=600, **options)
        hits += interval.low <= truth <= interval.high
    return hits / repeats


@pytest.mark.parametrize("n", [2, 4, 9])
def test_few_clusters_get_the_t_interval_which_covers(n):
    values = np.random.default_rng(0).normal(size=n)
    found = metrics.cluster_interval(values, rng=stream(0, "x"))
    low, high = stats.t.interval(0.95, n - 1, values.mean(), stats.sem(values))
    assert (found.low, found.high) == pytest.approx((low, high))
    assert (found.design, found.n_clusters) == ("t", n)
    assert coverage_of(lambda rng: (rng.normal(size=n), None), 0.0) == pytest.approx(0.95, abs=0.03)


def test_a_plain_bootstrap_of_four_sections_would_cover_too_little():
    rng = stream(0, "plain")
    hits = 0
    for _ in range(600):
        values = rng.normal(size=4)
        low, high = np.quantile(values[rng.integers(4, size=(400, 4))].mean(axis=1), [0.025, 0.975])
        hits += low <= 0 <= high
    assert hits / 600 < 0.87


def test_many_clusters_get_a_bootstrap_that_covers():
    assert metrics.cluster_interval(np.arange(10.0), rng=stream(0, "x")).design == "bootstrap"
    assert coverage_of(lambda rng: (rng.normal(size=15), None), 0.0) == pytest.approx(0.95, abs=0.035)


def test_correlated_units_need_their_clusters():
    def patients(rng):
        return np.repeat(rng.normal(size=12), 5) + 0.1 * rng.normal(size=60), np.repeat(np.arange(12), 5)

    assert coverage_of(patients, 0.0, repeats=400) > 0.9
    assert coverage_of(patients, 0.0, repeats=400, design="hierarchical") > 0.9
    assert coverage_of(lambda rng: (patients(rng)[0], None), 0.0, repeats=400) < 0.75


def test_unequal_clusters_keep_the_mean_over_units_as_estimate():
    values = np.array([1.0, 2.0, 3.0, 10.0])
    found = metrics.cluster_interval(values, ["p", "p", "p", "q"], rng=stream(0, "x"))
    assert found.value == 4.0
    assert found.n_clusters == 2
    equal = metrics.cluster_interval(np.repeat([1.0, 5.0, 6.0], 3), np.repeat([0, 1, 2], 3), rng=stream(0, "x"))
    assert (equal.low, equal.high) == pytest.approx(stats.t.interval(0.95, 2, 4.0, stats.sem([1.0, 5.0, 6.0])))


def test_one_cluster_has_no_interval():
    found = metrics.cluster_interval([0.1, 0.2, 0.3], ["p"] * 3, rng=stream(0, "x"))
    assert found.value == pytest.approx(0.2)
    assert np.isnan([found.low, found.high]).all()
    assert (found.design, found.n_clusters) == ("none", 1)


def test_undefined_values_are_counted():
    found = metrics.cluster_interval([0.1, np.nan, 0.3], rng=stream(0, "x"))
    assert (found.value, found.n_clusters, found.n_undefined) == (pytest.approx(0.2), 2, 1)
    with pytest.raises(DataError, match="no value is defined; got 2 undefined"):
        metrics.cluster_interval([np.nan, np.nan], rng=stream(0, "x"))
    with pytest.raises(DataError, match="unknown design 'ttest'"):
        metrics.cluster_interval([1.0, 2.0], design="ttest", rng=stream(0, "x"))


def test_paired_differences_count_only_genes_defined_for_both_methods():
    first = np.array([[0.5, 0.1, np.nan], [0.6, 0.2, 0.3]])
    second = np.array([[0.4, np.nan, 0.3], [0.4, 0.1, 0.3]])
    found = metrics.paired_interval(first, second, rng=stream(0, "x"))
    assert found.value == pytest.approx(np.mean([0.1, (0.2 + 0.1 + 0.0) / 3]))


def test_paired_intervals_cover_a_known_difference_and_are_narrower_than_unpaired():
    rng = stream(0, "paired")
    hits, widths, unpaired = 0, [], []
    for _ in range(400):
        section = rng.normal(0, 0.2, size=6)  # what both methods share
        first, second = (section + shift + 0.02 * rng.normal(size=6) for shift in (0.35, 0.33))
        found = metrics.paired_interval(first, second, rng=rng)
        hits += found.low <= 0.02 <= found.high
        widths.append(found.high - found.low)
        alone = metrics.cluster_interval(first, rng=rng)
        unpaired.append(alone.high - alone.low)
    assert hits / 400 == pytest.approx(0.95, abs=0.035)
    assert np.median(widths) < 0.3 * np.median(unpaired)


def test_sign_flips_are_exact_for_few_clusters_and_calibrated_for_many():
    assert metrics.sign_flip_pvalue([0.1, 0.2, 0.3, 0.4], rng=stream(0, "x")) == pytest.approx(2 / 16)
    assert np.isnan(metrics.sign_flip_pvalue([np.nan], rng=stream(0, "x")))
    rng = stream(0, "flips")
    p = np.array([metrics.sign_flip_pvalue(rng.normal(size=16), n_draws=199, rng=rng) for _ in range(500)])
    assert 0.02 < (p <= 0.05).mean() < 0.085


def test_q_values_equal_scipy_and_leave_undefined_tests_out():
    p = np.random.default_rng(0).uniform(size=40) ** 2
    np.testing.assert_allclose(metrics.bh_qvalues(p), stats.false_discovery_control(p))
    with_gap = np.insert(p, 7, np.nan)
    q = metrics.bh_qvalues(with_gap)
    assert np.isnan(q[7])
    np.testing.assert_allclose(np.delete(q, 7), stats.false_discovery_control(p))
    with pytest.raises(DataError, match="p-values are out of range"):
        metrics.bh_qvalues([0.5, 1.2])
