"""Planted truths are found: closed forms where the data are Gaussian, gains where they are not, types, risks, anchors."""

from typing import Any

import anndata as ad
import numpy as np
import pandas as pd
import pytest
import torch

from expressor.datasets.profiles import simulate_bulk
from expressor.metrics.survival import concordance
from expressor.nn.gaussian import condition, fit_gaussian
from expressor.systems.gexbert.equations import univariate_score
from expressor.systems.gexbert.estimator import GexBERT
from expressor.systems.gexbert.memory import Memory
from expressor.systems.gexbert.skip import fit_skip, with_shrinkage
from expressor.train.plan import TrainPlan


@pytest.fixture(autouse=True)
def one_thread() -> Any:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def small(**changes: Any) -> GexBERT:
    plan = TrainPlan(lr=3e-3, weight_decay=0.01, batch_size=16, epochs=6, patience=3, clip_norm=1.0, device="cpu")
    options = {"dim": 16, "layers": 1, "heads": 2, "hidden": 32, "panel_sizes": (4, 30), "tokens": 20, "targets": 20,
               "steps": 8, "components": 8, "plan": plan}  # fmt: skip
    return GexBERT(**(options | changes))


def shown(data: ad.AnnData, genes: Any) -> ad.AnnData:
    return data[:, list(genes)].copy()


# Restoration ------------------------------------------------------------------------------------------------------------


def test_the_skip_alone_is_the_closed_form() -> None:
    data, new = simulate_bulk(n_patients=80, seed=0), simulate_bulk(n_patients=10, seed=1)
    model = small(network=False, memory=0, floor="none").fit(data)
    genes = list(model.genes_in_)
    values = torch.from_numpy(data[:, genes].X).double()
    observed = torch.arange(0, 40, 3)
    hidden = torch.from_numpy(np.setdiff1d(np.arange(40), observed.numpy()))
    shrinkage = model._fitted.restorer.skip.shrinkage_at(len(observed))
    state = fit_gaussian(values, shrinkage=shrinkage)
    expected, _ = condition(state, torch.from_numpy(new[:, genes].X).double()[:, observed], observed, hidden)
    found = model.impute(shown(new, [genes[i] for i in observed]))
    np.testing.assert_allclose(found[:, hidden.numpy()], expected.numpy(), rtol=1e-5)


def test_it_comes_near_what_the_true_distribution_gives() -> None:
    """Low-rank Gaussian data: within 6 % of the conditional mean under the true covariance, which nothing can beat."""
    rng = np.random.default_rng(0)
    loadings, noise = rng.standard_normal((60, 4)), 0.7

    def draw(n: int, seed: int) -> ad.AnnData:
        own = np.random.default_rng(seed)
        return table(own.standard_normal((n, 4)) @ loadings.T + noise * own.standard_normal((n, 60)), seed)

    train, new = draw(250, 1), draw(300, 2)
    model = small().fit(train)
    observed = np.arange(0, 60, 4)
    hidden = np.setdiff1d(np.arange(60), observed)
    restored = model.impute(new[:, observed].copy())[:, hidden]
    sigma = loadings @ loadings.T + noise**2 * np.eye(60)
    weights = np.linalg.solve(sigma[np.ix_(observed, observed)], sigma[np.ix_(observed, hidden)])
    truth = np.asarray(new.X)
    best = truth[:, observed] @ weights

    def error(found: np.ndarray) -> float:
        return float(np.sqrt(((found - truth[:, hidden]) ** 2).mean()))

    assert error(restored) < 1.06 * error(best)
    assert error(restored) < 0.6 * error(np.zeros_like(best))


def table(values: np.ndarray, seed: int = 0) -> ad.AnnData:
    obs = pd.DataFrame(index=[f"p{seed}-{i}" for i in range(len(values))])
    var = pd.DataFrame(index=[f"G{i:02d}" for i in range(values.shape[1])])
    return ad.AnnData(values.astype(np.float32), obs=obs, var=var, uns={"unit": "log ratio"})


def crossed(n: int, seed: int) -> ad.AnnData:
    """Two kinds of patients, told apart by the first ten genes, in which ten other genes follow a factor with opposite signs."""
    rng = np.random.default_rng(seed)
    kind = np.where(rng.random(n) < 0.5, 1.0, -1.0)
    factor = rng.standard_normal(n)
    marker = 2.0 * kind[:, None] + 0.5 * rng.standard_normal((n, 10))
    follower = factor[:, None] + 0.5 * rng.standard_normal((n, 10))
    switched = (kind * factor)[:, None] + 0.5 * rng.standard_normal((n, 20))
    return table(np.hstack([marker, follower, switched]), seed)


