"""Planted hazards: risks that rank as the truth does, curves that hold, and nothing where there is nothing."""

import os

import anndata as ad
import numpy as np
import pytest

import expressor as ex
from expressor.core.errors import DataError, GeneError
from expressor.datasets.examples import example
from expressor.datasets.profiles import simulate_bulk
from expressor.metrics.survival import concordance
from expressor.systems.penalised_cox.estimator import PenalisedCox


def patients(seed: int, n: int = 300, **options: float) -> ad.AnnData:
    return simulate_bulk(n_patients=n, n_genes=60, seed=seed, **options)


@pytest.fixture(scope="module")
def fitted() -> PenalisedCox:
    return PenalisedCox(components=20).fit(patients(0))


@pytest.mark.parametrize("penalty", ["ridge", "elastic_net"])
def test_new_patients_are_ranked_nearly_as_the_truth_ranks_them(penalty: str) -> None:
    model = PenalisedCox(penalty=penalty, components=20).fit(patients(0))
    new = patients(1)
    time, event = new.obs["time"].to_numpy(), new.obs["event"].to_numpy()
    best = concordance(time, event, new.obsm["factors"][:, 0])
    assert concordance(time, event, model.risk(new)) > best - 0.03
    if penalty == "elastic_net":
        planted = set(new.uns["truth"]["survival_genes"])
        sizes = model.coefficients_.abs()
        assert len(set(sizes.index) & planted) > 0.75 * len(planted)
        assert sizes[[one in planted for one in sizes.index]].sum() > 0.6 * sizes.sum()


def forest_concordance(train: ad.AnnData, new: ad.AnnData, trees: int = 100) -> float:
    """Harrell's C on new patients of a random survival forest, which assumes neither proportional nor linear hazards."""
    ensemble = pytest.importorskip("sksurv.ensemble", reason="scikit-survival is the oracle of this test")
    from sksurv.util import Surv

    known = Surv.from_arrays(train.obs["event"].astype(bool), train.obs["time"].astype(float))
    forest = ensemble.RandomSurvivalForest(trees, min_samples_leaf=10, max_features="sqrt", random_state=0)
    risk = forest.fit(np.asarray(train.X), known).predict(np.asarray(new.X))
    return concordance(new.obs["time"], new.obs["event"].astype(bool), risk)


def test_a_random_survival_forest_finds_no_more_where_hazards_are_linear(fitted: PenalisedCox) -> None:
    new = patients(1)
    own = concordance(new.obs["time"], new.obs["event"], fitted.risk(new))
    forest = forest_concordance(patients(0), new)
    assert 0.6 < forest < own


@pytest.mark.slow
@pytest.mark.skipif(not os.environ.get("EXPRESSOR_DATA"), reason="EXPRESSOR_DATA is not set")
def test_on_real_tumours_it_is_as_good_as_a_random_survival_forest() -> None:
    adata = ex.datasets.survival_cohort("DBCD").adata
    most = np.argsort(-np.asarray(adata.X).var(axis=0))
    forest, own = [], []
    for k in range(3):
        test = np.arange(adata.n_obs) % 3 == k
        train, new = adata[~test].copy(), adata[test].copy()
        genes = np.sort(most[:500])
        forest.append(forest_concordance(train[:, genes].copy(), new[:, genes].copy()))
        own.append(concordance(new.obs["time"], new.obs["event"].astype(bool), PenalisedCox().fit(train).risk(new)))
    assert np.mean(own) > np.mean(forest) - 0.05


def test_curves_hold_for_new_patients(fitted: PenalisedCox) -> None:
    new = patients(2, 600)
    table = fitted.evaluate(new).set_index("metric")
    assert list(table.index) == ["concordance", "calibration_slope", "brier_skill"]
    assert table.loc["brier_skill", "low"] > 0.05
    # Stretched by its slope, the risk is on its own scale.
    assert fitted.slope_ == pytest.approx(table.loc["calibration_slope", "value"], rel=0.3)
    at = np.quantile(new.obs["time"], [0.25, 0.5])
    curves = fitted.survival_function(new, at)
    assert list(curves.columns) == list(at)
    for one in at:
        from expressor.metrics.survival import kaplan_meier

        observed = kaplan_meier(new.obs["time"], new.obs["event"]).at(np.array([one]))[0]
        assert float(curves[one].mean()) == pytest.approx(observed, abs=0.06)
    whole = fitted.survival_function(new)
    assert bool((np.diff(whole.to_numpy(), axis=1) <= 0).all())
    assert float(fitted.survival_function(new, [0.0]).to_numpy().min()) == 1.0


def test_outcomes_that_nothing_predicts_give_no_confident_curves() -> None:
    model = PenalisedCox(components=20).fit(patients(0, log_hazard=0.0))
    new = patients(1, log_hazard=0.0)
    curves = model.survival_function(new, [500.0])
    assert float(curves.std().iloc[0]) < 0.1
    table = model.evaluate(new).set_index("metric")
    assert table.loc["concordance", "low"] < 0.5 < table.loc["concordance", "high"] + 0.02


