"""Metrics of maps against loops, scikit-learn and scipy."""

import numpy as np
import pytest
from scipy.stats import pearsonr, spearmanr
from sklearn.metrics import mean_squared_error, r2_score

from expressor.core.errors import DataError
from expressor.metrics.maps import MapSums, moran_at, rank_correlation, semivariogram, variogram_ratio


def pair(seed=0, n=30):
    rng = np.random.default_rng(seed)
    truth = rng.normal(size=(n, 3)) + 5
    return truth, truth + rng.normal(size=(n, 3))


def test_sums_over_groups_judge_a_resample_as_its_samples_do():
    truth, found = pair()
    groups = np.array(["a", "b", "c"])[np.random.default_rng(1).integers(0, 3, 30)]
    sums = MapSums.of(truth, found, groups)
    weights = np.array([[1.0, 1, 1], [2, 0, 1]])
    for draw, w in enumerate(weights):
        rows = np.concatenate([np.tile(np.flatnonzero(groups == name), int(k)) for name, k in zip("abc", w)])
        t, f = truth[rows], found[rows]
        assert sums.r2(weights)[draw] == pytest.approx(r2_score(t, f))
        assert sums.mse(weights)[draw] == pytest.approx(mean_squared_error(t, f))
        r = np.mean([pearsonr(t[:, j], f[:, j]).statistic for j in range(3)])
        assert sums.r(weights)[draw] == pytest.approx(r)
    with pytest.raises(DataError, match="groups do not fit"):
        MapSums.of(truth, found, groups[:5])


def test_a_constant_gene_is_in_no_mean():
    truth, found = pair()
    truth[:, 0] = 2.0
    one = np.ones((1, 1))
    sums = MapSums.of(truth, found, np.zeros(30))
    assert sums.r2(one)[0] == pytest.approx(r2_score(truth[:, 1:], found[:, 1:]))
    assert np.isnan(MapSums.of(truth[:, :1], found[:, :1], np.zeros(30)).r(one)[0])
    assert np.isnan(rank_correlation(truth, found)[0])
    assert np.isnan(moran_at(truth, found)[0])


def test_ranks_are_scipys():
    truth, found = pair()
    truth[:4, 1] = 0.0
    expected = [spearmanr(truth[:, j], found[:, j]).statistic for j in range(3)]
    np.testing.assert_allclose(rank_correlation(truth, found), expected)


def test_morans_index_and_semivariogram_are_those_of_loops():
    rng = np.random.default_rng(0)
    places, values = rng.normal(size=(20, 3)), rng.normal(size=(20, 2))
    distance = np.linalg.norm(places[:, None] - places, axis=2)
    z = values - values.mean(axis=0)
    total = np.zeros(2)
    for i in range(20):
        near = [j for j in np.argsort(distance[i]) if j != i][:4]
        for j in near:
            total += z[i] * z[j] / 4
    np.testing.assert_allclose(moran_at(values, places, n_neighbors=4), total / (z**2).sum(axis=0))
    half, sums, count = distance.max() / 2, np.zeros((5, 2)), np.zeros(5)
    for i in range(20):
        for j in range(i):
            k = int(distance[i, j] / half * 5)
            if k < 5:
                sums[k] += (values[i] - values[j]) ** 2 / 2
                count[k] += 1
    np.testing.assert_allclose(semivariogram(values, places, n_bins=5), sums / count[:, None])
    np.testing.assert_allclose(variogram_ratio(values, values / 2, places), 0.25)


def test_a_smooth_map_has_a_larger_index_than_noise():
    places = np.random.default_rng(0).uniform(size=(300, 3))
    values = np.stack([np.sin(3 * places[:, 0]), np.random.default_rng(1).normal(size=300)], axis=1)
    smooth, noise = moran_at(values, places)
    assert smooth > 0.7
    assert abs(noise) < 0.15
    assert np.isnan(moran_at(values[:4], places[:4])).all()
    places[:10] = places[0]  # some samples were taken twice at one place
    assert np.isfinite(moran_at(values, places)).all()
