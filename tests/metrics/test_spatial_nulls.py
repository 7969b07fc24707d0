"""Surrogates keep what they promise and nothing else; tests against them keep their level where the naive one does not."""

import numpy as np
import pandas as pd
import pytest
from anndata import AnnData
from scipy import stats

from expressor.core.errors import DataError
from expressor.core.rng import stream
from expressor.metrics import associate
from expressor.metrics.spatial_nulls import (
    distances_of,
    moran_index,
    moran_surrogates,
    moran_vectors,
    variogram,
    variogram_surrogates,
)


def brain(n: int, rng: np.random.Generator) -> np.ndarray:
    """Places in an ellipsoid of a brain's size, mm."""
    place = rng.normal(size=(n, 3))
    place *= rng.random((n, 1)) ** (1 / 3) / np.linalg.norm(place, axis=1, keepdims=True)
    return place * [70, 90, 60]


def fields(distance: np.ndarray, reach: float, genes: int, rng: np.random.Generator) -> np.ndarray:
    """Independent Gaussian maps, (point, gene), of exponential covariance."""
    covariance = np.exp(-distance / reach) + 1e-9 * np.eye(len(distance))
    return np.linalg.cholesky(covariance) @ rng.normal(size=(len(distance), genes))


@pytest.fixture(scope="module")
def smooth():
    rng = np.random.default_rng(0)
    place = brain(90, rng)
    distance = distances_of(place)
    return place, distance, fields(distance, 40, 1, rng)[:, 0] + 3.0


def test_vectors_against_their_definition(smooth):
    distance = smooth[1]
    n = len(distance)
    weights = np.array([[0 if i == j else 1 / distance[i, j] for j in range(n)] for i in range(n)])
    centring = np.eye(n) - 1 / n
    vectors = moran_vectors(distance)
    assert vectors.shape == (n, n - 1)
    np.testing.assert_allclose(vectors.T @ vectors, np.eye(n - 1), atol=1e-9)
    np.testing.assert_allclose(vectors.sum(axis=0), 0, atol=1e-8)
    turned = vectors.T @ centring @ weights @ centring @ vectors
    np.testing.assert_allclose(turned, np.diag(np.diag(turned)), atol=1e-8)
    assert (np.diff(np.diag(turned)) <= 1e-9).all()


def test_moran_keeps_moments_spectrum_and_index(smooth):
    _, distance, x = smooth
    made = moran_surrogates(x, distance, n=30, rng=np.random.default_rng(1))
    np.testing.assert_allclose(made.mean(axis=1), x.mean())
    np.testing.assert_allclose(made.var(axis=1), x.var())
    vectors = moran_vectors(distance)
    np.testing.assert_allclose(np.abs(made @ vectors), np.tile(np.abs(x @ vectors), (30, 1)), atol=1e-9)
    np.testing.assert_allclose(moran_index(made, distance), moran_index(x, distance)[0])
    assert np.abs(np.corrcoef(made)[0, 1:]).max() < 0.9
    pairs = moran_surrogates(x, distance, n=30, rng=np.random.default_rng(1), procedure="pair")
    np.testing.assert_allclose(pairs.mean(axis=1), x.mean())
    np.testing.assert_allclose(pairs.var(axis=1), x.var())
    assert np.abs(moran_index(pairs, distance) - moran_index(x, distance)).max() < 0.03
    shuffled = np.random.default_rng(2).permuted(np.tile(x, (30, 1)), axis=1)
    assert np.abs(moran_index(shuffled, distance) - moran_index(x, distance)).min() > 0.03


def test_moran_index_against_loops(smooth):
    _, distance, x = smooth
    n, z = len(x), x - x.mean()
    top = sum(z[i] * z[j] / distance[i, j] for i in range(n) for j in range(n) if i != j)
    weight = sum(1 / distance[i, j] for i in range(n) for j in range(n) if i != j)
    assert moran_index(x, distance)[0] == pytest.approx(n / weight * top / (z @ z))


def test_variogram_against_loops(smooth):
    _, distance, x = smooth
    steps, found = variogram(x, distance)
    apart = [(distance[i, j], (x[i] - x[j]) ** 2 / 2) for i in range(len(x)) for j in range(i)]
    reach = np.percentile([one for one, _ in apart], 25)
    apart = [one for one in apart if one[0] <= reach]
    for k in (0, 7, 24):
        width = 3 * (steps[1] - steps[0])
        weight = [np.exp(-((2.68 * (steps[k] - d)) ** 2) / (2 * width**2)) for d, _ in apart]
        expected = sum(w * half for w, (_, half) in zip(weight, apart)) / sum(weight)
        assert found[0, k] == pytest.approx(expected)


def test_variogram_is_matched(smooth):
    _, distance, x = smooth
    rng = np.random.default_rng(3)
    made = variogram_surrogates(x, distance, n=200, rng=rng)
    wanted, found = variogram(x, distance)[1][0], variogram(made, distance)[1].mean(axis=0)
    shuffled = variogram(rng.permuted(np.tile(x, (200, 1)), axis=1), distance)[1].mean(axis=0)
    assert np.abs(np.log(found / wanted)).mean() < 0.5 * np.abs(np.log(shuffled / wanted)).mean()
    assert found[0] < 0.6 * shuffled[0]
    # Their mean over many is flat: nothing of where the map is high is left.
    assert abs(np.corrcoef(made.mean(axis=0), x)[0, 1]) < 0.3
    kept = variogram_surrogates(x, distance, n=5, rng=rng, keep_values=True)
    np.testing.assert_allclose(np.sort(kept, axis=1), np.tile(np.sort(x), (5, 1)))


