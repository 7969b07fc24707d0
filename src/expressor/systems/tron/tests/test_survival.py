"""A model of risk as source: what it gives in the other species, what is learnt on times and events, curves, refusals."""

import anndata as ad
import numpy as np
import pandas as pd
import pytest
import torch
from lifelines import BreslowFlemingHarringtonFitter
from lifelines.utils import concordance_index
from sklearn.linear_model import LinearRegression

import expressor as ex
from expressor.core.errors import DataError
from expressor.data.fields import expression
from expressor.data.keys import UNIT
from expressor.data.units import LOG1P
from expressor.datasets.species import SpeciesPair, simulate_species
from expressor.estimator.expression_models import expression_model
from expressor.nn.cox import calibrate_risk
from expressor.systems.tron import TRON
from expressor.train.plan import TrainPlan

QUICK = TrainPlan(lr=1e-2, weight_decay=0.0, epochs=15)
LEVEL = {"T1": -1.5, "T2": -0.5, "T3": 0.5, "T4": 1.5}


def samples(cells: ad.AnnData, seed: int) -> ad.AnnData:
    """Return log expression with times whose log hazard is that of the type; a third are censored."""
    rng = np.random.default_rng(seed)
    log_hazard = cells.obs["cell_type"].astype(str).map(LEVEL).to_numpy(dtype=float)
    time, censored = rng.exponential(100 * np.exp(-log_hazard)), rng.exponential(150, cells.n_obs)
    obs = pd.DataFrame({"time": np.minimum(time, censored) + 0.1, "event": time <= censored}, index=cells.obs_names)
    return ad.AnnData(expression(cells, scale="log1p_cp10k"), obs=obs, var=cells.var, uns={UNIT: LOG1P})


@pytest.fixture(scope="module")
def pair() -> SpeciesPair:
    return simulate_species(n_cells=160, n_families=60, seed=0)


@pytest.fixture(scope="module")
def cox(pair: SpeciesPair) -> ex.PenalisedCox:
    return ex.PenalisedCox(components=8, folds=3).fit(samples(pair.source, 0))


@pytest.fixture(scope="module")
def target(pair: SpeciesPair) -> ad.AnnData:
    return samples(pair.target, 1)


@pytest.fixture(scope="module")
def new() -> ad.AnnData:
    return samples(simulate_species(n_cells=160, n_families=60, seed=1).target, 2)


def tron(pair: SpeciesPair, source: object, **options: object) -> TRON:
    given = {
        "orthologs": pair.orthologs,
        "species": ("alpha", "beta"),
        "scale": "given",
        "plan": QUICK,
        "match": "mean",
    }
    return TRON(**given | {"source": source} | options)


def concordance(model: TRON, data: ad.AnnData) -> float:
    return float(concordance_index(data.obs["time"], -model.risk(data), data.obs["event"]))


def test_a_risk_serves_another_species(pair, cox, target, new) -> None:
    zero, learnt = tron(pair, cox, mode="zero-shot").fit(target), tron(pair, cox).fit(target)
    names = np.random.default_rng(0).permutation(pair.orthologs.pairs["second"].unique())
    other = dict(zip(pair.orthologs.pairs["second"].unique(), names))
    permuted = type(pair.orthologs).from_pairs(
        pair.orthologs.pairs["first"], pair.orthologs.pairs["second"].map(other), species=("alpha", "beta")
    )
    wrong = tron(pair, cox, mode="zero-shot", orthologs=permuted).fit(target)
    assert concordance(zero, new) > 0.65
    assert concordance(zero, new) > concordance(wrong, new) + 0.1
    assert concordance(learnt, new) > concordance(zero, new) - 0.02
    assert learnt.score(target) > zero.score(target)
    assert zero.survives_


def test_zero_shot_has_the_curves_of_the_source(pair, cox, target, new) -> None:
    model = tron(pair, cox, mode="zero-shot").fit(target)
    at = [10.0, 50.0, 200.0]
    given = ad.AnnData(model.convert(new), uns={UNIT: LOG1P})
    pd.testing.assert_frame_equal(
        model.survival_function(new, times=at), cox.survival_function(given, times=at), rtol=1e-4
    )