def test_memory_finds_what_no_gaussian_can() -> None:
    """Half of the genes are uncorrelated with the panel and determined by it: the Gaussian restores their mean, the memory them."""
    train, new = crossed(300, 0), crossed(100, 1)
    panel, hidden = list(train.var_names[:20]), np.arange(20, 40)
    plain, model = small(network=False, memory=0).fit(train), small(network=False).fit(train)
    truth = np.asarray(new.X)[:, hidden]
    before, after = (
        np.sqrt(((one.impute(shown(new, panel))[:, hidden] - truth) ** 2).mean()) for one in (plain, model)
    )
    assert before == pytest.approx(truth.std(), rel=0.05)
    assert after < 0.8 * before
    assert model.parts_["memory_share"].max() > 0.3
    assert "held-out patients gained by it" in model.describe()


def test_the_network_finds_it_too() -> None:
    train, new = crossed(300, 0), crossed(100, 1)
    panel, hidden = list(train.var_names[:20]), np.arange(20, 40)
    plan = TrainPlan(lr=5e-3, weight_decay=0.01, batch_size=32, epochs=25, patience=8, clip_norm=1.0, device="cpu")
    model = small(memory=0, plan=plan, steps=15, panel_sizes=(8, 39), tokens=40).fit(train)
    truth = np.asarray(new.X)[:, hidden]
    plain = small(network=False, memory=0).fit(train)
    before, after = (
        np.sqrt(((one.impute(shown(new, panel))[:, hidden] - truth) ** 2).mean()) for one in (plain, model)
    )
    assert model.parts_["network_share"].max() > 0
    assert after < 0.985 * before


def test_what_does_not_help_is_switched_off() -> None:
    """Independent genes: nothing can be restored, the network can only do harm, and the model is the mean."""
    model = small().fit(table(np.random.default_rng(0).standard_normal((60, 30))))
    assert model.parts_["gain"].max() < 0.02
    if not model.parts_["network_share"].any():
        assert "it was switched off" in model.describe()
    judged = model.history_[model.history_["stage"] == "judge"]
    assert (judged["val_rmse"] <= judged["skip_rmse"] + 1e-9).all()


def test_memory_restores_a_patient_that_it_holds_by_what_was_missed() -> None:
    """With a narrow kernel and no penalty the answer for a training patient is its own leave-one-out residual."""
    values = torch.from_numpy(np.random.default_rng(0).standard_normal((20, 12)))
    skip, cross = fit_skip(values, seed=0, folds=4, components=3)
    memory = Memory.of(skip, cross.filled, 100, seed=0)
    observed, targets = torch.arange(6), torch.arange(6, 12)
    z = skip.standardise(values, torch.arange(12))
    (found,) = memory.recall(z[:, observed], observed, targets, shrinkage=0.2, kernels=[(0.01, 1e-9)])
    x, penalty = z[1:, observed], 0.2 / 0.8 * 20
    beta = torch.linalg.solve(x.T @ x + penalty * torch.eye(6, dtype=torch.float64), x.T @ z[1:, targets])
    torch.testing.assert_close(found[0], z[0, targets] - z[0, observed] @ beta, atol=1e-4, rtol=1e-4)
    assert len(Memory.of(skip, cross.filled, 7, seed=0).z) == 7


def test_with_shrinkage_is_a_fit_with_that_shrinkage() -> None:
    values = torch.from_numpy(np.random.default_rng(0).standard_normal((20, 8)))
    one, other = with_shrinkage(fit_gaussian(values, shrinkage=0.1), 0.4), fit_gaussian(values, shrinkage=0.4)
    torch.testing.assert_close(one.covariance, other.covariance)


def test_scores_are_linear_in_the_panel_and_end_at_the_principal_components() -> None:
    values = torch.from_numpy(np.random.default_rng(0).standard_normal((40, 10)))
    skip, _ = fit_skip(values, seed=0, folds=4, components=4)
    observed = torch.tensor([1, 4, 7])
    z = skip.standardise(values[:, observed], observed)
    torch.testing.assert_close(skip.scores(values[:, observed], observed), z @ skip.score_map(observed))
    every = torch.arange(10)
    u, s, _ = torch.linalg.svd(skip.standardise(values, every), full_matrices=False)
    r = torch.corrcoef(torch.stack([u[:, 0] * s[0], skip.scores(values, every)[:, 0]]))[0, 1]
    assert abs(float(r)) > 0.999