def test_strata_have_baselines_of_their_own() -> None:
    data = patients(0)
    second = (data.obs["cohort"] == "C2").to_numpy()
    data.obs["time"] = np.where(second, data.obs["time"] * 5, data.obs["time"])
    model = PenalisedCox(components=20, strata="cohort").fit(data)
    new = patients(1)
    curves = model.survival_function(new, [800.0])[800.0]
    there = (new.obs["cohort"] == "C2").to_numpy()
    assert curves[there].mean() > curves[~there].mean() + 0.1
    del new.obs["cohort"]
    together = model.survival_function(new, [800.0])[800.0]
    assert curves[~there].mean() < together.mean() < curves[there].mean()
    assert "stratified by cohort" in model.describe()


def test_samples_of_a_patient_share_a_fold() -> None:
    data = simulate_bulk(n_patients=60, n_genes=30, samples_per_patient=3, noise=0.01, log_hazard=0.0, seed=4)
    model = PenalisedCox(components=25, scaling="unit", alpha=1e-3).fit(data)
    table = model.out_of_fold_
    # With twins in the training part, outcomes of pure chance would be known.
    assert concordance(table["time"], table["event"], table["log_risk"]) < 0.65


def test_a_given_strength_is_used() -> None:
    model = PenalisedCox(alpha=0.3, components=5).fit(example("bulk"))
    assert model.alpha_ == 0.3
    assert len(model.history_) == 1
    strong = PenalisedCox(alpha=1e6, components=5).fit(example("bulk"))
    assert strong.coefficients_.abs().max() < 1e-4


def test_an_empty_elastic_net_still_gives_curves() -> None:
    model = PenalisedCox(penalty="elastic_net", alpha=1e6).fit(example("bulk"))
    assert len(model.coefficients_) == 0
    assert not model.risk(example("bulk", seed=1)).any()
    assert model.slope_ == 0.0
    assert len(model.survival_function(example("bulk", seed=1), [100.0])) == 60


def test_what_it_refuses() -> None:
    data = example("bulk")
    model = PenalisedCox(components=5, folds=3).fit(data)
    with pytest.raises(GeneError, match="1 of 40 needed genes are missing from the data"):
        model.risk(data[:, 1:].copy())
    holed = data.copy()
    holed.X[2, 3] = np.nan
    for call in (model.risk, PenalisedCox().fit):
        with pytest.raises(DataError, match="X holds 1 NaN: values of 1 genes in 1 samples.*Restore them first"):
            call(holed)
    few = data.copy()
    few.obs["event"] = np.arange(60) < 5
    with pytest.raises(DataError, match="too few events for 5 folds; expected at least 10, got 5"):
        PenalisedCox().fit(few)
    negative = data.copy()
    negative.obs["time"] = -negative.obs["time"]
    with pytest.raises(DataError, match="negative times"):
        PenalisedCox().fit(negative)
    with pytest.raises(DataError, match="obs has no column 'os'"):
        PenalisedCox(time="os").fit(data)
    with pytest.raises(DataError, match="unknown penalty 'lasso'"):
        PenalisedCox().set_params(penalty="lasso").fit(data)
    with pytest.raises(DataError, match="times are negative or not finite"):
        model.survival_function(data, [-1.0])


KEPT = [0.31623, 0.8631, 0.35673, -0.03141, 0.11061, 0.95848]


def test_a_small_fit_gives_the_kept_numbers() -> None:
    """Kept: preset "tiny" on the bulk example, seed 0; a change is a change of the method and must be meant."""
    model = PenalisedCox.preset("tiny").fit(example("bulk"))
    assert (model.alpha_, model.slope_) == pytest.approx(KEPT[:2], rel=1e-3)
    np.testing.assert_allclose(model.risk(example("bulk", seed=1))[:4], KEPT[2:], atol=2e-4)


@pytest.mark.slow
@pytest.mark.skipif("EXPRESSOR_DATA" not in os.environ, reason="EXPRESSOR_DATA names no folder of real data")
def test_dutch_breast_cancers_are_ranked() -> None:
    data = ex.datasets.survival_cohort("DBCD").adata
    order = np.random.default_rng(0).permutation(data.n_obs)
    train, test = data[order[:200]].copy(), data[order[200:]].copy()
    assert PenalisedCox().fit(train).score(test) > 0.62


def test_a_gene_that_hardly_varied_in_the_fit_does_not_decide_alone() -> None:
    """All but silent in the training patients, loud in a new one: what it may say is bounded."""
    train, new = patients(0), patients(1)
    train.X[:, 3] = 1.0 + 1e-4 * np.arange(train.n_obs) / train.n_obs
    model = PenalisedCox(components=20).fit(train)
    calm = new.copy()
    calm.X[:, 3] = 1.0
    loud = calm.copy()
    loud.X[:, 3] = 9.0
    assert np.ptp(model.risk(loud) - model.risk(calm)) < 1e-4
    assert np.abs(model.risk(loud) - model.risk(calm)).max() < 3 * np.std(model.risk(calm))
