"""Each equation against its definition, and the path of the elastic net against scikit-survival's."""

import math

import numpy as np
import pytest
import torch
from torch import Tensor

from expressor.estimator.inner import inner_folds
from expressor.nn.cox import PartialLikelihood, fit_cox
from expressor.systems.penalised_cox import equations, fitting, path


def cohort(n: int = 80, p: int = 30, *, seed: int = 0, ties: bool = False) -> tuple[Tensor, Tensor, Tensor]:
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(n, p))
    x = (x - x.mean(0)) / x.std(0)
    time = rng.exponential(np.exp(-x[:, 0] + 0.5 * x[:, 1]))
    time = np.ceil(time * 5) if ties else time
    return torch.from_numpy(x), torch.from_numpy(time), torch.from_numpy(rng.random(n) < 0.7)


@pytest.mark.covers("P1")
def test_the_likelihood_is_its_definition() -> None:
    x, time, event = cohort(30, ties=True)
    eta, total = x[:, 0], 0.0
    for t in time[event].unique().tolist():
        dead = torch.nonzero(event & (time == t)).squeeze(1).tolist()
        at_risk, gone = float(eta[time >= t].exp().sum()), float(eta[dead].exp().sum())
        total += sum(float(eta[i]) - math.log(at_risk - k / len(dead) * gone) for k, i in enumerate(dead))
    assert float(equations.log_partial_likelihood(eta, time, event)) == pytest.approx(total, rel=1e-10)


@pytest.mark.covers("P2")
def test_the_objective_is_a_sum() -> None:
    beta = torch.tensor([1.0, -2.0, 0.0])
    got = equations.objective(torch.tensor(3.0), beta, 0.5, 0.2)
    assert float(got) == pytest.approx(3.0 + 0.5 * (0.2 * 3.0 + 0.8 / 2 * 5.0))


@pytest.mark.covers("P3")
def test_at_the_largest_penalty_nothing_is_left_and_just_below_something_is() -> None:
    x, time, event = cohort()
    likelihood = PartialLikelihood(time, event)
    alphas = path.alpha_grid(x, likelihood, 0.5, n=5, ratio=0.1)
    assert alphas[-1] == pytest.approx(0.1 * alphas[0])
    found = path.fit_path(x, likelihood, [alphas[0] * 1.0001, alphas[0] * 0.98], 0.5)
    assert not found[0].any()
    assert int((found[1] != 0).sum()) == 1
    gradient = x.T @ likelihood.residuals(torch.zeros(80)) / likelihood.n_events
    assert float(equations.largest_alpha(gradient, 0.5)) == pytest.approx(alphas[0])


@pytest.mark.covers("P4")
def test_the_proximal_step_minimises_its_model() -> None:
    """The step is the minimum of the linearised loss, the penalty and the distance moved; a fine grid finds no better one."""
    grid = torch.linspace(-3, 3, 600_001, dtype=torch.float64)
    for beta, gradient in ((0.7, 0.4), (0.1, 0.3), (-1.0, 0.2), (0.0, -3.0)):
        step, alpha, rho = 0.5, 0.8, 0.6
        model = gradient * grid + (grid - beta) ** 2 / (2 * step) + alpha * (rho * grid.abs() + (1 - rho) / 2 * grid**2)
        got = equations.proximal_step(
            torch.tensor([beta]).double(), torch.tensor([gradient]).double(), step, alpha, rho
        )
        assert float(got) == pytest.approx(float(grid[model.argmin()]), abs=2e-5)


@pytest.mark.covers("P2", "P4")
@pytest.mark.parametrize("rho", [0.5, 1.0])
def test_the_path_is_scikit_survival_s(rho: float, monkeypatch: pytest.MonkeyPatch) -> None:
    linear = pytest.importorskip("sksurv.linear_model")
    monkeypatch.setattr(path, "_TOLERANCE", 1e-12)
    x, time, event = cohort()
    y = np.array(list(zip(event.tolist(), time.tolist())), dtype=[("event", bool), ("time", float)])
    oracle = linear.CoxnetSurvivalAnalysis(
        l1_ratio=rho, n_alphas=12, alpha_min_ratio=0.05, tol=1e-13, max_iter=1_000_000
    )
    oracle.fit(x.numpy(), y)
    likelihood = PartialLikelihood(time, event, ties="breslow")
    # They divide the loss by patients, here it is divided by events.
    alphas = [float(one) * len(x) / likelihood.n_events for one in oracle.alphas_]
    assert alphas[0] == pytest.approx(path.alpha_grid(x, likelihood, rho, n=2, ratio=0.5)[0], rel=1e-6)
    found = path.fit_path(x, likelihood, alphas, rho).numpy().T
    np.testing.assert_allclose(found, oracle.coef_, atol=2e-4)


