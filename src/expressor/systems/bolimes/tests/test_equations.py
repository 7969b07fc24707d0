"""Each equation against loops, closed forms, or another library."""

import numpy as np
import pytest
from scipy.stats import binomtest
from sklearn.linear_model import Ridge

from expressor.systems.bolimes import equations, selection


@pytest.mark.covers("I1")
def test_a_hit_beats_the_best_shadow() -> None:
    importance, shadows = np.array([0.1, 0.3, 0.5]), np.array([0.0, 0.2, 0.3])
    assert equations.hits(importance, shadows, 1.0).tolist() == [False, False, True]
    assert equations.hits(importance, shadows, 0.5).tolist() == [False, True, True]


@pytest.mark.covers("I2")
def test_p_values_are_those_of_a_coin() -> None:
    h = np.array([0, 3, 10, 12])
    more, fewer = equations.hit_pvalues(h, 12, 5)
    for i, one in enumerate(h):
        assert more[i] == pytest.approx(min(1.0, 5 * binomtest(one, 12, alternative="greater").pvalue))
        assert fewer[i] == pytest.approx(min(1.0, 5 * binomtest(one, 12, alternative="less").pvalue))


@pytest.mark.covers("I3", "I4")
def test_the_local_model_is_weighted_ridge_regression() -> None:
    rng = np.random.default_rng(0)
    Z, f = rng.normal(size=(40, 3)), rng.random(40)
    omega = equations.kernel(np.linalg.norm(Z, axis=1), 1.5)
    np.testing.assert_allclose(omega, [np.exp(-float(z @ z) / 2.25) for z in Z])
    oracle = Ridge(alpha=0.7).fit(Z, f, sample_weight=omega)
    np.testing.assert_allclose(equations.local_model(Z, f, omega, 0.7), oracle.coef_, rtol=1e-9)


@pytest.mark.covers("P1")
def test_importance_is_the_mean_size() -> None:
    c = np.array([[1.0, -2.0], [-3.0, 0.0]])
    assert equations.global_importance(c).tolist() == [2.0, 1.0]


@pytest.mark.covers("P2")
def test_the_fewest_of_the_best_are_kept() -> None:
    assert equations.best_size(np.array([8, 1, 4, 2]), np.array([0.9, 0.5, 0.9, 0.8])) == 4


def test_sizes_rise_to_the_end() -> None:
    sizes = selection.sizes_to_try(500, 60)
    assert sizes[:4].tolist() == [1, 2, 3, 4]
    assert sizes[-1] == 60
    assert (np.diff(sizes) > 0).all()
    assert selection.sizes_to_try(1, 60).tolist() == [1]


def test_the_filter_is_the_f_statistic() -> None:
    from sklearn.feature_selection import f_classif

    rng = np.random.default_rng(0)
    y = np.repeat(["a", "b", "c"], 10)
    X = rng.normal(size=(30, 50)) + (y == "b")[:, None] * rng.random(50)
    best = np.sort(np.argsort(-f_classif(X, y)[0])[:7])
    assert selection.prefilter(X, y, 7).tolist() == best.tolist()
    assert selection.prefilter(X, y, 50).tolist() == list(range(50))
