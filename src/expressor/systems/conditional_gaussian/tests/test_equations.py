"""Each equation against another library, and against the efficient code that the estimator runs."""

import numpy as np
import pytest
import torch
from scipy.stats import multivariate_normal
from sklearn.covariance import ledoit_wolf_shrinkage
from sklearn.linear_model import Ridge

from expressor.nn import gaussian
from expressor.systems.conditional_gaussian import equations


@pytest.fixture
def Z() -> torch.Tensor:
    rng = np.random.default_rng(0)
    Z = rng.normal(size=(40, 3)) @ rng.normal(size=(3, 12)) + rng.normal(size=(40, 12))
    return torch.from_numpy((Z - Z.mean(0)) / Z.std(0))


@pytest.mark.covers("G1")
def test_the_covariance_is_shrunk_towards_independence(Z: torch.Tensor) -> None:
    Sigma = equations.shrunk_correlation(Z, 0.3).numpy()
    np.testing.assert_allclose(np.diag(Sigma), 1.0)
    off = ~np.eye(12, dtype=bool)
    np.testing.assert_allclose(Sigma[off], 0.7 * np.corrcoef(Z.T.numpy())[off], rtol=1e-10)
    state = gaussian.fit_gaussian(Z, shrinkage=0.3)
    np.testing.assert_allclose(state.factors @ state.factors.T + torch.diag(state.noise), Sigma, rtol=1e-9, atol=1e-12)


@pytest.mark.covers("G2", "G3")
def test_the_conditional_is_ridge_regression_and_the_network_of_factors(Z: torch.Tensor) -> None:
    o, h = torch.tensor([7, 0, 3]), torch.tensor([1, 2, 11])
    Sigma = equations.shrunk_correlation(Z, 0.2)
    mean = equations.conditional_mean(Z[:5][:, o], Sigma, o, h)
    ridge = Ridge(alpha=40 * 0.2 / 0.8, fit_intercept=False).fit(Z[:, o].numpy(), Z[:, h].numpy())
    np.testing.assert_allclose(mean, ridge.predict(Z[:5][:, o].numpy()), rtol=1e-9)
    found, variance = gaussian.condition(gaussian.fit_gaussian(Z, shrinkage=0.2), Z[:5][:, o], o, h)
    torch.testing.assert_close(found, mean)
    torch.testing.assert_close(variance, equations.conditional_variance(Sigma, o, h))


@pytest.mark.covers("G3")
def test_the_variance_is_that_of_the_residual() -> None:
    rng = np.random.default_rng(1)
    root = rng.normal(size=(4, 4))
    draws = rng.normal(size=(200_000, 4)) @ root
    Sigma = torch.from_numpy(root.T @ root)
    o, h = torch.tensor([0, 1]), torch.tensor([2, 3])
    mean = equations.conditional_mean(torch.from_numpy(draws[:, :2]), Sigma, o, h)
    np.testing.assert_allclose(
        equations.conditional_variance(Sigma, o, h), (draws[:, 2:] - mean.numpy()).var(0), rtol=0.02
    )


@pytest.mark.covers("G4")
def test_factors_give_the_same_mean() -> None:
    rng = np.random.default_rng(2)
    F, D = torch.from_numpy(rng.normal(size=(9, 2))), torch.from_numpy(rng.uniform(0.2, 1.0, 9))
    Sigma, z = F @ F.T + torch.diag(D), torch.from_numpy(rng.normal(size=(3, 5)))
    o, h = torch.arange(5), torch.arange(5, 9)
    factors = equations.posterior_factors(z, F[:5], D[:5])
    torch.testing.assert_close(factors @ F[5:].T, equations.conditional_mean(z, Sigma, o, h))
    state = gaussian.GaussianState(torch.zeros(9).double(), torch.ones(9).double(), F, D, torch.tensor(0.5).double())
    torch.testing.assert_close(gaussian.posterior_factors(state, z, o), factors)


@pytest.mark.covers("G5")
def test_the_density_is_scipy_s(Z: torch.Tensor) -> None:
    Sigma = equations.shrunk_correlation(Z, 0.2)
    expected = multivariate_normal(np.zeros(12), Sigma.numpy()).logpdf(Z.numpy())
    np.testing.assert_allclose(equations.log_density(Z, Sigma), expected, rtol=1e-9)
    state = gaussian.fit_gaussian(Z, shrinkage=0.2)
    assert float(gaussian.log_likelihood(state, Z)) == pytest.approx(expected.sum(), rel=1e-9)


@pytest.mark.covers("G6")
def test_ledoit_and_wolf_is_scikit_learn_s(Z: torch.Tensor) -> None:
    expected = ledoit_wolf_shrinkage(Z.numpy(), assume_centered=True)
    assert float(equations.ledoit_wolf_shrinkage(Z)) == pytest.approx(expected, rel=1e-9)
    assert gaussian.ledoit_wolf(Z) == pytest.approx(expected, rel=1e-9)


@pytest.mark.covers("G7")
def test_few_errors_inflate_little() -> None:
    squares, n = torch.tensor([400.0, 4.0, 0.0]), torch.tensor([100.0, 1.0, 0.0])
    np.testing.assert_allclose(equations.gene_inflation(squares, n, 10.0), [(410 / 110) ** 0.5, (14 / 11) ** 0.5, 1.0])
