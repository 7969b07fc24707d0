"""Planted survival genes: new patients are ranked, the in-sample concordance is told from the honest one."""

import numpy as np
import pytest

from expressor.core.errors import DataError, GeneError
from expressor.datasets.examples import example
from expressor.datasets.profiles import simulate_bulk
from expressor.metrics.survival import concordance
from expressor.systems.coxnmf.estimator import CoxNMF

QUICK = {"n_factors": 8, "mean_quantile": 0.0, "variance_quantile": 0.0, "max_iterations": 60}


@pytest.fixture(scope="module")
def fitted() -> CoxNMF:
    return CoxNMF(**QUICK).fit(simulate_bulk(n_patients=300, n_genes=60, seed=0))


def test_new_patients_are_ranked(fitted: CoxNMF) -> None:
    new = simulate_bulk(n_patients=300, n_genes=60, seed=1)
    time, event = new.obs["time"].to_numpy(), new.obs["event"].to_numpy()
    best = concordance(time, event, new.obsm["factors"][:, 0])
    assert concordance(time, event, fitted.risk(new)) > best - 0.06
    table = fitted.evaluate(new).set_index("metric")
    assert table.loc["brier_skill", "value"] > 0.05
    assert bool((np.diff(fitted.survival_function(new).to_numpy(), axis=1) <= 0).all())


def test_survival_genes_stand_out(fitted: CoxNMF) -> None:
    truth = simulate_bulk(n_patients=4, n_genes=60, seed=0).uns["truth"]
    planted = fitted.gene_table_.index.isin(truth["survival_genes"])
    sizes = (fitted.gene_table_["survival"] - fitted.gene_table_["survival"].median()).abs()
    assert sizes[planted].mean() > 1.5 * sizes[~planted].mean()


def test_the_in_sample_concordance_is_flagged() -> None:
    """Of outcomes of pure chance it is high; out of fold it is that of a coin."""
    chance = simulate_bulk(n_patients=120, n_genes=60, log_hazard=0.0, seed=5)
    model = CoxNMF(**(QUICK | {"alpha": 200.0})).fit(chance)
    assert model.concordance_["in_sample"] > 0.75
    assert model.concordance_["out_of_fold"] < 0.62
    assert "says nothing of new patients" in model.describe()
    honest = simulate_bulk(n_patients=300, n_genes=60, log_hazard=0.0, seed=6)
    low, high = model.evaluate(honest).set_index("metric").loc["concordance", ["low", "high"]]
    assert low < 0.53 < high + 0.05


def test_from_the_smallest_value_a_shift_says_nothing() -> None:
    """Standard scores give the factors of the values themselves, when both start from each gene's smallest."""
    data = simulate_bulk(n_patients=100, n_genes=40, seed=0)
    scores = data.copy()
    scores.X = ((data.X - data.X.mean(0)) / data.X.std(0)).astype(np.float32)
    scores.uns["unit"] = "z-score"
    with pytest.raises(DataError, match="z-score"):
        CoxNMF(**QUICK).fit(scores)
    ours, theirs = (CoxNMF(**QUICK, origin="minimum").fit(one) for one in (data, scores))
    np.testing.assert_allclose(ours.gene_factors_, theirs.gene_factors_, atol=1e-3)
    low = scores[:1].copy()
    low.X = np.full_like(low.X, -50.0)
    np.testing.assert_array_equal(theirs.transform(low), np.zeros((1, 8), dtype=np.float32))


def test_without_weight_it_is_a_plain_factorisation() -> None:
    data = simulate_bulk(n_patients=100, n_genes=40, seed=0)
    model = CoxNMF(**(QUICK | {"alpha": 0.0})).fit(data)
    shuffled = data.copy()
    order = np.random.default_rng(0).permutation(100)
    shuffled.obs["time"], shuffled.obs["event"] = (
        data.obs["time"].to_numpy()[order],
        data.obs["event"].to_numpy()[order],
    )
    again = CoxNMF(**(QUICK | {"alpha": 0.0})).fit(shuffled)
    np.testing.assert_array_equal(model.gene_factors_, again.gene_factors_)


def test_the_authors_way_runs() -> None:
    data = simulate_bulk(n_patients=100, n_genes=40, seed=0)
    model = CoxNMF.preset("paper", n_factors=5, max_iterations=60).fit(data)
    assert model.history_["relative_error"].iloc[-1] < 0.2
    assert model.concordance_["in_sample"] > 0.5


def test_projection_of_training_patients_knows_no_outcome(fitted: CoxNMF) -> None:
    data = simulate_bulk(n_patients=300, n_genes=60, seed=0)
    other = data.copy()
    other.obs["time"] = other.obs["time"].to_numpy()[::-1].copy()
    assert np.array_equal(fitted.transform(data), fitted.transform(other))


def test_what_it_refuses() -> None:
    data = example("bulk")
    model = CoxNMF.preset("tiny").fit(data)
    with pytest.raises(GeneError, match="1 of 40 needed genes are missing"):
        model.risk(data[:, 1:].copy())
    centred = data.copy()
    centred.X = data.X - 6
    del centred.uns["unit"]
    with pytest.raises(DataError, match="CoxNMF cannot use|expression is negative"):
        CoxNMF().fit(centred)
    below = data.copy()
    below.X[0, 0] = -0.5
    with pytest.raises(DataError, match="negative|unit"):
        CoxNMF().fit(below)
    with pytest.raises(
        DataError, match="fewer genes that vary, or patients, than factors; expected at least 50, got 40 genes"
    ):
        CoxNMF(n_factors=50, mean_quantile=0.0, variance_quantile=0.0).fit(data)
    few = data.copy()
    few.obs["event"] = np.arange(60) < 3
    with pytest.raises(DataError, match="too few events for 5 folds; expected at least 10, got 3"):
        CoxNMF().fit(few)


KEPT = [0.4444, 0.6384, 0.0701, -0.1038, -0.231, 0.5352]


def test_a_small_fit_gives_the_kept_numbers() -> None:
    """Kept: preset "tiny" on the bulk example, seed 0; a change is a change of the method and must be meant."""
    model = CoxNMF.preset("tiny").fit(example("bulk"))
    assert list(model.concordance_.values()) == pytest.approx(KEPT[:2], abs=5e-3)
    np.testing.assert_allclose(model.risk(example("bulk", seed=1))[:4], KEPT[2:], atol=5e-3)