def test_a_map_of_noise_gets_surrogates_of_noise():
    rng = np.random.default_rng(4)
    distance = distances_of(brain(80, rng))
    x = rng.normal(size=80)
    made = variogram_surrogates(x, distance, n=200, rng=rng)
    assert abs(moran_index(made, distance).mean() - moran_index(x, distance)[0]) < 0.03
    assert made.var(axis=1).mean() == pytest.approx(x.var(), rel=0.15)


def test_level_and_power():
    """Unrelated smooth maps: the naive test rejects far too often, the others do not. A related map is found."""
    rng = np.random.default_rng(5)
    rejected = {"p_naive": [], "p_moran": [], "p_variogram": []}
    for _ in range(20):
        distance = distances_of(brain(70, rng))
        maps = fields(distance, 40, 41, rng)
        table = associate(maps[:, 1:], maps[:, 0], distances=distance, permutations=199, seed=int(rng.integers(1000)))
        for name, found in rejected.items():
            found.append((table[name] <= 0.05).mean())
    level = {name: np.mean(one) for name, one in rejected.items()}
    assert level["p_naive"] > 0.15
    assert 0.02 < level["p_moran"] < 0.09
    assert 0.02 < level["p_variogram"] < 0.08
    planted = maps[:, 1:].copy()
    planted[:, 7] = maps[:, 0] + 0.4 * planted[:, 7]
    table = associate(planted, maps[:, 0], distances=distance, permutations=999)
    assert table["q_moran"].idxmin() == table["q_variogram"].idxmin() == "7"
    assert table.loc["7", ["q_moran", "q_variogram", "familywise_moran", "familywise_variogram"]].max() < 0.05
    assert (table["familywise_moran"] >= table["p_moran"]).all()


def test_table(smooth):
    place, distance, x = smooth
    rng = np.random.default_rng(6)
    maps = rng.normal(size=(len(x), 4))
    maps[:, 2], maps[5, 3] = 1.0, np.nan
    adata = AnnData(maps, var=pd.DataFrame(index=list("ABCD")), obsm={"mni": place})
    target = x.copy()
    target[[0, 3]] = np.nan
    kept = np.isfinite(target)
    table = associate(adata, target, nulls=["moran"], permutations=99)
    assert list(table.columns) == ["r", "p_naive", "p_moran", "q_moran", "familywise_moran"]
    assert table.index.tolist() == list("ABCD")
    known = stats.pearsonr(maps[kept, 0], x[kept])
    assert table.loc["A", "r"] == pytest.approx(known.statistic)
    assert table.loc["A", "p_naive"] == pytest.approx(known.pvalue)
    assert table.loc[["C", "D"]].isna().all(axis=None)
    assert table.attrs == {"points": len(x) - 2, "permutations": 99}
    drawn = moran_surrogates(x[kept], distance[np.ix_(kept, kept)], n=99, rng=stream(0, "moran surrogates"))
    by_chance = [abs(stats.pearsonr(one, maps[kept, 1]).statistic) for one in drawn]
    expected = (1 + sum(one >= abs(table.loc["B", "r"]) for one in by_chance)) / 100
    assert table.loc["B", "p_moran"] == pytest.approx(expected)
    pd.testing.assert_frame_equal(table, associate(adata, target, nulls=["moran"], permutations=99))
    ranked = associate(maps[:, :2], x, place, rank=True, permutations=19)
    assert ranked.loc["1", "r"] == pytest.approx(stats.spearmanr(maps[:, 1], x).statistic)
    other = associate(maps[:, :1], x**3, place, rank=True, permutations=19, nulls=["moran"])
    again = associate(maps[:, :1], np.sign(x**3) * np.abs(x), place, rank=True, permutations=19, nulls=["moran"])
    assert other.loc["0", "p_moran"] == again.loc["0", "p_moran"]


def test_what_is_refused(smooth):
    place, distance, x = smooth
    maps = x[:, None]
    with pytest.raises(DataError, match="maps have no places.*Give places="):
        associate(maps, x)
    with pytest.raises(DataError, match="unknown null 'morans'.*nearest: 'moran'"):
        associate(maps, x, place, nulls=["morans"])
    with pytest.raises(DataError, match=r"does not fit the genes' maps; expected \(90,\), got \(89,\)"):
        associate(maps, x[1:], place)
    with pytest.raises(DataError, match="permutations"):
        associate(maps, x, place, permutations=5)
    with pytest.raises(DataError, match="map is constant or not finite"):
        associate(maps, np.ones(90), place)
    with pytest.raises(DataError, match="Join points that lie at the same place"):
        associate(maps, x, np.concatenate([place[:1], place[:-1]]))
    with pytest.raises(DataError, match="of so few points"):
        associate(maps[:5], x[:5], place[:5])
    with pytest.raises(DataError, match=r"too many points.*got 5,001.*brain_grid\(resolution=8\)"):
        distances_of(np.zeros((5001, 3)))
    with pytest.raises(DataError, match="maps and genes do not fit"):
        associate(maps, x, place, genes=["A", "B"])
