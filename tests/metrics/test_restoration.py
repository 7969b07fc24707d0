"""Metrics of restored values against loops over what was hidden."""

import numpy as np
import pytest
from scipy.stats import pearsonr

from expressor.core.errors import DataError
from expressor.metrics.restoration import (
    gene_correlation,
    gene_rmse,
    restoration_coverage,
    restoration_rmse,
    sample_correlation,
    squared_errors,
)


@pytest.fixture
def hidden():
    rng = np.random.default_rng(0)
    mean, spread = rng.normal(5, 2, size=7), rng.uniform(0.5, 2, size=7)
    measured = mean + spread * rng.normal(size=(12, 7))
    restored = measured + 0.5 * spread * rng.normal(size=(12, 7))
    judged = rng.random((12, 7)) < 0.5
    judged[:, 0] = False  # never hidden
    judged[0] = False
    judged[:4, 1] = True
    measured[~judged] = np.nan  # nobody looks there
    return measured, restored, judged, mean, spread


def test_error_is_that_of_a_loop(hidden):
    measured, restored, judged, _, spread = hidden
    errors = [((restored - measured) / spread)[i, j] for i in range(12) for j in range(7) if judged[i, j]]
    assert restoration_rmse(measured, restored, judged, spread=spread) == pytest.approx(
        np.sqrt(np.mean(np.square(errors)))
    )
    total, n = squared_errors(measured, restored, judged, spread=spread)
    assert n.sum() == judged.sum()
    assert total.sum() == pytest.approx(np.sum(np.square(errors)))
    by_gene = gene_rmse(measured, restored, judged, spread=spread)
    assert np.isnan(by_gene[0])
    rows = judged[:, 3]
    wanted = np.sqrt(np.mean(((restored - measured)[rows, 3] / spread[3]) ** 2))
    assert by_gene[3] == pytest.approx(wanted)


def test_correlations_are_those_of_a_loop(hidden):
    measured, restored, judged, mean, spread = hidden
    by_gene = gene_correlation(measured, restored, judged)
    for gene in range(7):
        rows = judged[:, gene]
        if rows.sum() < 3:
            assert np.isnan(by_gene[gene])
        else:
            assert by_gene[gene] == pytest.approx(pearsonr(measured[rows, gene], restored[rows, gene])[0])
    by_sample = sample_correlation(measured, restored, judged, mean=mean, spread=spread)
    for sample in range(12):
        own = judged[sample]
        if own.sum() < 3:
            assert np.isnan(by_sample[sample])
        else:
            one = ((measured - mean) / spread)[sample, own]
            other = ((restored - mean) / spread)[sample, own]
            assert by_sample[sample] == pytest.approx(pearsonr(one, other)[0])


def test_a_gene_restored_to_a_constant_has_no_correlation(hidden):
    measured, restored, judged, mean, _ = hidden
    restored = np.tile(mean, (12, 1))
    assert np.isnan(gene_correlation(measured, restored, judged)).all()


def test_coverage_is_that_of_a_loop(hidden):
    measured, restored, judged, _, spread = hidden
    lower, upper = restored - 0.6 * spread, restored + 0.4 * spread
    inside, width = restoration_coverage(measured, lower, upper, judged, spread=spread)
    for sample in range(12):
        own = judged[sample]
        if not own.any():
            assert np.isnan(inside[sample])
            continue
        wanted = ((measured >= lower) & (measured <= upper))[sample, own].mean()
        assert inside[sample] == pytest.approx(wanted)
        assert width[sample] == pytest.approx(1.0)
    with pytest.raises(DataError, match="lower lies above upper"):
        restoration_coverage(measured, upper, lower, judged, spread=spread)


def test_wrong_input_is_refused(hidden):
    measured, restored, judged, _, spread = hidden
    with pytest.raises(DataError, match="nothing is judged"):
        restoration_rmse(measured, restored, np.zeros_like(judged), spread=spread)
    with pytest.raises(DataError, match="do not fit; expected \\(sample, gene\\) each"):
        restoration_rmse(measured, restored[:3], judged, spread=spread)
    with pytest.raises(DataError, match="the standard deviations do not fit"):
        restoration_rmse(measured, restored, judged, spread=spread * 0)
    restored[judged] = np.nan
    with pytest.raises(DataError, match="restored holds values that are not finite where it is judged"):
        restoration_rmse(measured, restored, judged, spread=spread)
