"""Planted markers: they are kept, they tell the types of new samples, and labels of chance are refused or not believed."""

import dataclasses
import os

import numpy as np
import pytest

import expressor as ex
from expressor.core.errors import DataError, GeneError
from expressor.datasets.examples import example
from expressor.datasets.profiles import simulate_bulk
from expressor.systems.bolimes import selection
from expressor.systems.bolimes.estimator import BOLIMES

QUICK = {"trees": 60, "rounds": 25, "explained": 12, "draws": 150, "folds": 3}


@pytest.fixture(scope="module")
def fitted() -> BOLIMES:
    return BOLIMES(**QUICK).fit(simulate_bulk(n_patients=150, n_genes=60, seed=0))


def test_planted_markers_are_kept_and_new_samples_are_told(fitted: BOLIMES) -> None:
    new = simulate_bulk(n_patients=150, n_genes=60, seed=1)
    markers = set(new.uns["truth"]["type_genes"])
    confirmed = fitted.gene_table_.index[fitted.gene_table_["status"] == "confirmed"]
    assert len(markers & set(confirmed)) > 0.8 * len(markers)
    assert len(set(confirmed) - markers) <= 3
    assert set(fitted.genes_) <= set(confirmed)
    table = fitted.evaluate(new).set_index("metric")
    assert table.loc["balanced_accuracy", "value"] > 0.8
    assert table.loc["log_loss", "value"] < 0.7
    assert list(fitted.gene_table_.index[fitted.gene_table_["kept"]]) == sorted(fitted.genes_)


def test_probabilities_add_up_and_name_the_prediction(fitted: BOLIMES) -> None:
    new = simulate_bulk(n_patients=20, n_genes=60, seed=2)
    probability, predicted = fitted.predict_proba(new), fitted.predict(new)
    np.testing.assert_allclose(probability.sum(axis=1), 1.0, rtol=1e-5)
    assert probability.idxmax(axis=1).tolist() == predicted["cancer_type"].tolist()
    assert list(predicted.columns) == ["cancer_type"]


def test_it_predicts_by_logistic_regression_too() -> None:
    model = BOLIMES(classifier="logistic", **QUICK).fit(simulate_bulk(n_patients=150, n_genes=60, seed=0))
    assert model.score(simulate_bulk(n_patients=150, n_genes=60, seed=1)) > 0.85


def test_labels_of_chance_confirm_no_genes() -> None:
    data = simulate_bulk(n_patients=150, n_genes=60, seed=0)
    data.obs["cancer_type"] = np.random.default_rng(0).permutation(data.obs["cancer_type"].to_numpy())
    y = data.obs["cancer_type"].to_numpy()
    options = selection.Options(60, 25, 0.05, 1.0, 1000, 12, 150, 0)
    Z = (data.X - data.X.mean(0)) / data.X.std(0)
    assert (selection.run_boruta(Z, y.astype(str), options).status == 1).mean() < 0.05
    kept = dataclasses.replace(options, rounds=40)
    if not (selection.run_boruta(Z, y.astype(str), kept).status >= 0).any():
        with pytest.raises(DataError, match="Boruta rejected every gene"):
            BOLIMES(**(QUICK | {"rounds": 40})).fit(data)


def test_three_samples_of_each_label_are_enough_to_fit() -> None:
    data = example("bulk")
    few = data[
        np.concatenate([np.flatnonzero(data.obs["cancer_type"] == one)[:3] for one in ("T1", "T2", "T3")])
    ].copy()
    model = BOLIMES.preset("tiny", rounds=3).fit(few)
    assert model.predict_proba(data).shape == (60, 3)


def test_what_it_refuses() -> None:
    data = example("bulk")
    model = BOLIMES.preset("tiny").fit(data)
    with pytest.raises(GeneError, match="needed genes are missing from the data"):
        model.predict(data[:, [name for name in data.var_names if name != model.genes_[0]]].copy())
    with pytest.raises(DataError, match="obs has no column 'tumour'"):
        BOLIMES(label="tumour").fit(data)
    rare = data.copy()
    rare.obs["cancer_type"] = np.where(np.arange(60) < 1, "X", "Y")
    with pytest.raises(DataError, match="label 'X'.*too rare.*at least 2 samples a label"):
        BOLIMES().fit(rare)
    with pytest.raises(DataError, match="unknown classifier 'svm'"):
        BOLIMES().set_params(classifier="svm").fit(data)
    constant = data.copy()
    constant.X = np.tile(data.X[:1], (60, 1))
    with pytest.raises(DataError, match="no gene varies over the samples"):
        BOLIMES().fit(constant)


GENES = ["GENE34", "GENE28"]
FIRST = [0.1, 0.2, 0.7]


def test_a_small_fit_gives_the_kept_numbers() -> None:
    """Kept: preset "tiny" on the bulk example, seed 0; a change is a change of the method and must be meant."""
    model = BOLIMES.preset("tiny").fit(example("bulk"))
    assert list(model.genes_) == GENES
    np.testing.assert_allclose(model.predict_proba(example("bulk", seed=1)).iloc[0], FIRST, atol=2e-3)


@pytest.mark.slow
@pytest.mark.skipif("EXPRESSOR_DATA" not in os.environ, reason="EXPRESSOR_DATA names no folder of real data")
def test_leukaemias_are_told_by_a_few_genes() -> None:
    data = ex.datasets.golub().adata
    order = np.random.default_rng(0).permutation(data.n_obs)
    model = BOLIMES(label="cancer_type", trees=200, rounds=30).fit(data[order[:48]].copy())
    assert model.score(data[order[48:]].copy()) > 0.8
