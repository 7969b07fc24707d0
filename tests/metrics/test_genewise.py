"""Gene-wise metrics against SciPy and naive loops."""

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from expressor import metrics
from expressor.core.errors import DataError


@pytest.fixture
def tissue():
    rng = np.random.default_rng(0)
    sections = np.array(["b"] * 30 + ["a"] * 20)
    measured = np.log1p(rng.poisson(2.0, size=(50, 7)).astype(np.float32))
    predicted = (0.5 * measured + rng.normal(size=(50, 7))).astype(np.float32)
    measured[:, 3] = 1.25  # constant everywhere
    predicted[sections == "a", 4] = np.float32(0.1)  # constant in one section, as predicted
    return measured, predicted, sections


@pytest.mark.parametrize(
    ("function", "reference"),
    [
        (metrics.pearson, lambda m, p: stats.pearsonr(m, p)[0]),
        (metrics.spearman, lambda m, p: stats.spearmanr(m, p)[0]),
        (metrics.mean_absolute_error, lambda m, p: sum(abs(a - b) for a, b in zip(m, p)) / len(m)),
        (metrics.root_mean_squared_error, lambda m, p: (sum((a - b) ** 2 for a, b in zip(m, p)) / len(m)) ** 0.5),
        (metrics.variance_ratio, lambda m, p: np.var(p) / np.var(m)),
    ],
)
def test_each_gene_of_each_section_equals_the_reference(tissue, function, reference):
    measured, predicted, sections = tissue
    values = function(measured, predicted, sections)
    assert values.shape == (2, 7)
    for i, section in enumerate(("a", "b")):  # alphabetical, not in order of appearance
        rows = sections == section
        for gene in (0, 1, 2, 5, 6):
            expected = reference(measured[rows, gene].astype(float), predicted[rows, gene].astype(float))
            assert values[i, gene] == pytest.approx(expected, abs=1e-12)


def test_a_constant_gene_is_undefined_and_counted_never_zero(tissue):
    measured, predicted, sections = tissue
    for function in (metrics.pearson, metrics.spearman):
        values = function(measured, predicted, sections)
        assert np.isnan(values[:, 3]).all()
        assert np.isnan(values[0, 4])
        assert np.isfinite(values[1, 4])
        summary = metrics.summarise(values)
        assert (summary.n_values, summary.n_undefined) == (14, 3)
        assert summary.value == pytest.approx(np.mean([np.nanmean(values[0]), np.nanmean(values[1])]))
    ratio = metrics.variance_ratio(measured, predicted, sections)
    assert np.isnan(ratio[:, 3]).all()
    assert ratio[0, 4] == pytest.approx(0.0, abs=1e-12)
    assert np.isfinite(metrics.mean_absolute_error(measured, predicted, sections)).all()


def test_rounding_noise_on_a_constant_is_no_correlation():
    rng = np.random.default_rng(0)
    measured = rng.normal(size=(100, 1))
    predicted = np.float32(3.3) * (1 + 1e-7 * rng.normal(size=(100, 1)))
    assert np.isnan(metrics.pearson(measured, predicted)).all()


def test_all_undefined_gives_nan_and_the_count():
    summary = metrics.summarise(metrics.pearson(np.ones((5, 2)), np.arange(10.0).reshape(5, 2)))
    assert np.isnan(summary.value)
    assert summary.n_undefined == 2


def test_tables_are_taken_as_they_are(tissue):
    measured, predicted, sections = tissue
    names = [f"G{i}" for i in range(7)]
    tables = pd.DataFrame(measured, columns=names), pd.DataFrame(predicted, columns=names)
    labels = pd.Series(sections, dtype="category")
    np.testing.assert_array_equal(metrics.pearson(*tables, labels), metrics.pearson(measured, predicted, sections))


@settings(deadline=None, max_examples=30)
@given(st.integers(0, 10**6), st.floats(0.01, 100), st.floats(-50, 50))
def test_correlations_ignore_scale_and_offset_of_the_prediction(seed, scale, offset):
    rng = np.random.default_rng(seed)
    measured, predicted = rng.normal(size=(2, 20, 3))
    for function in (metrics.pearson, metrics.spearman):
        np.testing.assert_allclose(
            function(measured, scale * predicted + offset), function(measured, predicted), atol=1e-9
        )


@pytest.mark.parametrize(
    ("measured", "predicted", "sections", "message"),
    [
        (np.ones((3, 2)), np.ones((3, 3)), None, "differ in shape; expected (3, 2), got (3, 3)"),
        (np.ones(3), np.ones(3), None, "measured is not a matrix of numbers"),
        (np.ones((3, 2)), np.full((3, 2), np.nan), None, "predicted holds values that are not finite; got 6 of 6"),
        (np.ones((3, 2)), np.ones((3, 2)), ["a", "b"], "sections does not fit the matrix; expected (3,) labels"),
        (np.ones((3, 2)), np.ones((3, 2)), ["a", None, "b"], "sections holds missing labels; got 1 of 3"),
        (np.ones((0, 2)), np.ones((0, 2)), None, "measured is empty"),
        (np.full((2, 2), "x"), np.ones((2, 2)), None, "measured is not a matrix of numbers"),
    ],
)
def test_wrong_arrays_are_refused(measured, predicted, sections, message):
    with pytest.raises(DataError) as caught:
        metrics.pearson(measured, predicted, sections)
    assert message in str(caught.value)


def test_every_metric_of_an_evaluation_has_a_record_within_its_bounds(tissue):
    measured, predicted, sections = tissue
    coords = np.random.default_rng(0).uniform(0, 100, size=(50, 2))
    rows = metrics.evaluate(
        measured, predicted, sections=sections, coords=coords, lower=predicted - 1, upper=predicted + 1,
        n_permutations=19, n_draws=50,
    )  # fmt: skip
    assert {row.metric for row in rows} == set(metrics.METRICS)
    for row in rows:
        record = metrics.metric(row.metric)
        assert record.low - 1e-9 <= row.value <= record.high + 1e-9
        assert row.direction == record.direction


def test_an_unknown_metric_is_named_with_its_nearest():
    with pytest.raises(DataError, match="no metric is called 'pearsons'; nearest: 'pearson'"):
        metrics.metric("pearsons")
