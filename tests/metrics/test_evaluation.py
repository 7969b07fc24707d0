"""The tidy table: right values, levels of intervals, counts."""

import numpy as np
import pytest

from expressor import metrics
from expressor.core.errors import DataError


@pytest.fixture
def data():
    rng = np.random.default_rng(0)
    sections = np.repeat(["A1", "A2", "B1"], 40)
    coords = np.concatenate([np.stack(np.meshgrid(np.arange(8.0), np.arange(5.0)), -1).reshape(-1, 2)] * 3)
    measured = rng.normal(size=(120, 6))
    predicted = 0.5 * measured + rng.normal(size=(120, 6))
    predicted[:40, 0] = 1.0
    return measured, predicted, sections, np.array([one[0] for one in sections]), coords


def test_the_headline_comes_first_with_its_levels(data):
    measured, predicted, sections, patients, coords = data
    rows = metrics.evaluate(
        measured, predicted, sections=sections, patients=patients, coords=coords, n_permutations=49, n_draws=100
    )
    head = rows[:3]
    assert [(row.metric, row.section, row.level) for row in head] == [
        ("pearson", "all", "sections"), ("pearson", "all", "patients"), ("pearson", "all", "spots"),
    ]  # fmt: skip
    assert [row.n_clusters for row in head] == [3, 2, 3]
    assert [row.design for row in head] == ["t", "t", "spots"]
    expected = metrics.summarise(metrics.pearson(measured, predicted, sections))
    for row in head:
        assert row.value == pytest.approx(expected.value)
        assert row.low < row.value < row.high
        assert (row.n, row.n_undefined) == (18, 1)
    alone = [row for row in rows if row.metric == "pearson" and row.section != "all"]
    assert [(row.section, row.n_undefined) for row in alone] == [("A1", 1), ("A2", 0), ("B1", 0)]
    np.testing.assert_allclose([row.value for row in alone], expected.sections)


def test_without_positions_and_intervals_there_are_no_rows_for_them(data):
    measured, predicted, sections, _, _ = data
    rows = metrics.evaluate(measured, predicted, sections=sections, n_draws=50)
    assert {row.metric for row in rows} == {
        "pearson", "spearman", "mae", "rmse", "variance_ratio", "gene_correlation_error",
    }  # fmt: skip
    assert {row.level for row in rows} == {"sections", ""}


def test_a_constant_prediction_has_no_correlation_but_an_error(data):
    measured, _, sections, _, coords = data
    rows = metrics.evaluate(measured, np.zeros_like(measured), sections=sections, coords=coords, n_permutations=9)
    first = rows[0]
    assert np.isnan(first.value)
    assert first.n_undefined == first.n == 18
    mae = next(row for row in rows if row.metric == "mae")
    assert mae.value > 0
    share = next(row for row in rows if row.metric == "significant_genes")
    assert np.isnan(share.value)
    assert share.n_undefined == 6


def test_the_same_seed_gives_the_same_rows(data):
    measured, predicted, sections, patients, coords = data
    one, other = (
        metrics.evaluate(measured, predicted, sections=sections, coords=coords, n_permutations=29, n_draws=40, seed=3)
        for _ in range(2)
    )
    assert one == other


def test_a_section_of_two_patients_is_refused(data):
    measured, predicted, sections, patients, _ = data
    patients[0] = "Z"
    with pytest.raises(DataError, match="section 'A1' has several patients; expected one, got A, Z"):
        metrics.evaluate(measured, predicted, sections=sections, patients=patients)


def test_intervals_stay_inside_what_the_metric_can_be(data):
    measured, predicted, sections, _, _ = data
    mixed = np.where((sections == "B1")[:, None], -measured, measured)
    kept = sections != "A2"
    rows = metrics.evaluate(measured[kept], mixed[kept], sections=sections[kept], n_draws=20)
    assert (rows[0].value, rows[0].low, rows[0].high) == (pytest.approx(0.0, abs=1e-9), -1.0, 1.0)
