"""Survival metrics against scikit-survival, lifelines, and naive loops."""

import warnings

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from expressor.core.errors import DataError
from expressor.metrics.survival import (
    brier_against_none,
    brier_scores,
    brier_skill,
    compare_pairs,
    compare_until,
    concordance,
    dynamic_auc,
    integrated_brier,
    kaplan_meier,
    log_rank,
    number_at_risk,
    uno_concordance,
    uno_weights,
)
from expressor.metrics.survival_calibration import calibration_curve, calibration_slope, d_calibration

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    sksurv = pytest.importorskip("sksurv.metrics", reason="scikit-survival is the oracle of this test")
    nonparametric = pytest.importorskip("sksurv.nonparametric")
    lifelines = pytest.importorskip("lifelines")
    from lifelines.statistics import multivariate_logrank_test
    from sksurv.util import Surv


@pytest.fixture(autouse=True)
def _old_name_of_the_trapezoidal_rule(monkeypatch):
    # scikit-survival 0.26 calls it by a name that NumPy 2.4 has dropped.
    monkeypatch.setattr(np, "trapz", np.trapezoid, raising=False)


def patients(seed=0, n=80, tied=True):
    rng = np.random.default_rng(seed)
    risk = rng.normal(size=n)
    died, left = rng.exponential(1000 * np.exp(-risk)), rng.exponential(1200, size=n)
    time = np.minimum(died, left)
    if tied:  # to whole half-years, so that events tie with events and with censoring
        time = np.ceil(time / 180) * 180
        risk = np.round(risk, 1)
    return time, died <= left, risk


def outcome(time, event):
    return Surv.from_arrays(event, time)


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("tied", [True, False])
def test_concordance_is_that_of_scikit_survival(seed, tied):
    time, event, risk = patients(seed, tied=tied)
    wanted = sksurv.concordance_index_censored(event, time, risk)[0]
    assert concordance(time, event, risk) == pytest.approx(wanted, abs=1e-12)


@given(st.integers(0, 10**6))
@settings(max_examples=30, deadline=None)
def test_concordance_is_that_of_a_loop(seed):
    time, event, risk = patients(seed, n=14)
    right = total = 0.0
    for i in range(14):
        for j in range(14):
            if event[i] and (time[i] < time[j] or (time[i] == time[j] and not event[j])):
                total += 1
                right += 1.0 if risk[i] > risk[j] else 0.5 if risk[i] == risk[j] else 0.0
    got = concordance(time, event, risk)
    assert np.isnan(got) if total == 0 else got == pytest.approx(right / total)


def test_strata_are_compared_within():
    time, event, risk = patients(1)
    folds = np.arange(80) % 4
    shifted = risk + 100.0 * folds  # every fold on a scale of its own
    parts = [compare_pairs(time[folds == k], event[folds == k], risk[folds == k]) for k in range(4)]
    pairs = [part.blocks[0][1].sum() for part in parts]
    wanted = sum(part.value() * n for part, n in zip(parts, pairs)) / sum(pairs)
    assert concordance(time, event, shifted, strata=folds) == pytest.approx(wanted)


def test_weights_are_copies_of_patients():
    time, event, risk = patients(2, n=40)
    weights = np.random.default_rng(0).integers(0, 4, size=40)
    copies = np.repeat(np.arange(40), weights)
    wanted = concordance(time[copies], event[copies], risk[copies])
    pairs = compare_pairs(time, event, risk)
    assert pairs.value(weights) == pytest.approx(wanted, abs=1e-12)
    assert pairs.draws(np.stack([weights, np.ones(40)])).tolist() == pytest.approx([wanted, pairs.value()])


def test_no_pairs_is_undefined():
    assert np.isnan(concordance([1.0, 2.0], [0, 0], [1.0, 2.0]))


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("tau", [None, 900.0])
def test_uno_concordance(seed, tau):
    train_time, train_event, _ = patients(seed + 50, n=200)
    time, event, risk = patients(seed)
    inside = time < train_time.max()
    time, event, risk = time[inside], event[inside], risk[inside]
    wanted = sksurv.concordance_index_ipcw(outcome(train_time, train_event), outcome(time, event), risk, tau=tau)[0]
    got = uno_concordance(train_time, train_event, time, event, risk, tau=tau)
    assert got == pytest.approx(wanted, abs=1e-10)


@pytest.mark.parametrize("censoring", [False, True])
def test_kaplan_meier(censoring):
    time, event, _ = patients(3)
    steps, wanted = nonparametric.kaplan_meier_estimator(event, time, reverse=censoring)
    got = kaplan_meier(time, event, censoring=censoring)
    np.testing.assert_array_equal(got.time, steps)
    np.testing.assert_allclose(got.survival, wanted, atol=1e-12)
    np.testing.assert_allclose(got.at([0.0, *steps, 1e9]), [1.0, *wanted, wanted[-1]], atol=1e-12)


