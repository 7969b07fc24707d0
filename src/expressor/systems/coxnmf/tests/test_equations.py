"""Each equation against loops, automatic differentiation, or another solver."""

import numpy as np
import pytest
import torch
from scipy.optimize import minimize
from torch import Tensor

from expressor.nn.cox import cox_loss
from expressor.systems.coxnmf import equations
from expressor.systems.coxnmf.factorisation import Options, factorise


def problem(genes: int = 12, patients: int = 25, factors: int = 3, seed: int = 0) -> tuple[Tensor, ...]:
    rng = np.random.default_rng(seed)
    W, H = rng.uniform(0.1, 1, (genes, factors)), rng.uniform(0.1, 1, (factors, patients))
    X = W @ H + 0.05 * rng.random((genes, patients))
    time = np.ceil(rng.exponential(np.exp(-2 * H[0])) * 8)
    event = rng.random(patients) < 0.7
    start_W, start_H = rng.uniform(0.1, 1, W.shape), rng.uniform(0.1, 1, H.shape)
    beta = rng.normal(size=factors)
    return tuple(torch.from_numpy(one) for one in (X, start_W, start_H, beta, time, event))


@pytest.mark.covers("C1")
def test_the_objective_is_error_less_likelihood() -> None:
    X, W, H, beta, time, event = problem()
    total = sum((float(X[g, j]) - float(W[g] @ H[:, j])) ** 2 for g in range(12) for j in range(25)) / 2
    likelihood = 0.0
    for i in range(25):
        if event[i]:
            at_risk = sum(float((beta @ H[:, j]).exp()) for j in range(25) if time[j] >= time[i])
            likelihood += float(beta @ H[:, i]) - np.log(at_risk)
    assert float(equations.objective(X, W, H, beta, time, event, 0.7)) == pytest.approx(total - 0.7 * likelihood)


@pytest.mark.covers("C2")
@pytest.mark.parametrize("sigma", [0.0, 0.5])
def test_gene_factors_by_their_entries(sigma: float) -> None:
    X, W, H, *_ = problem()
    got = equations.update_w(X, W, H, sigma)
    for g in (0, 7):
        for k in range(3):
            above = float(X[g] @ H[k]) + sigma * float(W[g, k])
            below = sum(float(W[g, m] * (H[m] @ H[k])) + sigma * float(W[g, m] * (W[:, m] @ W[:, k])) for m in range(3))
            assert float(got[g, k]) == pytest.approx(float(W[g, k]) * above / below)
    if not sigma:
        assert float((X - got @ H).norm()) < float((X - W @ H).norm())


@pytest.mark.covers("C3")
def test_the_gradient_is_the_authors_double_sum_and_the_derivative() -> None:
    X, W, H, beta, time, event = problem()
    got = equations.cox_gradient(beta, H, time, event)
    risk = (beta @ H).exp()
    for j in range(25):
        hazard = sum(float(risk[j] / risk[time >= time[i]].sum()) for i in range(25) if event[i] and time[i] <= time[j])
        for k in range(3):
            assert float(got[k, j]) == pytest.approx(float(beta[k]) * (float(event[j]) - hazard), abs=1e-12)
    variable = H.clone().requires_grad_()
    loss = cox_loss(beta @ variable, time, event, ties="breslow", mean=False)
    (gradient,) = torch.autograd.grad(loss, variable)
    torch.testing.assert_close(got, -gradient)


@pytest.mark.covers("C4")
def test_the_authors_update_by_its_entries() -> None:
    X, W, H, beta, time, event = problem()
    C = equations.cox_gradient(beta, H, time, event)
    got = equations.update_h_projected(X, W, H, C, 0.8)
    for k in range(3):
        for j in (0, 11):
            R = float(W[:, k] @ X[:, j]) / float(W[:, k] @ (W @ H[:, j]))
            assert float(got[k, j]) == pytest.approx(float(H[k, j]) * R + max(0.0, 0.4 * R * float(C[k, j])))


@pytest.mark.covers("C5")
def test_coefficients_get_a_range_of_one() -> None:
    got = equations.normalise_beta(torch.tensor([1.0, -3.0, 0.5]))
    assert got.tolist() == [0.25, -0.75, 0.125]
    assert equations.normalise_beta(torch.tensor([2.0, 2.0])).tolist() == [2.0, 2.0]


@pytest.mark.covers("I1")
def test_our_update_points_downhill_and_rests_where_the_gradient_vanishes() -> None:
    X, W, H, beta, time, event = problem()
    C = equations.cox_gradient(beta, H, time, event)
    direction = equations.update_h_target(X, W, H, C, 0.8) - H
    variable = H.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(equations.objective(X, W, variable, beta, time, event, 0.8), variable)
    assert bool((direction * gradient <= 1e-12).all())
    assert bool((H + direction >= 0).all())
    flat = gradient.abs() < 1e-9
    assert bool((direction[flat].abs() < 1e-6).all())


@pytest.mark.parametrize("alpha", [0.0, 0.5, 20.0])
def test_with_the_line_search_the_objective_never_rises(alpha: float) -> None:
    """Between the steps of the coefficients, which have a penalty of their own."""
    from expressor.systems.coxnmf import factorisation

    X, W, H, beta, time, event = problem()
    options = Options(3, alpha, 0.1, 0.0, "line_search", "nmf", 50, 1e-12, 0)
    for _ in range(20):
        before = equations.objective(X, W, H, beta, time, event, alpha)
        W = equations.update_w(X, W, H)
        C = equations.cox_gradient(beta, H, time, event)
        H = factorisation._search(X, W, H, C, beta, time, event, options)
        assert float(equations.objective(X, W, H, beta, time, event, alpha)) <= float(before) + 1e-12
        assert bool((H >= 0).all())
    found = factorise(X, time, event, options)
    assert torch.allclose(found.W.norm(dim=0), torch.ones(3).double())
    assert found.history[-1]["relative_error"] < (0.1 if alpha < 1 else 0.6)


@pytest.mark.covers("I2")
def test_projection_is_the_constrained_minimum() -> None:
    W, wanted = (torch.from_numpy(np.random.default_rng(3).normal(size=shape)) for shape in ((12, 3), (3, 5)))
    W = W.abs()
    X = W @ wanted
    H = equations.project(X[:, :5], W)
    assert bool((H >= 0).all())
    assert bool((H == 0).any()), "the constraint matters here"
    for j in range(5):
        x = X[:, j].numpy()

        def error(h: np.ndarray, x: np.ndarray = x) -> float:
            return 0.5 * float(np.sum((x - W.numpy() @ h) ** 2))

        found = minimize(error, np.ones(3), bounds=[(0, None)] * 3, options={"ftol": 1e-15, "gtol": 1e-10})
        np.testing.assert_allclose(H[:, j], found.x, atol=1e-4)
