"""Fitted models that several files of tests share."""

import pytest

import expressor as ex
from expressor.systems.bmfm.estimator import BMFM
from expressor.systems.bmfm.tests.small import cells, tiny
from expressor.train.plan import TrainPlan


@pytest.fixture(scope="package")
def fitted() -> BMFM:
    return tiny().fit(cells())


@pytest.fixture(scope="package")
def learnt() -> BMFM:
    """A model that was trained long enough to have learnt something."""
    plan = TrainPlan(lr=3e-3, weight_decay=0.01, batch_size=32, epochs=40, patience=10, clip_norm=0.5)
    return tiny(plan=plan, max_length=64, sequence_dropout=0.5).fit(ex.datasets.simulate_cells(n_cells=400, seed=5))