def test_kaplan_meier_bounds():
    time, event, _ = patients(3)
    fitted = lifelines.KaplanMeierFitter().fit(time, event)
    wanted = fitted.confidence_interval_survival_function_.iloc[1:].to_numpy()
    got = kaplan_meier(time, event)
    inside = (got.survival > 0) & (got.survival < 1)
    np.testing.assert_allclose(got.low[inside], wanted[inside, 0], atol=1e-9)
    np.testing.assert_allclose(got.high[inside], wanted[inside, 1], atol=1e-9)
    np.testing.assert_array_equal(got.at_risk, [(time >= step).sum() for step in got.time])
    np.testing.assert_array_equal(number_at_risk(time, [0, 180, 181]), [80, (time >= 180).sum(), (time >= 181).sum()])


def test_log_rank():
    time, event, risk = patients(4)
    groups = np.digitize(risk, [-0.5, 0.5]).astype(str)
    wanted = multivariate_logrank_test(time, groups, event)
    statistic, p = log_rank(time, event, groups)
    assert statistic == pytest.approx(wanted.test_statistic, rel=1e-9)
    assert p == pytest.approx(wanted.p_value, rel=1e-9)
    with pytest.raises(DataError, match="the log-rank test needs groups; expected two groups or more, got 1"):
        log_rank(time, event, np.ones(80))


def curves(seed=0):
    """Curves of the model that the data were drawn from, with an error in the risk."""
    train = patients(seed + 70, n=300, tied=False)
    time, event, risk = patients(seed, tied=False)
    times = np.linspace(100, 900, 9)
    hazard = np.exp(risk + 0.3 * np.random.default_rng(seed).normal(size=len(risk))) / 1000
    return train, (time, event, risk), np.exp(-hazard[:, None] * times), times


@pytest.mark.parametrize("seed", range(4))
def test_brier_scores(seed):
    train, (time, event, _), survival, times = curves(seed)
    args = outcome(*train[:2]), outcome(time, event), survival, times
    got = brier_scores(*train[:2], time, event, survival, times)
    np.testing.assert_allclose(got, sksurv.brier_score(*args)[1], atol=1e-12)
    assert integrated_brier(got, times) == pytest.approx(sksurv.integrated_brier_score(*args), abs=1e-12)


def test_skill_is_above_0_for_the_truth_and_0_for_what_knows_nothing():
    train, (time, event, _), survival, times = curves()
    assert brier_skill(*train[:2], time, event, survival, times) > 0.05
    null = np.tile(kaplan_meier(*train[:2]).at(times), (len(time), 1))
    assert brier_skill(*train[:2], time, event, null, times) == pytest.approx(0)
    assert brier_skill(*train[:2], time, event, survival[::-1], times) < 0


@pytest.mark.parametrize("seed", range(4))
def test_dynamic_auc(seed):
    train, (time, event, risk), _, times = curves(seed)
    wanted, _ = sksurv.cumulative_dynamic_auc(outcome(*train[:2]), outcome(time, event), risk, times)
    np.testing.assert_allclose(dynamic_auc(*train[:2], time, event, risk, times), wanted, atol=1e-12)


def test_weights_of_patients_are_resamples():
    """What a resample gives from weights is what its rows give, anew."""
    train, (time, event, risk), survival, times = curves(3)
    rows = np.random.default_rng(1).integers(80, size=80)
    weights = np.bincount(rows, minlength=80)
    drawn = (*train[:2], time[rows], event[rows])
    uno = uno_weights(*train[:2], time, event, tau=900.0)
    got = compare_pairs(time, event, risk, weights=uno).value(weights)
    assert got == pytest.approx(uno_concordance(*drawn, risk[rows], tau=900.0), abs=1e-12)
    auc = compare_until(time, event, risk, 500.0, weights=np.sqrt(uno)).value(weights)
    assert auc == pytest.approx(dynamic_auc(*drawn, risk[rows], [500.0])[0], abs=1e-12)
    own, none = brier_against_none(*train[:2], time, event, survival, times)
    wanted = brier_skill(*drawn, survival[rows], times)
    assert 1 - weights @ own / (weights @ none) == pytest.approx(wanted, abs=1e-12)


def test_auc_without_cases_is_undefined():
    train, (time, event, risk), _, _ = curves()
    assert np.isnan(dynamic_auc(*train[:2], time, event, risk, [0.0, 1e9])).all()


