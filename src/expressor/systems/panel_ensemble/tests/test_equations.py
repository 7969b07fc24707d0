"""Each equation against another library or a loop."""

import numpy as np
import pytest
from scipy.stats import ttest_ind
from sklearn.ensemble import VotingClassifier
from sklearn.feature_selection import f_classif
from sklearn.linear_model import LogisticRegression
from sklearn.naive_bayes import GaussianNB
from sklearn.preprocessing import StandardScaler

from expressor.systems.panel_ensemble import ensemble, equations


@pytest.fixture
def data() -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    c = rng.integers(0, 3, 60)
    return rng.normal(size=(60, 20)) * 2 + 5 + np.eye(20)[c] * 3, c


@pytest.mark.covers("I1")
def test_standard_scores(data: tuple[np.ndarray, np.ndarray]) -> None:
    X, _ = data
    mean, scale = ensemble.standard_scores(X[:40])
    expected = StandardScaler().fit(X[:40]).transform(X)
    np.testing.assert_allclose(equations.standardise(X, mean, scale), expected)
    X[50, 3], X[51, 3] = 1e6, -1e6
    assert equations.standardise(X, mean, scale)[50:52, 3].tolist() == [5.0, -5.0]
    assert ensemble.standard_scores(np.ones((5, 2)))[1].tolist() == [1.0, 1.0]


@pytest.mark.covers("I2")
def test_f_is_scikit_learn_s(data: tuple[np.ndarray, np.ndarray]) -> None:
    X, c = data
    np.testing.assert_allclose(equations.f_statistic(X, c), f_classif(X, c)[0])
    X[:, 4] = 1.0
    assert equations.f_statistic(X, c)[4] == 0.0
    assert ensemble.choose_genes(X, c, 3, "anova").tolist() == np.argsort(-equations.f_statistic(X, c))[:3].tolist()


@pytest.mark.covers("I3")
def test_t_is_scipy_s_and_classes_take_turns(data: tuple[np.ndarray, np.ndarray]) -> None:
    X, c = data
    t = equations.one_against_rest(X, c)
    for k in range(3):
        np.testing.assert_allclose(t[k], ttest_ind(X[c == k], X[c != k]).statistic)
    panel = ensemble.choose_genes(X, c, 3, "one_vs_rest")
    assert set(panel) == {int(np.abs(one).argmax()) for one in t}
    everything = ensemble.choose_genes(X, c, 99, "one_vs_rest")
    assert sorted(everything) == list(range(20))


@pytest.mark.covers("P1")
def test_the_best_are_members() -> None:
    assert equations.best_members(np.array([0.5, 0.9, 0.7, 0.9]), 3).tolist() == [1, 3, 2]


@pytest.mark.covers("P2")
def test_the_vote_is_scikit_learn_s(data: tuple[np.ndarray, np.ndarray]) -> None:
    X, c = data
    models = [("a", LogisticRegression(max_iter=1000)), ("b", GaussianNB())]
    expected = VotingClassifier(models, voting="soft").fit(X, c).predict_proba(X)
    got = equations.vote(np.stack([model.fit(X, c).predict_proba(X) for _, model in models]))
    np.testing.assert_allclose(got, expected)


@pytest.mark.covers("I4")
def test_a_gene_that_decides_speaks(data: tuple[np.ndarray, np.ndarray]) -> None:
    z, c = data
    z = z - z.mean(0)

    def predict(one: np.ndarray) -> np.ndarray:
        p = 1 / (1 + np.exp(-one[:, 1]))
        return np.column_stack([1 - p, p])

    two = (c == 1).astype(np.int64)
    got = ensemble.speak(z, two, 2, predict)
    assert not got[:, [0, 2, 5]].any()
    expected = np.mean([predict(z[i : i + 1])[0, 1] - 0.5 for i in range(60) if two[i]])
    assert got[1, 1] == pytest.approx(expected)
    assert equations.occlusion(np.array([0.9, 0.7]), np.array([0.5, 0.7])) == pytest.approx(0.2)