# Uncertainty ------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def fitted() -> GexBERT:
    data = simulate_bulk(n_patients=150, seed=0)
    return small(label="cancer_type", time="time", event="event", network=False).fit(data)


@pytest.mark.parametrize("coverage", [0.5, 0.9])
def test_intervals_hold_for_new_patients(fitted: GexBERT, coverage: float) -> None:
    new = simulate_bulk(n_patients=200, seed=3)
    panel = list(fitted.genes_in_)[::3]
    lower, upper = fitted.impute_interval(shown(new, panel), coverage)
    hidden = [i for i, gene in enumerate(fitted.genes_in_) if gene not in panel]
    truth = new[:, list(fitted.genes_in_)].X[:, hidden]
    inside = (truth >= lower[:, hidden]) & (truth <= upper[:, hidden])
    # 22 patients calibrate; the quantile of a patient more is taken.
    assert coverage - 0.03 < inside.mean() < coverage + 0.1
    kept = [i for i, gene in enumerate(fitted.genes_in_) if gene in panel]
    np.testing.assert_array_equal(lower[:, kept], new[:, panel].X)
    np.testing.assert_array_equal(lower[:, kept], upper[:, kept])


def test_draws_spread_around_what_is_restored_and_do_not_depend_on_company(fitted: GexBERT) -> None:
    new = shown(simulate_bulk(n_patients=4, seed=3), list(fitted.genes_in_)[::3])
    draws = fitted.impute_draws(new, 400)
    centre = fitted.impute(new)
    lower, upper = fitted.impute_interval(new, 0.68)
    hidden = upper[0] > lower[0]
    np.testing.assert_allclose(draws.mean(0)[:, hidden], centre[:, hidden], atol=0.25)
    ratio = draws.std(0)[:, hidden] / ((upper - lower) / 2)[:, hidden]
    assert np.median(ratio) == pytest.approx(1, abs=0.1)
    np.testing.assert_array_equal(draws[:, :, ~hidden], np.broadcast_to(centre[:, ~hidden], draws[:, :, ~hidden].shape))
    np.testing.assert_array_equal(fitted.impute_draws(new[2:3].copy(), 2)[:, 0], draws[:2, 2])


# Labels and survival ----------------------------------------------------------------------------------------------------


def test_types_are_told_from_few_genes(fitted: GexBERT) -> None:
    new = simulate_bulk(n_patients=150, seed=4)
    panel = list(new.var_names[new.var["role"] == "type"][:6]) + list(new.var_names[-3:])
    predicted = fitted.predict(shown(new, panel))
    assert list(predicted.columns) == ["cancer_type"]
    assert (predicted["cancer_type"] == new.obs["cancer_type"].astype(str)).mean() > 0.6
    assert (fitted.predict(new)["cancer_type"] == new.obs["cancer_type"].astype(str)).mean() > 0.8
    np.testing.assert_allclose(fitted.predict_proba(new).sum(axis=1), 1, rtol=1e-5)


def test_risks_rank_new_patients(fitted: GexBERT) -> None:
    new = simulate_bulk(n_patients=200, seed=5)
    time, event = new.obs["time"].to_numpy(float), new.obs["event"].to_numpy(bool)
    assert concordance(time, event, fitted.risk(new)) > 0.65
    curves = fitted.survival_function(new, [0, 200, 1000])
    assert (curves[0.0] == 1).all()
    assert (np.diff(curves.to_numpy(), axis=1) <= 0).all()
    # The higher the risk, the lower the curve.
    assert np.corrcoef(fitted.risk(new), curves[1000.0])[0, 1] < -0.9