def test_calibration_slope():
    """lifelines handles ties as Efron; without ties the two agree."""
    time, event, risk = patients(5, tied=False)
    import pandas as pd

    wanted = lifelines.CoxPHFitter().fit(pd.DataFrame({"t": time, "e": event, "x": risk}), "t", "e").params_["x"]
    assert calibration_slope(time, event, risk) == pytest.approx(wanted, rel=1e-5)
    assert calibration_slope(time, event, 3 * risk + 1) == pytest.approx(wanted / 3, rel=1e-5)
    strata = (np.arange(80) % 3).astype(str)
    frame = pd.DataFrame({"t": time, "e": event, "x": risk, "s": strata})
    wanted = lifelines.CoxPHFitter().fit(frame, "t", "e", strata="s").params_["x"]
    assert calibration_slope(time, event, risk, strata=strata) == pytest.approx(wanted, rel=1e-5)


def test_calibration_slope_is_undefined_where_it_is():
    time, event, risk = patients(5)
    assert np.isnan(calibration_slope(time, event, np.ones(80)))
    assert np.isnan(calibration_slope(time, np.zeros(80), risk))
    assert np.isnan(calibration_slope([1.0, 2.0, 3.0], [1, 1, 1], [3.0, 2.0, 1.0]))


def test_calibration_slope_of_the_truth_is_1():
    time, event, risk = patients(0, n=4000, tied=False)
    assert calibration_slope(time, event, risk) == pytest.approx(1.0, abs=0.06)


def test_d_calibration_of_right_and_wrong_curves():
    time, event, risk = patients(0, n=3000, tied=False)
    right = np.exp(-np.exp(risk) / 1000 * time)
    statistic, p, shares = d_calibration(right, event)
    assert p > 0.01
    np.testing.assert_allclose(shares, 0.1, atol=0.02)
    assert d_calibration(right**3, event)[1] < 1e-6
    assert statistic == pytest.approx(3000 / 0.1 * ((shares - 0.1) ** 2).sum(), rel=1e-9)


def test_a_censored_patient_is_spread_over_what_may_come():
    _, _, shares = d_calibration(np.array([0.25, 0.05]), np.array([False, False]), bins=10)
    # The first is spread over 0 to .25, the second lies in the first bin whole.
    np.testing.assert_allclose(shares, [(0.4 + 1) / 2, 0.2, 0.1, 0, 0, 0, 0, 0, 0, 0], atol=1e-12)
    assert d_calibration(np.array([0.0, 1.0]), np.array([False, True]))[2].tolist() == [0.5, *[0] * 8, 0.5]


def test_calibration_curve():
    time, event, risk = patients(0, n=3000, tied=False)
    right = np.exp(-np.exp(risk) / 1000 * 600)
    predicted, observed, low, high = calibration_curve(time, event, right, horizon=600.0)
    np.testing.assert_allclose(predicted, observed, atol=0.06)
    assert (low <= observed).all()
    assert (observed <= high).all()
    first = np.argsort(right)[:600]
    assert observed[0] == pytest.approx(kaplan_meier(time[first], event[first]).at(600.0))
    assert np.isnan(calibration_curve(time, event, right, horizon=1e9)[1]).any()


@pytest.mark.parametrize(
    ("time", "event", "risk", "message"),
    [
        ([1.0, -1.0], [1, 0], [0.0, 1.0], "a time is negative or not finite; got 1 of 2"),
        ([1.0, 2.0], [1, 3], [0.0, 1.0], "events are coded by other values"),
        ([1.0, 2.0], [1], [0.0, 1.0], "times and events do not fit"),
        ([1.0, 2.0], [1, 0], [0.0, np.nan], "the risk does not fit the outcomes; expected 2 finite numbers"),
    ],
)
def test_wrong_arrays_are_refused(time, event, risk, message):
    with pytest.raises(DataError, match=message):
        concordance(time, event, risk)


def test_wrong_curves_are_refused():
    with pytest.raises(DataError, match="survival curves do not fit"):
        brier_scores([1.0, 2], [1, 0], [1.0, 2], [1, 0], np.ones((2, 2)), [2.0, 1.0])
    with pytest.raises(DataError, match="no probabilities; expected 0 to 1, got 1 to 2"):
        brier_scores([1.0, 2], [1, 0], [1.0, 2], [1, 0], np.array([[1.0, 2], [1, 1]]), [1.0, 2.0])
    with pytest.raises(DataError, match="all training patients are censored before the last times"):
        uno_concordance([1.0, 2.0, 3.0], [1, 0, 0], [1.0, 4.0, 5.0], [1, 1, 0], [2.0, 1.0, 0.0])
    with pytest.raises(DataError, match="integrated over times; expected two or more, got 1"):
        integrated_brier([0.1], [1.0])
