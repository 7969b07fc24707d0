"""Each equation against another way to the same number."""

import numpy as np
import pytest
from ridge_probe import equations
from sklearn.linear_model import Ridge


@pytest.fixture
def data() -> tuple[np.ndarray, np.ndarray]:
    random = np.random.default_rng(0)
    X = random.normal(size=(30, 4))
    return X, X @ random.normal(size=(4, 3)) + 2.0


@pytest.mark.covers("1")
def test_ridge_is_the_minimum(data: tuple[np.ndarray, np.ndarray]) -> None:
    X, Y = data
    beta = equations.ridge(X, Y, 5.0)
    gradient = X.T @ (X @ beta - Y) + 5.0 * beta
    np.testing.assert_allclose(gradient, 0.0, atol=1e-10)


@pytest.mark.covers("I1")
def test_prediction_equals_scikit_learns(data: tuple[np.ndarray, np.ndarray]) -> None:
    X, Y = data
    beta = equations.ridge(X - X.mean(0), Y - Y.mean(0), 5.0)
    expected = Ridge(alpha=5.0).fit(X, Y).predict(X)
    np.testing.assert_allclose(equations.predict(X, X.mean(0), Y.mean(0), beta), expected)