def test_anchors_are_planted_survival_genes_and_help_a_panel_that_lacks_them() -> None:
    data, new = simulate_bulk(n_patients=200, seed=0), simulate_bulk(n_patients=200, seed=6)
    role = data.var["role"]
    panel = tuple(data.var_names[role == "survival"][:2]) + tuple(data.var_names[role != "survival"][:6])
    model = small(network=False, memory=0, time="time", event="event", panel=panel, survival_input="anchors", anchors=4)
    model.fit(data)
    assert len(model.anchors_) == 4
    assert not set(model.anchors_) & set(panel)
    assert (data.var.loc[list(model.anchors_), "role"] == "survival").mean() >= 0.75
    time, event = new.obs["time"].to_numpy(float), new.obs["event"].to_numpy(bool)
    assert concordance(time, event, model.risk(shown(new, panel))) > 0.6
    z = torch.from_numpy(np.asarray(data.X, dtype=np.float64))
    score = univariate_score(z, torch.from_numpy(data.obs["time"].to_numpy(float)),
                             torch.from_numpy(data.obs["event"].to_numpy(bool))).abs()  # fmt: skip
    outside = [i for i, name in enumerate(data.var_names) if name not in panel]
    best = max(outside, key=lambda i: float(score[i]))
    assert model.anchors_[0] == data.var_names[best]


def test_unlabelled_patients_teach_the_restoration_and_not_the_heads() -> None:
    data = simulate_bulk(n_patients=90, seed=0)
    data.obs["cancer_type"] = data.obs["cancer_type"].astype(object)
    few = [
        i for one in sorted(set(data.obs["cancer_type"])) for i in np.flatnonzero(data.obs["cancer_type"] == one)[:2]
    ]
    data.obs.loc[np.setdiff1d(data.obs_names, data.obs_names[few]), "cancer_type"] = np.nan
    data.obs.loc[data.obs_names[:40], "time"] = np.nan
    model = small(network=False, label="cancer_type", time="time", event="event").fit(data)
    assert model._fitted.counts["labelled"] == 6
    assert model._fitted.counts["outcomes"] == 50
    assert "from 6 labelled samples" in model.describe()
    new = simulate_bulk(n_patients=90, seed=4)
    assert (model.predict(new)["cancer_type"] == new.obs["cancer_type"].astype(str)).mean() > 0.4


def test_fine_tuning_starts_from_the_frozen_head_and_is_kept_only_if_it_helps() -> None:
    data = simulate_bulk(n_patients=80, seed=0)
    frozen = small(label="cancer_type", time="time", event="event").fit(data)
    tuned = small(label="cancer_type", time="time", event="event", tuning="fine-tuned").fit(data)
    stages = tuned.history_[tuned.history_["stage"].isin(["tune-classes", "tune-risks"])]
    assert set(stages["stage"]) == {"tune-classes", "tune-risks"}
    for kind, role in (("classes", "predict_proba"), ("risks", "risk")):
        kept = getattr(tuned._fitted, f"tuned_{kind}") is not None
        assert bool(stages.loc[stages["stage"] == f"tune-{kind}", "kept"].iloc[0]) == kept
        same = np.array_equal(np.asarray(getattr(frozen, role)(data)), np.asarray(getattr(tuned, role)(data)))
        assert same != kept


# Interpretation ---------------------------------------------------------------------------------------------------------


def test_contributions_add_up_to_the_output(fitted: GexBERT) -> None:
    """From the training mean to the sample: the difference in log odds, and in log risk."""
    new = simulate_bulk(n_patients=5, seed=7)
    found = fitted.attribute(new, of="risk", steps=4)
    mean = new.copy()
    mean.X = np.broadcast_to(fitted.gene_table_["mean"].loc[list(new.var_names)], new.shape).astype(np.float32)
    np.testing.assert_allclose(found.sum(axis=1), fitted.risk(new) - fitted.risk(mean), atol=1e-3)
    found = fitted.attribute(new, of="T1", steps=200)

    def log_odds(data: Any) -> np.ndarray:
        chance = fitted.predict_proba(data)["T1"].to_numpy(np.float64)
        return np.log(chance) - np.log1p(-chance)

    np.testing.assert_allclose(found.sum(axis=1), log_odds(new) - log_odds(mean), atol=0.02, rtol=0.02)


def test_gradients_find_the_planted_genes_and_random_weights_do_not() -> None:
    data = simulate_bulk(n_patients=150, seed=0)
    model = small(label="cancer_type", time="time", event="event").fit(data)
    table = model.interpret(data, of="risk", steps=4)
    agreement = table.attrs["agreement"]
    assert agreement["gradients"] > 0.4
    assert agreement["gradients"] > agreement["random_gradients"] + 0.2
    assert table.attrs["output"] == "risk"
    assert table.index.tolist() == list(model.genes_in_)
    assert model.interpret(data).attrs["output"] in model.classes_
