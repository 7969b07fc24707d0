"""The simulated pair of species: transfer works, the map is found, the graph is what carries it, and the rules of saving hold."""

import dataclasses

import anndata as ad
import numpy as np
import pandas as pd
import pytest
import torch
from sklearn.metrics import roc_auc_score
from torch import nn

import expressor as ex
from expressor.core.errors import DataError
from expressor.data.fields import expression
from expressor.datasets.species import SpeciesPair, simulate_species
from expressor.estimator.expression_models import ExpressionModel, expression_model
from expressor.nn.plain import Standardise
from expressor.systems.tron import TRON
from expressor.train.plan import TrainPlan

PAIR = {"orthologs": "simulated", "species": ("alpha", "beta")}
QUICK = TrainPlan(lr=2e-2, weight_decay=0.0, batch_size=64, epochs=40)


@pytest.fixture(scope="module")
def pair() -> SpeciesPair:
    return simulate_species(n_cells=240, n_families=100, seed=0)


@pytest.fixture(scope="module")
def source(pair: SpeciesPair) -> ExpressionModel:
    from sklearn.linear_model import LogisticRegression

    values = expression(pair.source, scale="log1p_cp10k").astype(np.float64)
    model = LogisticRegression(C=0.05, max_iter=500).fit(values, pair.source.obs["cell_type"].astype(str))
    return expression_model(model, genes=list(pair.source.var_names), mean=values.mean(0), spread=values.std(0))


def accuracy(model: TRON, data: ad.AnnData) -> float:
    return float((model.predict(data)["cell_type"] == data.obs["cell_type"].astype(str)).mean())


def tron(pair: SpeciesPair, source: object, **options: object) -> TRON:
    return TRON(
        **{"source": source, "orthologs": pair.orthologs, "species": ("alpha", "beta"), "plan": QUICK} | options
    )


