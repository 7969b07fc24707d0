"""Unlabelled observations that teach along: who is named, what it is worth on simulated species, what it refuses."""

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression

import expressor as ex
from expressor.core.errors import DataError
from expressor.data.fields import expression
from expressor.datasets.species import simulate_species
from expressor.estimator.expression_models import expression_model
from expressor.systems.tron import TRON
from expressor.systems.tron.labels import surest
from expressor.train.plan import TrainPlan

PLAN = TrainPlan(lr=2e-2, weight_decay=0.0, batch_size=64, epochs=15)


def test_the_surest_of_each_class_are_named() -> None:
    p = np.array([[0.9, 0.1], [0.6, 0.4], [0.8, 0.2], [0.3, 0.7], [0.95, 0.05], [0.45, 0.55]])
    free = np.array([True, True, True, True, False, True])
    assert surest(p, free, 2).tolist() == [0, -1, 0, 1, -1, 1]
    assert surest(p, free, 1).tolist() == [0, -1, -1, 1, -1, -1]
    assert (surest(p, np.zeros(6, dtype=bool), 3) == -1).all()


@pytest.fixture(scope="module")
def pair():
    return simulate_species(n_cells=160, n_families=60, depth=150.0, noise=0.8, seed=0)


@pytest.fixture(scope="module")
def source(pair):
    values = expression(pair.source, scale="log1p_cp10k").astype(np.float64)
    model = LogisticRegression(C=0.05, max_iter=500).fit(values, pair.source.obs["cell_type"].astype(str))
    return expression_model(model, genes=list(pair.source.var_names), mean=values.mean(0), spread=values.std(0))


def tron(pair, source, **options) -> TRON:
    given = {
        "orthologs": pair.orthologs,
        "species": ("alpha", "beta"),
        "plan": PLAN,
        "match": "moments",
        "mode": "joint",
    }
    return TRON(**given | {"source": source} | options)


def right(model: TRON, data) -> float:
    return float((model.predict(data)["cell_type"] == data.obs["cell_type"].astype(str)).mean())


def test_it_helps_where_nothing_is_labelled(pair, source, tmp_path) -> None:
    bare = pair.target.copy()
    bare.obs = bare.obs[[]]
    bare.obs["cell_type"] = None
    new = simulate_species(n_cells=160, n_families=60, depth=150.0, noise=0.8, seed=1).target
    zero = tron(pair, source, mode="zero-shot").fit(bare)
    taught = tron(pair, source, self_training=20).fit(bare)
    assert right(taught, new) > right(zero, new) + 0.02
    assert (taught.n_labelled_, zero.n_named_) == (0, 0)
    assert 60 <= taught.n_named_ <= 80
    assert "unlabelled ones that a first fit was surest of, 20 a class, taught along" in taught.describe()
    again = ex.load(taught.save(tmp_path / "m"))
    assert again.n_named_ == taught.n_named_
    assert again.predict_proba(new).equals(taught.predict_proba(new))


def test_labels_stay_what_they_are(pair, source) -> None:
    few = pair.target.copy()
    few.obs["cell_type"] = few.obs["cell_type"].astype(object).where(np.arange(few.n_obs) % 12 == 0)
    model = tron(pair, source, self_training=10).fit(few)
    assert model.n_labelled_ == 14
    assert 0 < model.n_named_ <= 40
    everyone = tron(pair, source, self_training=10).fit(pair.target)
    plain = tron(pair, source).fit(pair.target)
    assert everyone.n_named_ == 0  # there is no one left to name
    assert everyone.predict_proba(few).equals(plain.predict_proba(few))


def test_what_it_needs(pair, source) -> None:
    with pytest.raises(
        DataError, match="self_training names classes, and learns from them.*got classes, mode='zero-shot'"
    ):
        tron(pair, source, self_training=5, mode="zero-shot").fit(pair.target)
    with pytest.raises(DataError, match="self_training"):
        tron(pair, source, self_training=-1).fit(pair.target)
