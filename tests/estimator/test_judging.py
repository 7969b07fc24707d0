"""What systems of whole samples share: folds inside the training data, and the tables of evaluate."""

import anndata as ad
import numpy as np
import pandas as pd
import pytest

from expressor.data.outcomes import Outcomes
from expressor.estimator.inner import inner_folds
from expressor.estimator.judging import patients_of
from expressor.estimator.labelling import judge_labels
from expressor.estimator.restoring import judge_restoration
from expressor.estimator.surviving import judge_survival


def samples(n: int = 40, p: int = 8) -> ad.AnnData:
    rng = np.random.default_rng(0)
    obs = pd.DataFrame({"patient": [f"p{i // 2}" for i in range(n)]}, index=[f"s{i}" for i in range(n)])
    X = (rng.normal(size=(n, 1)) + 0.3 * rng.normal(size=(n, p)) + 5).astype(np.float32)
    return ad.AnnData(X, obs=obs, var=pd.DataFrame(index=[f"G{i}" for i in range(p)]), uns={"unit": "log2(TPM+1)"})


def test_patients_stay_whole_and_values_are_spread() -> None:
    rng = np.random.default_rng(0)
    patients = np.repeat(np.arange(50), 2)
    event = np.repeat(rng.random(50) < 0.3, 2)
    fold = inner_folds(patients, event, folds=5, seed=1)
    assert all(len(set(fold[patients == one])) == 1 for one in range(50))
    assert np.ptp(np.bincount(fold)) <= 2
    assert np.ptp([event[fold == k].sum() for k in range(5)]) <= 2
    order = rng.permutation(100)
    assert np.array_equal(inner_folds(patients[order], event[order], folds=5, seed=1), fold[order])
    assert not np.array_equal(inner_folds(patients, event, folds=5, seed=2), fold)


def test_samples_stand_for_patients_where_those_are_not_known() -> None:
    data = samples()
    assert len(set(patients_of(data))) == 20
    data.obs.loc["s3", "patient"] = None
    assert patients_of(data).tolist() == list(data.obs_names)


def test_restoring_by_the_mean_explains_nothing_and_by_the_truth_all() -> None:
    data = samples()
    genes, mean, scale = list(data.var_names), data.X.mean(0), data.X.std(0)
    scale[2] = 0.0

    def by_mean(one: ad.AnnData) -> np.ndarray:
        return np.where(np.isnan(one.X), mean, one.X)

    table = judge_restoration(by_mean, data, genes, scale=scale).set_index("metric")
    assert table.loc["restoration_rmse", "value"] == pytest.approx(1.0, abs=0.1)
    assert table.loc["restoration_rmse", "low"] < 1.0 < table.loc["restoration_rmse", "high"] + 0.1
    assert table.loc["gene_r", "n_undefined"] == 8
    assert np.isnan(table.loc["gene_r", "value"])

    def whole(one: ad.AnnData) -> np.ndarray:
        return data.X

    def bounds(one: ad.AnnData) -> tuple[np.ndarray, np.ndarray]:
        return data.X - 1, data.X + np.where(np.arange(8) < 4, 1, -0.5)

    table = judge_restoration(whole, data, genes, scale=scale, bounds=bounds).set_index("metric")
    assert table.loc["restoration_rmse", "value"] == 0.0
    assert table.loc["gene_r", "value"] == pytest.approx(1.0)
    assert table.loc["restoration_coverage", "value"] == pytest.approx(3 / 7, abs=0.1)
    assert table.loc["gene_r", "n_patients"] == 20


def test_survival_is_judged_by_order_calibration_and_curves() -> None:
    rng = np.random.default_rng(1)
    n = 300
    risk = rng.normal(size=n)
    time, event = rng.exponential(100 * np.exp(-risk)), rng.random(n) < 0.7
    data = ad.AnnData(np.zeros((n, 1), dtype=np.float32))
    at = np.linspace(1, 400, 60)
    curves = pd.DataFrame(np.exp(-at[None] / 100 * 0.7 * np.exp(risk)[:, None]), columns=at)
    table = judge_survival(risk, curves, Outcomes(time, event), data).set_index("metric")
    assert 0.6 < table.loc["concordance", "low"] < table.loc["concordance", "value"] < table.loc["concordance", "high"]
    assert table.loc["calibration_slope", "value"] == pytest.approx(1.0, abs=0.25)
    assert table.loc["brier_skill", "low"] > 0.1
    useless = judge_survival(rng.normal(size=n), curves * 0 + 0.5, Outcomes(time, event), data).set_index("metric")
    assert useless.loc["concordance", "low"] < 0.5 < useless.loc["concordance", "high"]
    assert useless.loc["brier_skill", "value"] < 0


def test_labels_are_judged_by_class() -> None:
    data = samples()
    truth = np.where(np.arange(40) < 30, "a", "b")
    probability = pd.DataFrame({"a": np.full(40, 0.75), "b": np.full(40, 0.25)})
    table = judge_labels(truth, np.full(40, "a"), probability, data).set_index("metric")
    assert table.loc["balanced_accuracy", "value"] == 0.5
    assert table.loc["accuracy", "value"] == 0.75
    expected = -(0.75 * np.log(0.75) + 0.25 * np.log(0.25))
    assert table.loc["log_loss", "value"] == pytest.approx(expected)
    strange = np.where(np.arange(40) < 10, "c", truth)
    table = judge_labels(strange, np.full(40, "a"), probability, data).set_index("metric")
    assert table.loc["log_loss", "n_undefined"] == 10
