"""The Gaussian process against scikit-learn's, and inducing points against the exact posterior."""

import numpy as np
import pytest
import torch
from sklearn.gaussian_process import GaussianProcessRegressor
from sklearn.gaussian_process.kernels import ConstantKernel, Matern, WhiteKernel

from expressor.core.errors import DataError
from expressor.nn import gp


def data(n: int = 60) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    rng = np.random.default_rng(0)
    x, new = rng.uniform(-2, 2, size=(n, 2)), rng.uniform(-2, 2, size=(15, 2))
    y = np.stack([np.sin(x[:, 0]), np.cos(x[:, 1]) * x[:, 0]], axis=1) + 0.1 * rng.normal(size=(n, 2))
    return torch.from_numpy(x), torch.from_numpy(y), torch.from_numpy(new)


LENGTHS, SIGNAL, NOISE = (torch.tensor(one, dtype=torch.float64) for one in ([0.9, 1.7], 1.3, 0.05))


def sklearns(x: torch.Tensor, y: torch.Tensor) -> GaussianProcessRegressor:
    kernel = ConstantKernel(float(SIGNAL)) * Matern(LENGTHS.numpy(), nu=1.5) + WhiteKernel(float(NOISE))
    return GaussianProcessRegressor(kernel, optimizer=None, alpha=1e-8).fit(x.numpy(), y.numpy())


def test_mean_variance_and_likelihood_are_those_of_scikit_learn() -> None:
    x, y, new = data()
    theirs = sklearns(x, y)
    mean, sd = theirs.predict(new.numpy(), return_std=True)
    ours = gp.GaussianProcess(x, y, LENGTHS, SIGNAL, NOISE, x[:0])
    np.testing.assert_allclose(ours.predict(new).numpy(), mean, atol=1e-7)
    np.testing.assert_allclose(ours.variance(new).sqrt().numpy(), sd[:, 0], atol=1e-6)
    likelihood = gp.log_marginal_likelihood(x, y, LENGTHS, SIGNAL, NOISE)
    assert float(likelihood) == pytest.approx(theirs.log_marginal_likelihood_value_, abs=1e-6)


def test_the_fit_reaches_the_likelihood_that_scikit_learn_finds() -> None:
    x, y, _ = data()
    kernel = ConstantKernel(1.0) * Matern([1.0, 1.0], nu=1.5) + WhiteKernel(0.1)
    theirs = GaussianProcessRegressor(kernel, n_restarts_optimizer=2, random_state=0).fit(x.numpy(), y.numpy())
    found = gp.fit_process(x, y, steps=60)
    ours = gp.log_marginal_likelihood(x, y, found.lengths, found.signal, found.noise)
    assert float(ours) > theirs.log_marginal_likelihood_value_ - 0.1


def test_inducing_points_at_all_points_give_the_exact_posterior() -> None:
    x, y, new = data(40)
    exact = gp.GaussianProcess(x, y, LENGTHS, SIGNAL, NOISE, x[:0])
    sparse = gp.GaussianProcess(x, y, LENGTHS, SIGNAL, NOISE, x)
    np.testing.assert_allclose(sparse.predict(new).numpy(), exact.predict(new).numpy(), atol=1e-3)
    np.testing.assert_allclose(sparse.variance(new).numpy(), exact.variance(new).numpy(), atol=1e-3)
    for one in (exact, sparse):
        last = one.predict(new, torch.tensor([y.shape[1] - 1, 0]))
        torch.testing.assert_close(last, one.predict(new)[:, [-1, 0]])


def test_many_points_go_through_inducing_points() -> None:
    x, y, new = data(300)
    exact = gp.fit_process(x, y, judged=100)
    sparse = gp.fit_process(x, y, exact=100, inducing=80, judged=100)
    assert len(exact.inducing) == 0
    assert len(sparse.inducing) == 80
    assert float((exact.predict(new) - sparse.predict(new)).abs().max()) < 0.15
    again = gp.GaussianProcess.from_tensors(sparse.tensors())
    assert torch.equal(again.predict(new), sparse.predict(new))


def test_values_that_are_not_finite_are_refused() -> None:
    x, y, _ = data()
    y[0, 0] = torch.nan
    with pytest.raises(DataError, match="cannot be fitted; expected three or more points, all values finite"):
        gp.fit_process(x, y)