def test_zero_shot_is_the_source_on_averaged_orthologs(pair: SpeciesPair, source: ExpressionModel) -> None:
    model = tron(pair, source, mode="zero-shot").fit(pair.target)
    values = pd.DataFrame(expression(pair.target, scale="log1p_cp10k"), columns=pair.target.var_names)
    partners = pair.edges.groupby("alpha")["beta"].agg(list)
    c = np.stack([values[partners[g]].mean(axis=1) if g in partners else np.full(len(values), source.mean[i])
                  for i, g in enumerate(source.genes)], axis=1)  # fmt: skip
    np.testing.assert_allclose(model.convert(pair.target), c, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(model.predict_proba(pair.target), source.predict(c), rtol=1e-3, atol=1e-5)
    assert model.n_labelled_ == 0
    assert (model.edges_["change"] == 0).all()


def test_learning_finds_the_map_and_beats_the_start(pair: SpeciesPair, source: ExpressionModel) -> None:
    new = simulate_species(n_cells=240, n_families=100, seed=1).target
    start = tron(pair, source, mode="zero-shot", match="mean").fit(pair.target)
    learnt = tron(pair, source, match="mean").fit(pair.target)
    assert accuracy(learnt, new) > accuracy(start, new) - 0.01
    several = learnt.edges_["source"].duplicated(keep=False)
    truth = learnt.edges_.merge(pair.edges, left_on=["source", "target"], right_on=["alpha", "beta"])["functional"]
    assert roc_auc_score(truth[several], learnt.edges_["weight"][several]) > 0.75
    assert roc_auc_score(truth[several], start.edges_["weight"][several]) < 0.65
    table = learnt.families()
    functional = {
        (a, b) for a, b in pair.edges.loc[pair.edges["functional"], ["alpha", "beta"]].itertuples(index=False)
    }
    top = table.head(8)
    assert np.mean([pair_ in functional for pair_ in zip(top["source"], top["functional"])]) >= 0.7


def test_a_permuted_graph_carries_nothing(pair: SpeciesPair, source: ExpressionModel) -> None:
    table = pair.orthologs
    names = np.random.default_rng(0).permutation(table.pairs["second"].unique())
    other = dict(zip(table.pairs["second"].unique(), names))
    permuted = dataclasses.replace(table, pairs=table.pairs.assign(second=table.pairs["second"].map(other)))
    good = tron(pair, source, mode="zero-shot").fit(pair.target)
    bad = tron(pair, source, mode="zero-shot", orthologs=permuted).fit(pair.target)
    assert accuracy(good, pair.target) > accuracy(bad, pair.target) + 0.2


def test_gaps_in_the_labels_are_not_learnt_from(pair: SpeciesPair, source: ExpressionModel) -> None:
    few = pair.target.copy()
    few.obs["cell_type"] = few.obs["cell_type"].astype(object).where(np.arange(few.n_obs) % 10 == 0)
    assert tron(pair, source).fit(few).n_labelled_ == 24


def test_validation_data_stop_the_training(pair: SpeciesPair, source: ExpressionModel) -> None:
    plan = TrainPlan(lr=0.3, weight_decay=0.0, batch_size=64, epochs=40, patience=3)
    model = tron(pair, source, plan=plan, pull=0.0).fit(pair.target[:40].copy(), val=pair.target[120:].copy())
    losses = model.history_["val_loss"]
    assert len(losses) < 40
    assert len(losses) - 3 == losses.idxmin() + 1


def test_options_hold(pair: SpeciesPair, source: ExpressionModel) -> None:
    free = tron(pair, source, pull=0.0).fit(pair.target)
    assert (
        tron(pair, source, non_negative=True, pull=0.0).fit(pair.target).edges_["weight"].min()
        >= 0
        > free.edges_["weight"].min()
    )
    pulled = tron(pair, source, pull=10.0).fit(pair.target)
    assert pulled.edges_["change"].abs().max() < 0.1 * free.edges_["change"].abs().max()
    lasso = tron(pair, source, pull=0.0, l1=0.01).fit(pair.target)
    assert lasso.edges_["weight"].abs().median() < free.edges_["weight"].abs().median()
    fixed = tron(pair, source, lost="mean").fit(pair.target).conversion_.obs
    np.testing.assert_allclose(fixed["constant"][~fixed["joined"]], source.mean[~fixed["joined"]], rtol=1e-6)
    single = tron(pair, source, edges="one-to-one", mode="zero-shot").fit(pair.target).edges_
    assert not single["source"].duplicated().any()
    weighted = tron(pair, source, weighted=True, mode="zero-shot").fit(pair.target).edges_
    assert np.allclose(weighted.groupby("source")["weight"].sum(), 1.0)


def test_joint_tuning_moves_a_copy_of_the_source(pair: SpeciesPair, source: ExpressionModel) -> None:
    before = {name: one.clone() for name, one in source.network.state_dict().items()}
    model = tron(pair, source, mode="joint").fit(pair.target)
    assert all(torch.equal(one, before[name]) for name, one in source.network.state_dict().items())
    assert any(not torch.equal(one, before[name]) for name, one in model.source_.network.state_dict().items())
    frozen = tron(pair, source).fit(pair.target)
    assert all(torch.equal(one, before[name]) for name, one in frozen.source_.network.state_dict().items())


def test_stability_over_seeds(pair: SpeciesPair, source: ExpressionModel) -> None:
    short = TrainPlan(lr=2e-2, weight_decay=0.0, batch_size=64, epochs=10)
    model = tron(pair, source, plan=short).fit(pair.target)
    table = model.edge_stability(pair.target, seeds=3)
    assert 0.5 < table.attrs["agreement"] <= 1.0
    assert table["same_sign"].isin([0.0, 1 / 3, 2 / 3, 1.0]).all()
    assert (table["weight_sd"] > 0).mean() > 0.9
    assert "same_sign" in model.families(table)
    with pytest.raises(DataError, match="learns no edge"):
        tron(pair, source, mode="zero-shot").fit(pair.target).edge_stability(pair.target)


def test_the_conversion_is_a_labelled_sparse_matrix(pair: SpeciesPair, source: ExpressionModel) -> None:
    model = tron(pair, source, match="moments").fit(pair.target)
    table = model.conversion_
    assert list(table.obs_names) == list(source.genes)
    assert table.X.nnz == len(model.edges_) == len(pair.edges)
    x = expression(pair.target, list(table.var_names), scale="log1p_cp10k")
    by_hand = x @ table.X.T.toarray() + table.obs["constant"].to_numpy()
    np.testing.assert_allclose(model.convert(pair.target), by_hand, rtol=1e-4, atol=1e-4)


def test_missing_target_genes_are_means(pair: SpeciesPair, source: ExpressionModel) -> None:
    model = tron(pair, source, scale="given").fit(logs(pair))
    part = logs(pair)[:, 5:].copy()
    full = logs(pair)
    full.X[:, :5] = full.X[:, :5].mean(0)
    np.testing.assert_allclose(model.predict_proba(part), model.predict_proba(full), rtol=1e-4, atol=1e-6)


def logs(pair: SpeciesPair) -> ad.AnnData:
    return ad.AnnData(expression(pair.target, scale="log1p_cp10k"), obs=pair.target.obs, var=pair.target.var)


# Sources of other kinds ------------------------------------------------------------------------------------------------


def network(pair: SpeciesPair, outputs: int) -> nn.Sequential:
    torch.manual_seed(0)
    n = pair.source.n_vars
    return nn.Sequential(
        Standardise(torch.ones(n), torch.ones(n), 5.0),
        nn.Linear(n, 6),
        nn.GELU(),
        nn.Dropout(0.5),
        nn.Linear(6, outputs),
    )


def test_a_network_with_numbers(pair: SpeciesPair, tmp_path) -> None:
    source = expression_model(
        network(pair, 2), genes=list(pair.source.var_names), kind="values", outputs=["age", "weight"]
    )
    target = pair.target.copy()
    zero = tron(pair, source, mode="zero-shot").fit(target)
    target.obs[["age", "weight"]] = zero.predict(target).to_numpy() + [1.0, -1.0]
    learnt = tron(pair, source).fit(target)
    error = (learnt.predict(target) - target.obs[["age", "weight"]]).abs().to_numpy().mean()
    assert error < 0.4
    assert learnt.score(target) > 0.5
    again = ex.load(learnt.save(tmp_path / "m"))
    assert (again.predict(target) == learnt.predict(target)).all(axis=None)
    with pytest.raises(DataError, match="gives values, not classes"):
        again.predict_proba(target)


def test_systems_of_this_package_are_sources(tmp_path) -> None:
    bulk = ex.datasets.simulate_bulk(n_patients=60, n_genes=40, seed=0)
    from expressor.genes import Orthologs

    target = bulk.copy()
    target.var_names = [f"m-{one}" for one in bulk.var_names]
    table = Orthologs.from_pairs(bulk.var_names, target.var_names, species=("human", "mouse"))
    quick = {"trees": 20, "rounds": 12, "explained": 6, "draws": 60, "max_genes": 12, "folds": 3}
    for inner, options in (
        (ex.BOLIMES(classifier="logistic", **quick), {}), (ex.BOLIMES(**quick), {"mode": "zero-shot"}),
        (ex.PenalisedCox(components=5), {}),
    ):  # fmt: skip
        inner.fit(bulk)
        plan = TrainPlan(lr=1e-9, weight_decay=0.0, epochs=1)
        model = TRON(
            source=inner.save(tmp_path / "source"),
            orthologs=table,
            scale="given",
            label="cancer_type",
            plan=plan,
            **options,
        )
        model.fit(target)
        role = "risk" if isinstance(inner, ex.PenalisedCox) else "predict_proba"
        np.testing.assert_allclose(getattr(model, role)(target), getattr(inner, role)(bulk), rtol=1e-3, atol=1e-4)
        again = ex.load(model.save(tmp_path / "model"))
        assert np.array_equal(getattr(again, role)(target), getattr(model, role)(target))
    with pytest.raises(
        DataError, match="nothing can be learnt in front of this source: a BOLIMES cannot be differentiated"
    ):
        TRON(source=ex.BOLIMES(**quick).fit(bulk), orthologs=table, scale="given", label="cancer_type").fit(target)
    with pytest.raises(DataError, match=r"the source takes log2\(TPM\+1\), not log1p_cp10k"):
        TRON(source=inner, orthologs=table).fit(target)


def test_an_object_as_source_survives_clone_and_saving(pair: SpeciesPair, source: ExpressionModel, tmp_path) -> None:
    from sklearn.base import clone

    model = tron(pair, source)
    assert clone(model).source is source
    model.fit(pair.target)
    again = ex.load(model.save(tmp_path / "m"))
    assert again._parameters() == model._parameters()
    assert (
        again.set_params(orthologs=pair.orthologs)
        .fit(pair.target)
        .predict_proba(pair.target)
        .equals(model.predict_proba(pair.target))
    )
