"""The shrinkage Gaussian against the textbook formulas, written out with whole matrices."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import multivariate_normal
from sklearn.covariance import ledoit_wolf_shrinkage
from sklearn.linear_model import Ridge
from sklearn.preprocessing import StandardScaler

from expressor.core.errors import DataError
from expressor.nn import gaussian
from expressor.nn.gaussian import GaussianState, condition, fit_gaussian, posterior_factors, restore


def draw(n: int, p: int, *, factors: int = 3, noise: float = 0.5, seed: int = 0, rows: int = 0) -> torch.Tensor:
    rng = np.random.default_rng(seed)
    loadings = rng.normal(size=(factors, p))
    offset, spread = rng.uniform(1, 8, p), rng.uniform(0.5, 2, p)
    draws = np.random.default_rng((seed, rows, 1))
    values = draws.normal(size=(n, factors)) @ loadings + noise * draws.normal(size=(n, p))
    return torch.from_numpy(values * spread + offset)


def shrunk(values: torch.Tensor, s: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Mean, scale and covariance by NumPy alone."""
    x = values.numpy()
    return x.mean(0), x.std(0), (1 - s) * np.corrcoef(x.T) + s * np.eye(x.shape[1])


def by_hand(values: torch.Tensor, s: float, new: torch.Tensor, seen: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    mean, scale, sigma = shrunk(values, s)
    z = (new.numpy() - mean)[:, seen] / scale[seen]
    weights = sigma[:, seen] @ np.linalg.inv(sigma[np.ix_(seen, seen)])
    variance = np.diag(sigma) - np.einsum("ij,ij->i", weights, sigma[:, seen])
    return mean + scale * (z @ weights.T), scale**2 * variance


@pytest.mark.parametrize(("n", "p"), [(30, 12), (12, 40)], ids=["samples > genes", "genes > samples"])
@pytest.mark.parametrize("n_seen", [0, 1, 5, 11])
def test_the_conditional_is_the_textbook_s(n: int, p: int, n_seen: int, monkeypatch: pytest.MonkeyPatch) -> None:
    values, new = draw(n, p), draw(4, p, rows=1)
    seen = np.random.default_rng(2).permutation(p)[:n_seen]
    mean, variance = by_hand(values, 0.2, new, seen)
    for dense in (4096, 0):
        monkeypatch.setattr(gaussian, "_DENSE", dense)
        state = fit_gaussian(values, shrinkage=0.2)
        observed = torch.from_numpy(seen)
        got, around = condition(state, new[:, seen], observed)
        others = np.setdiff1d(np.arange(p), seen)
        np.testing.assert_allclose(got.numpy()[:, others], mean[:, others], rtol=1e-9)
        assert around is not None
        np.testing.assert_allclose(around.numpy()[others], variance[others], rtol=1e-7)
        part, small = condition(state, new[:, seen], observed, torch.tensor([3, 1]))
        torch.testing.assert_close(part, got[:, [3, 1]])
        torch.testing.assert_close(small, around[[3, 1]])
        assert condition(state, new[:, seen], observed, variance=False)[1] is None


def test_its_mean_is_ridge_regression() -> None:
    """A shrinkage s is the penalty n s / (1 - s) on standardised genes."""
    values, new, s = draw(50, 20), draw(5, 20, rows=1), 0.1
    x = StandardScaler().fit(values.numpy()[:, :8])
    ridge = Ridge(alpha=50 * s / (1 - s)).fit(x.transform(values.numpy()[:, :8]), values.numpy()[:, 8:])
    got, _ = condition(fit_gaussian(values, shrinkage=s), new[:, :8], torch.arange(8), torch.arange(8, 20))
    np.testing.assert_allclose(got.numpy(), ridge.predict(x.transform(new.numpy()[:, :8])), rtol=1e-8)


def test_both_ways_to_solve_agree() -> None:
    """More observed genes than factors, or fewer: the identity of Woodbury joins the two."""
    values, new = draw(20, 60), draw(3, 60, rows=1)
    state = fit_gaussian(values, shrinkage=0.3, rank=6)
    sigma = (state.factors @ state.factors.T + torch.diag(state.noise)).numpy()
    np.testing.assert_allclose(np.diag(sigma), 1.0)
    for n_seen in (4, 30):
        seen = np.arange(n_seen)
        z = (new[:, seen] - state.mean[seen]) / state.scale[seen]
        expected = z.numpy() @ np.linalg.solve(sigma[np.ix_(seen, seen)], state.factors.numpy()[seen])
        np.testing.assert_allclose(posterior_factors(state, new[:, seen], torch.arange(n_seen)), expected, rtol=1e-9)


@given(st.integers(0, 1000), st.floats(0.0, 0.95))
def test_each_row_is_restored_as_if_alone_and_measured_values_stay(seed: int, missing: float) -> None:
    state = fit_gaussian(draw(25, 9), shrinkage=0.1)
    new = draw(6, 9, rows=1)
    gaps = torch.from_numpy(np.random.default_rng(seed).random((6, 9)) < missing)
    holed = torch.where(gaps, torch.nan, new)
    full, variance = restore(state, holed)
    assert torch.equal(full[~gaps], new[~gaps])
    assert bool((variance[~gaps] == 0).all())
    assert bool((variance[gaps] > 0).all())
    for row in range(6):
        seen = torch.nonzero(~gaps[row]).squeeze(1)
        mean, around = condition(state, new[row : row + 1, seen], seen)
        torch.testing.assert_close(full[row][gaps[row]], mean[0][gaps[row]])
        assert around is not None
        torch.testing.assert_close(variance[row][gaps[row]], around[gaps[row]])


@pytest.mark.parametrize("shape", [(40, 15), (15, 40)])
def test_the_formula_of_ledoit_and_wolf_is_scikit_learn_s(shape: tuple[int, int]) -> None:
    values = StandardScaler().fit_transform(draw(*shape, noise=3.0).numpy())
    expected = ledoit_wolf_shrinkage(values, assume_centered=True)
    assert gaussian.ledoit_wolf(torch.from_numpy(values)) == pytest.approx(expected, rel=1e-10)
    fitted = fit_gaussian(draw(*shape, noise=3.0), shrinkage="ledoit_wolf")
    assert float(fitted.shrinkage) == pytest.approx(expected, rel=1e-10)


def test_likelihoods_are_those_of_scipy() -> None:
    values, new = draw(30, 8), draw(5, 8, rows=1)
    state = fit_gaussian(values, shrinkage=0.2)
    mean, scale, sigma = shrunk(values, 0.2)
    z = (new.numpy() - mean) / scale
    expected = multivariate_normal(np.zeros(8), sigma).logpdf(z).sum()
    assert float(gaussian.log_likelihood(state, new)) == pytest.approx(expected, rel=1e-9)
    holed = new.clone()
    holed[0, 3:] = torch.nan
    expected += multivariate_normal(np.zeros(3), sigma[:3, :3]).logpdf(z[0, :3])
    expected -= multivariate_normal(np.zeros(8), sigma).logpdf(z[0])
    assert float(gaussian.log_likelihood(state, holed)) == pytest.approx(expected, rel=1e-9)


def test_the_likelihood_chooses_what_a_search_over_whole_matrices_chooses() -> None:
    values = draw(30, 10, noise=2.0)
    z = torch.from_numpy(StandardScaler().fit_transform(values.numpy()))
    known = torch.ones_like(z, dtype=torch.bool)
    train, test = z[:20], z[20:]
    train = (train - train.mean(0)) / train.std(0, correction=0)
    fast = gaussian._likelihoods(train, test, known, torch.zeros(10))
    slow = gaussian._observed_likelihoods(train, test, known[20:], torch.zeros(10, dtype=torch.float64))
    constant = 10 * 10 / 2 * np.log(2 * np.pi)
    torch.testing.assert_close(fast - constant, slow)
    assert float(fit_gaussian(values).shrinkage) in gaussian.GRID


def test_much_noise_asks_for_more_shrinkage() -> None:
    clean, noisy = (float(fit_gaussian(draw(40, 60, noise=noise)).shrinkage) for noise in (0.1, 5.0))
    assert clean < 0.1 < noisy


def test_gaps_in_the_training_data_cost_little() -> None:
    """With 30 % of the values missing at random, the restored correlations are nearly those of the whole data."""
    values, new = draw(200, 30, noise=1.0), draw(100, 30, noise=1.0, rows=1)
    gaps = torch.from_numpy(np.random.default_rng(3).random((200, 30)) < 0.3)
    whole, holed = fit_gaussian(values), fit_gaussian(torch.where(gaps, torch.nan, values))
    torch.testing.assert_close(holed.mean, whole.mean, rtol=0.0, atol=0.6)
    torch.testing.assert_close(holed.scale, whole.scale, rtol=0.15, atol=0.0)
    seen, hidden = torch.arange(10), torch.arange(10, 30)

    def error(state: GaussianState) -> float:
        found, _ = condition(state, new[:, seen], seen, hidden)
        return float(((found - new[:, hidden]) / whole.scale[hidden]).square().mean().sqrt())

    alone = float(((new[:, hidden] - whole.mean[hidden]) / whole.scale[hidden]).square().mean().sqrt())
    assert error(whole) < 0.75 * alone
    assert error(holed) < error(whole) * 1.05


def test_variances_are_honest_where_the_model_holds() -> None:
    values, new = draw(800, 12, noise=1.0), draw(2000, 12, noise=1.0, rows=1)
    mean, variance = condition(fit_gaussian(values), new[:, :5], torch.arange(5), torch.arange(5, 12))
    assert variance is not None
    ratio = ((new[:, 5:] - mean).square().mean(0) / variance).numpy()
    np.testing.assert_allclose(ratio, 1.0, atol=0.15)


def test_a_constant_gene_tells_nothing_and_keeps_its_value() -> None:
    values = draw(30, 6)
    values[:, 2] = 4.0
    state = fit_gaussian(values, shrinkage=0.1)
    new = draw(3, 6, rows=1)
    with_it, variance = condition(state, new[:, [0, 2]], torch.tensor([0, 2]))
    without, _ = condition(state, new[:, [0]], torch.tensor([0]))
    torch.testing.assert_close(with_it, without)
    assert variance is not None
    assert (with_it[:, 2] == 4.0).all()
    assert variance[2] == 0


def test_it_is_saved_and_read_back(tmp_path: str) -> None:
    from safetensors.torch import load_file, save_file

    state = fit_gaussian(draw(10, 30), shrinkage=0.1)
    save_file(state.tensors(), f"{tmp_path}/gaussian.safetensors")
    again = GaussianState.from_tensors(load_file(f"{tmp_path}/gaussian.safetensors"))
    assert all(torch.equal(one, again.tensors()[name]) for name, one in state.tensors().items())


def test_twenty_thousand_genes_need_no_matrix_of_all_pairs() -> None:
    state = fit_gaussian(draw(40, 20_000), shrinkage=0.1)
    assert state.covariance is None
    assert state.factors.shape == (20_000, 39)
    mean, variance = condition(state, draw(2, 20_000, rows=1)[:, :500], torch.arange(500))
    assert mean.shape == (2, 20_000)
    assert variance is not None
    assert bool((variance > 0).all())


def test_what_cannot_be_fitted_is_refused() -> None:
    values = draw(10, 5)
    holed = values.clone()
    holed[:, 1] = torch.nan
    with pytest.raises(DataError, match=r"1 genes have no measured value\. Leave these genes out"):
        fit_gaussian(holed)
    holed = values.clone()
    holed[3] = torch.nan
    with pytest.raises(DataError, match=r"1 samples have no measured value"):
        fit_gaussian(holed)
    with pytest.raises(DataError, match="too few samples for a covariance; expected at least 2, got 1"):
        fit_gaussian(values[:1])
    with pytest.raises(DataError, match="no gene varies over the samples"):
        fit_gaussian(torch.ones(4, 3))
    holed = values.clone()
    holed[0, 0] = torch.inf
    with pytest.raises(DataError, match="the values are not finite; got 1 infinite values"):
        fit_gaussian(holed)
    with pytest.raises(DataError, match="shrinkage is out of range"):
        fit_gaussian(values, shrinkage=0.0)
    with pytest.raises(DataError, match="unknown shrinkage 'likelyhood'.*nearest: 'likelihood'"):
        fit_gaussian(values, shrinkage="likelyhood")
