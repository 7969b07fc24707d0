"""Gene-gene and spatial structure, and predictive intervals, against naive loops."""

import numpy as np
import pytest

from expressor import metrics
from expressor.core.errors import DataError


@pytest.fixture
def pair():
    rng = np.random.default_rng(1)
    measured = rng.normal(size=(60, 5)) @ rng.normal(size=(5, 5))
    return measured, measured + rng.normal(size=(60, 5)), np.repeat(["s1", "s2"], 30)


def test_gene_correlation_error_is_the_rms_over_pairs(pair):
    measured, predicted, sections = pair
    predicted[:30, 2] = 7.0  # constant in s1: its four pairs are left out there
    found = metrics.gene_correlation_error(measured, predicted, sections)
    for i, genes in enumerate(([0, 1, 3, 4], [0, 1, 2, 3, 4])):
        rows = slice(30 * i, 30 * (i + 1))
        squares = []
        for a in genes:
            for b in genes:
                if a < b:
                    one = np.corrcoef(measured[rows, a], measured[rows, b])[0, 1]
                    other = np.corrcoef(predicted[rows, a], predicted[rows, b])[0, 1]
                    squares.append((one - other) ** 2)
        assert found[i] == pytest.approx(np.mean(squares) ** 0.5)
    assert np.isnan(metrics.gene_correlation_error(measured[:, :1], predicted[:, :1])).all()


def test_moran_concordance_is_one_for_the_truth_and_sees_smoothing():
    rng = np.random.default_rng(2)
    coords = np.stack(np.meshgrid(np.arange(12.0), np.arange(12.0)), -1).reshape(-1, 2)
    wave = np.sin(coords[:, :1] / 12 * np.arange(1, 9)[None] * 3)
    measured = wave + rng.normal(size=(144, 8)) * np.linspace(0.2, 3, 8)
    concordance, bias = metrics.moran_concordance(measured, measured, coords)
    assert concordance == pytest.approx([1.0])
    assert bias == pytest.approx([0.0])
    distance = np.linalg.norm(coords[:, None] - coords[None], axis=-1)
    near = (distance < 1.5) / (distance < 1.5).sum(1, keepdims=True)
    concordance, bias = metrics.moran_concordance(measured, near @ measured, coords)
    assert bias[0] > 0.2
    assert concordance[0] < 0.7


def test_moran_concordance_leaves_small_sections_undefined():
    rng = np.random.default_rng(3)
    coords, values = rng.uniform(size=(45, 2)), rng.normal(size=(45, 4))
    concordance, bias = metrics.moran_concordance(values, values, coords, ["a"] * 40 + ["b"] * 5)
    assert concordance[0] == pytest.approx(1.0)
    assert np.isnan(concordance[1])
    assert np.isnan(bias[1])


def test_interval_metrics_equal_loops(pair):
    measured, predicted, sections = pair
    lower, upper = predicted - 0.7, predicted + 1.1
    inside = metrics.interval_coverage(measured, lower, upper, sections)
    width = metrics.interval_width(lower, upper, sections)
    score = metrics.interval_score(measured, lower, upper, sections, coverage=0.8)
    np.testing.assert_allclose(width, 1.8)
    for i in range(2):
        for gene in range(5):
            hits, total = 0, 0.0
            for spot in range(30 * i, 30 * (i + 1)):
                y, lo, up = measured[spot, gene], lower[spot, gene], upper[spot, gene]
                hits += lo <= y <= up
                total += up - lo + (2 / 0.2) * (max(lo - y, 0) + max(y - up, 0))
            assert inside[i, gene] == pytest.approx(hits / 30)
            assert score[i, gene] == pytest.approx(total / 30)


def test_crossed_bounds_are_refused(pair):
    measured, predicted, _ = pair
    with pytest.raises(DataError, match="lower lies above upper; got 300 of 300 intervals"):
        metrics.interval_coverage(measured, predicted + 1, predicted - 1)


def test_an_interval_of_true_quantiles_has_the_best_score():
    rng = np.random.default_rng(4)
    y = rng.normal(size=(20000, 1))
    scores = [
        metrics.interval_score(y, np.full_like(y, -half), np.full_like(y, half), coverage=0.9)[0, 0]
        for half in (1.2, 1.645, 2.1)
    ]
    assert scores[1] == min(scores)
