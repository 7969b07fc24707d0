"""The partial likelihood against its definition written as loops; the fit against its gradient; the hazard against a loop."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from expressor.core.errors import DataError
from expressor.nn.cox import (
    Baseline,
    breslow_baseline,
    calibrate_risk,
    cox_loss,
    expected_events,
    fit_cox,
)


def cohort(n: int, *, features: int = 3, seed: int = 0, ties: bool = True) -> tuple[torch.Tensor, ...]:
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(n, features))
    time = rng.exponential(np.exp(-x[:, 0] + 0.5 * x[:, -1]) * 10)
    time = np.ceil(time) if ties else time
    event = rng.random(n) < 0.7
    event[0] = True
    return torch.from_numpy(x), torch.from_numpy(time), torch.from_numpy(event)


def by_hand(eta: list[float], time: list[float], event: list[bool], strata: list[int], ties: str) -> float:
    """The definition: over the event times of a stratum, over the events of a time."""
    total = 0.0
    for stratum in sorted(set(strata)):
        mine = [i for i in range(len(eta)) if strata[i] == stratum]
        for t in sorted({time[i] for i in mine if event[i]}):
            dead = [i for i in mine if event[i] and time[i] == t]
            at_risk = sum(math.exp(eta[i]) for i in mine if time[i] >= t)
            gone = sum(math.exp(eta[i]) for i in dead)
            for place, i in enumerate(dead):
                left = at_risk - (place / len(dead) * gone if ties == "efron" else 0.0)
                total += math.log(left) - eta[i]
    return total


@given(st.integers(1, 25), st.integers(0, 1000), st.sampled_from(["efron", "breslow"]), st.integers(1, 3))
def test_the_loss_is_its_definition(n: int, seed: int, ties: str, n_strata: int) -> None:
    x, time, event = cohort(n, seed=seed)
    strata = torch.from_numpy(np.random.default_rng(seed).integers(0, n_strata, n))
    expected = by_hand(x[:, 0].tolist(), time.tolist(), event.tolist(), strata.tolist(), ties)
    got = cox_loss(x[:, 0], time, event, strata=strata, ties=ties, mean=False)
    assert float(got) == pytest.approx(expected, rel=1e-10, abs=1e-12)
    averaged = cox_loss(x[:, 0], time, event, strata=strata, ties=ties)
    assert float(averaged) == pytest.approx(expected / int(event.sum()), rel=1e-10, abs=1e-12)


def test_order_and_shift_do_not_matter_and_large_risks_do_not_overflow() -> None:
    x, time, event = cohort(40)
    order = torch.randperm(40, generator=torch.Generator().manual_seed(0))
    loss = cox_loss(x[:, 0], time, event)
    torch.testing.assert_close(cox_loss(x[order, 0], time[order], event[order]), loss)
    torch.testing.assert_close(cox_loss(x[:, 0] + 900.0, time, event), loss)
    steep = (1e4 * x[:, 0]).requires_grad_()
    cox_loss(steep, time, event).backward()
    assert steep.grad is not None
    assert bool(steep.grad.isfinite().all())


@pytest.mark.parametrize("ties", ["efron", "breslow"])
def test_gradients_are_right_to_second_order_and_are_martingale_residuals(ties: str) -> None:
    x, time, event = cohort(15)
    eta = x[:, 0].clone().requires_grad_()
    assert torch.autograd.gradcheck(lambda one: cox_loss(one, time, event, ties=ties), eta)
    assert torch.autograd.gradgradcheck(lambda one: cox_loss(one, time, event, ties=ties), eta)
    (gradient,) = torch.autograd.grad(cox_loss(eta, time, event, ties=ties, mean=False), eta)
    torch.testing.assert_close(expected_events(eta, time, event, ties=ties) - event.double(), gradient)


def test_float32_is_computed_in_double_and_given_back() -> None:
    x, time, event = cohort(200)
    single = cox_loss(x[:, 0].float(), time.float(), event)
    assert single.dtype == torch.float32
    assert float(single) == pytest.approx(float(cox_loss(x[:, 0], time, event)), rel=1e-6)


def test_a_batch_without_event() -> None:
    x, time, _ = cohort(5)
    none, eta = torch.zeros(5, dtype=torch.bool), x[:, 0].clone().requires_grad_()
    with pytest.raises(DataError, match="none of 5 patients has an event; expected at least one"):
        cox_loss(eta, time, none)
    loss = cox_loss(eta, time, none, no_event="zero")
    loss.backward()
    assert loss.item() == 0.0
    assert eta.grad is not None
    assert not eta.grad.any()
    with pytest.raises(DataError, match="none of 5 patients has an event"):
        fit_cox(x, time, none)
    with pytest.raises(DataError, match="none of 5 patients has an event"):
        breslow_baseline(x[:, 0], time, none)


@pytest.mark.parametrize("ties", ["efron", "breslow"])
@pytest.mark.parametrize("ridge", [0.0, 3.0])
@pytest.mark.parametrize("stratified", [False, True])
def test_the_fit_is_where_the_gradient_vanishes(ties: str, ridge: float, stratified: bool) -> None:
    x, time, event = cohort(80, features=4)
    strata = torch.arange(80) % 3 if stratified else None
    fit = fit_cox(x, time, event, ridge=ridge, strata=strata, ties=ties)
    assert fit.converged
    beta = fit.coefficients.clone().requires_grad_()

    def objective(at: torch.Tensor) -> torch.Tensor:
        loss = cox_loss(x @ at, time, event, strata=strata, ties=ties, mean=False)
        return loss + ridge / 2 * at.square().sum()

    (gradient,) = torch.autograd.grad(objective(beta), beta)
    assert float(gradient.abs().max()) < 1e-4
    hessian = torch.autograd.functional.hessian(objective, fit.coefficients)
    torch.testing.assert_close(fit.covariance, torch.linalg.inv(hessian), rtol=1e-3, atol=1e-7)
    assert fit.loss == pytest.approx(float(objective(fit.coefficients) - ridge / 2 * fit.coefficients.square().sum()))


def test_planted_coefficients_are_found() -> None:
    x, time, event = cohort(4000, ties=False)
    fit = fit_cox(x, time, event)
    expected = torch.tensor([1.0, 0.0, -0.5], dtype=torch.float64)
    error = (fit.coefficients - expected).abs() / fit.covariance.diagonal().sqrt()
    assert float(error.max()) < 3.5
    penalised = fit_cox(x, time, event, ridge=torch.tensor([0.0, 0.0, 1e6]))
    assert abs(float(penalised.coefficients[2])) < 1e-2


def test_it_agrees_with_scikit_survival() -> None:
    linear = pytest.importorskip("sksurv.linear_model")
    x, time, event = cohort(100, features=5)
    y = np.array(list(zip(event.tolist(), time.tolist())), dtype=[("event", bool), ("time", float)])
    for ties in ("efron", "breslow"):
        oracle = linear.CoxPHSurvivalAnalysis(alpha=2.0, ties=ties, tol=1e-12, n_iter=200).fit(x.numpy(), y)
        fit = fit_cox(x, time, event, ridge=2.0, ties=ties)
        np.testing.assert_allclose(fit.coefficients.numpy(), oracle.coef_, rtol=1e-5)
    eta = x @ fit.coefficients
    baseline = breslow_baseline(eta, time, event)
    curves = oracle.predict_survival_function(x.numpy()[:4])
    at = torch.tensor([2.0, 5.0, 9.5], dtype=torch.float64)
    expected = [[curve(float(t)) for t in at] for curve in curves]
    np.testing.assert_allclose(baseline.survival(eta[:4], at).numpy(), expected, rtol=1e-4)


def test_what_has_no_solution_is_refused() -> None:
    x, time, event = cohort(30)
    twice = torch.cat([x, x[:, :1]], dim=1)
    with pytest.raises(DataError, match=r"collinear.*Leave some out, or give a ridge penalty"):
        fit_cox(twice, time, event)
    assert fit_cox(twice, time, event, ridge=1.0).converged
    with pytest.raises(DataError, match="1 of 30 survival times are negative or not finite; expected times >= 0"):
        cox_loss(x[:, 0], torch.cat([time[:-1], torch.tensor([-1.0], dtype=torch.float64)]), event)
    with pytest.raises(DataError, match="strata and time differ in length; expected 30 patients, got 29"):
        fit_cox(x, time, event, strata=torch.zeros(29))
    with pytest.raises(DataError, match="the covariates are not finite; got 1 NaN or infinite values"):
        fit_cox(torch.where(x == x[0, 0], torch.nan, x), time, event)
    with pytest.raises(DataError, match="unknown ties 'exact'; expected one of 'efron', 'breslow'"):
        cox_loss(x[:, 0], time, event, ties="exact")
    with pytest.raises(DataError, match="the ridge penalty is negative"):
        fit_cox(x, time, event, ridge=-1.0)


def test_the_baseline_is_breslow_s_sum() -> None:
    x, time, event = cohort(30)
    baseline, total = breslow_baseline(x[:, 0], time, event), 0.0
    for t, cumulative in zip(baseline.times.tolist(), baseline.cumulative.tolist()):
        deaths = int((event & (time == t)).sum())
        total += deaths / float(x[time >= t, 0].exp().sum())
        assert cumulative == pytest.approx(total, rel=1e-12)
    assert set(baseline.times.tolist()) == set(time[event].tolist())


def test_without_covariates_the_curve_is_that_of_nelson_and_aalen() -> None:
    _, time, event = cohort(50)
    curve = breslow_baseline(torch.zeros(50), time, event).survival(torch.zeros(1), torch.arange(0.0, 30.0))[0]
    assert curve[0] == 1.0
    assert bool((curve.diff() <= 0).all())
    hazard = sum(int((event & (time == t)).sum()) / int((time >= t).sum()) for t in time[event].unique() if t <= 29)
    assert float(curve[-1]) == pytest.approx(math.exp(-hazard))


def test_curves_step_at_events_and_fall_with_risk() -> None:
    baseline = Baseline(torch.tensor([1.0, 3.0]).double(), torch.tensor([0.1, 0.4]).double())
    curves = baseline.survival(torch.tensor([0.0, math.log(2)]), torch.tensor([0.5, 1.0, 2.9, 3.0, 99.0]))
    np.testing.assert_allclose(curves[0], np.exp([0.0, -0.1, -0.1, -0.4, -0.4]))
    np.testing.assert_allclose(curves[1], curves[0] ** 2)


def test_many_patients_take_no_square_of_memory() -> None:
    """100,000 patients in a second: nothing of patient by patient."""
    x, time, event = cohort(100_000, features=2, ties=False)
    eta = x[:, 0].clone().requires_grad_()
    cox_loss(eta, time, event).backward()
    assert fit_cox(x, time, event).converged


def test_risks_are_stretched_to_what_held_out_patients_showed() -> None:
    x, time, event = cohort(2000, ties=False)
    risk = x[:, 0] - 0.5 * x[:, 2]
    slope, baselines = calibrate_risk(3 * risk, time, event)
    assert slope == pytest.approx(1 / 3, rel=0.1)
    assert list(baselines) == [-1]
    assert calibrate_risk(-risk, time, event)[0] == 0.0
    assert calibrate_risk(torch.zeros(2000), time, event)[0] == 0.0
    strata = torch.arange(2000) % 2
    later = torch.where(strata == 1, 4 * time, time)
    _, baselines = calibrate_risk(risk, later, event, strata=strata)
    half = [float(baselines[one].survival(torch.zeros(1), torch.tensor([10.0]))) for one in (0, -1, 1)]
    assert half == sorted(half)