@pytest.mark.parametrize("ties", [False, True])
def test_the_path_meets_the_conditions_of_an_optimum(ties: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(path, "_TOLERANCE", 1e-13)
    x, time, event = cohort(60, 100, ties=ties)
    likelihood, rho = PartialLikelihood(time, event), 0.7
    alphas = path.alpha_grid(x, likelihood, rho, n=8, ratio=0.2)
    for alpha, beta in zip(alphas, path.fit_path(x, likelihood, alphas, rho)):
        gradient = x.T @ likelihood.residuals(x @ beta) / likelihood.n_events + alpha * (1 - rho) * beta
        inside = beta != 0
        torch.testing.assert_close(gradient[inside], -alpha * rho * beta[inside].sign(), atol=1e-4, rtol=0.0)
        assert bool((gradient[~inside].abs() <= alpha * rho * 1.001).all())


@pytest.mark.covers("P5")
def test_the_cross_validated_likelihood_is_a_loop_over_folds() -> None:
    x, time, event = cohort(60, 5)
    options = fitting.Options("ridge", 5, "unit", None, 0.5, 20, 0.05, "efron")
    group = fitting.Cohort(x, time, event, None)
    fold = torch.from_numpy(inner_folds(np.arange(60), event.numpy(), folds=3, seed=0))
    choice = fitting.cross_validate(group, [0.1], fold, options)
    l_all, l_kept, null = [], [], []
    for k in range(3):
        kept = fold != k
        design = fitting.learn_design(x[kept], options)
        ridge = 0.1 * int(event[kept].sum())
        fit = fit_cox(design.features(x[kept]), time[kept], event[kept], ridge=ridge)
        eta = design.features(x) @ fit.coefficients
        l_all.append(equations.log_partial_likelihood(eta, time, event))
        l_kept.append(equations.log_partial_likelihood(eta[kept], time[kept], event[kept]))
        zero = torch.zeros(60, dtype=torch.float64)
        whole = equations.log_partial_likelihood(zero, time, event)
        null.append(whole - equations.log_partial_likelihood(zero[kept], time[kept], event[kept]))
        torch.testing.assert_close(choice.risks[0][~kept], eta[~kept])
    expected = equations.cross_validated_likelihood(torch.stack(l_all), torch.stack(l_kept)) - sum(null)
    assert float(choice.gain[0]) == pytest.approx(float(expected) / int(event.sum()), rel=1e-8)


@pytest.mark.covers("P6")
@pytest.mark.parametrize("shape", [(50, 12), (12, 50)])
def test_components_and_genes_give_one_risk(shape: tuple[int, int]) -> None:
    x, _, _ = cohort(*shape)
    for scaling in ("variance", "unit"):
        options = fitting.Options("ridge", 6, scaling, None, 0.5, 20, 0.05, "efron")
        design = fitting.learn_design(x, options)
        gamma = torch.arange(6.0).double()
        z = (x - x.mean(0)) / x.std(0, correction=0)
        torch.testing.assert_close(z @ design.gene_coefficients(gamma), design.features(x) @ gamma)
        assert design.loadings is not None
        torch.testing.assert_close(equations.gene_coefficients(design.loadings, gamma), design.loadings @ gamma)
        spread = design.features(x).std(0, correction=0)
        singular = torch.linalg.svdvals(z)[:6]
        torch.testing.assert_close(spread, singular / singular[0] if scaling == "variance" else torch.ones(6).double())


@pytest.mark.covers("P7")
def test_survival_is_a_power_of_the_baseline() -> None:
    H, eta = torch.tensor([0.0, 0.3, 1.0]), torch.tensor([0.0, 1.0, -2.0])
    got = equations.survival(H, eta, 0.5)
    for i, risk in enumerate((1.0, math.exp(0.5), math.exp(-1.0))):
        np.testing.assert_allclose(got[i], np.exp(-H.numpy()) ** risk, rtol=1e-6)