def test_learnt_curves_are_those_of_unseen_risks(pair, cox, target, new, tmp_path) -> None:
    model = tron(pair, cox).fit(target)
    curves = model.survival_function(new)
    assert curves.index.equals(new.obs_names)
    assert set(curves.columns) == set(target.obs.loc[target.obs["event"], "time"])
    assert (np.diff(curves.to_numpy(), axis=1) <= 1e-7).all()
    # Over samples that nothing was learnt on the mean curve is theirs without any model, but for the noise of 160.
    whole = BreslowFlemingHarringtonFitter().fit(new.obs["time"], new.obs["event"])
    at = [30.0, 60.0, 120.0]
    mean = model.survival_function(new, times=at).mean(axis=0).to_numpy()
    np.testing.assert_allclose(mean, whole.survival_function_at_times(at), atol=0.12)
    # Where there is nothing to learn, risks fit those that they were learnt on, and the slope still says what they are worth.
    chance = target.copy()
    chance.obs = target.obs.sample(frac=1, random_state=0).set_axis(target.obs_names)
    loose = tron(pair, cox, pull=0.0, plan=TrainPlan(lr=5e-2, weight_decay=0.0, epochs=30)).fit(chance)
    time, event = (torch.from_numpy(chance.obs[name].to_numpy()) for name in ("time", "event"))
    seen = calibrate_risk(torch.from_numpy(loose.risk(chance)), time, event)[0]
    assert loose.source_.hazard[0] < 0.3 < seen
    again = ex.load(model.save(tmp_path / "m"))
    assert again.survives_
    pd.testing.assert_frame_equal(again.survival_function(new), curves)
    assert np.array_equal(again.risk(new), model.risk(new))


def test_too_few_events_keep_the_sources_curves(pair, cox, target) -> None:
    few = target.copy()
    few.obs["time"] = few.obs["time"].where(few.obs["event"].cumsum() <= 4)
    model = tron(pair, cox).fit(few)
    assert model.n_labelled_ < target.n_obs
    slope, baseline = model.source_.hazard
    assert slope == cox.slope_
    assert np.array_equal(baseline.times, cox._baselines[-1].times)


def test_a_system_that_is_only_asked_gives_its_curves(pair, target, new) -> None:
    source = ex.CoxNMF.preset("tiny").fit(samples(pair.source, 0))
    model = tron(pair, source, mode="zero-shot", match="none").fit(target)
    at = [20.0, 100.0]
    given = ad.AnnData(model.convert(new), uns={UNIT: LOG1P})
    np.testing.assert_allclose(
        model.survival_function(new, times=at), source.survival_function(given, times=at), rtol=1e-5
    )


def test_what_has_no_curves_says_so(pair, cox, target) -> None:
    n = pair.source.n_vars
    bare = expression_model(torch.nn.Linear(n, 1), genes=list(pair.source.var_names), kind="risk")
    model = tron(pair, bare, mode="zero-shot", match="none").fit(target)
    with pytest.raises(DataError, match="the Linear has no survival curves: its baseline hazard is not known"):
        model.survival_function(target)
    assert tron(pair, bare, match="none").fit(target).survival_function(target).shape[0] == target.n_obs
    with pytest.raises(DataError, match="times are negative or not finite"):
        tron(pair, cox, mode="zero-shot").fit(target).survival_function(target, times=[-1.0])
    x = np.asarray(samples(pair.source, 0).X)
    numbers = expression_model(LinearRegression().fit(x, x[:, 0]), genes=list(pair.source.var_names))
    other = tron(pair, numbers, mode="zero-shot", match="none").fit(target)
    assert not other.survives_
    with pytest.raises(DataError, match="has no survival curves: it gives values, no risk"):
        other.survival_function(target)
    with pytest.raises(DataError, match="the source gives values, no risk"):
        other.risk(target)
