"""A planted truth is found: the cut of a ranking that is known, and that useless genes are switched off."""

from typing import Any

import numpy as np
import pytest
import torch

from expressor.datasets.simulate import simulate_auxiliaries
from expressor.systems.agl.estimator import AGL
from expressor.train.plan import TrainPlan


@pytest.fixture(autouse=True)
def one_thread() -> Any:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def fit(seed: int, *, auxiliaries: Any = "dkgsb", epochs: int = 80, ends: bool = False, **simulation: Any) -> AGL:
    data = simulate_auxiliaries(seed=seed, **simulation)
    truth = data.uns["truth"]
    model = AGL(
        target_genes=tuple(truth["primary"]), ranking=tuple(truth["ranking"]), auxiliaries=auxiliaries,
        encoder="precomputed:X_simulated", components=48, factors=6, split="blocks", refit=False, members=1,
        min_spots=1, permutations=9, compare_ends=ends, square_root=False,
        plan=TrainPlan(lr=0.01, weight_decay=0.1, batch_size=64, epochs=epochs, patience=None, device="cpu"),
    )  # fmt: skip
    return model.fit(data)


def test_the_planted_cut_is_found() -> None:
    """60 of 240 auxiliary genes help. Within a tenth of the ranking in one draw; the learning starts at 120."""
    model = fit(1)
    assert model.history_["k"].iloc[0] == 120
    assert abs(model.k_ - 60) <= 24
    weights = model.auxiliary_weights_
    assert weights.iloc[:30].min() > 0.9
    assert weights.iloc[120:].max() < 1e-3


@pytest.mark.slow
def test_the_planted_cut_is_found_on_average() -> None:
    """Within a tenth of the cut itself over five draws."""
    found = [fit(seed).k_ for seed in range(5)]
    assert np.mean(found) == pytest.approx(60, abs=6), found
    assert all(abs(k - 60) <= 24 for k in found), found


def test_useless_genes_are_switched_off() -> None:
    """With nothing to gain, k ends at 0: the model is the one of primary genes alone, no auxiliary head is computed."""
    model = fit(0, n_informative=0)
    assert model.k_ == 0
    assert model.history_["k"].iloc[-1] == 0
    assert model.auxiliary_weights_.max() < 0.5


def test_successive_halving_finds_the_same_neighbourhood() -> None:
    """It tries 0, 4, 8, 15, 30, 60, 120 and 240: near the top of the tent that is 30, 60 or, at worst, 120."""
    assert fit(1, auxiliaries="halving", epochs=40).k_ in (30, 60, 120)
    assert fit(0, auxiliaries="halving", epochs=40, n_informative=0).k_ <= 8


def test_informative_genes_help_and_useless_ones_hurt() -> None:
    """What the learnt cut is worth: on the select part, better than none and better than all."""
    score = {
        name: fit(1, auxiliaries=name).history_["select_pcc"].iloc[-10:].mean() for name in ("dkgsb", "none", "all")
    }
    assert score["dkgsb"] > score["none"] + 0.01
    assert score["dkgsb"] > score["all"] + 0.05


def test_an_end_that_the_threshold_has_not_reached_is_found_by_comparison() -> None:
    """A few epochs leave the threshold near its start at 120; that none is better shows when none is tried."""
    alone, compared = fit(0, epochs=12, n_informative=0), fit(0, epochs=12, ends=True, n_informative=0)
    assert alone.k_ > 60
    assert compared.k_ == 0
    stages = compared.history_.groupby("stage", sort=False)["select_pcc"].max()
    assert list(stages.index) == ["select", "no-auxiliaries", "all-auxiliaries"]
    assert stages.idxmax() == "no-auxiliaries"
    assert compared.score(simulate_auxiliaries(seed=0, n_informative=0)) > alone.score(
        simulate_auxiliaries(seed=0, n_informative=0)
    )


def test_a_learnt_cut_that_is_better_than_both_ends_is_kept() -> None:
    model = fit(1, ends=True)
    assert abs(model.k_ - 60) <= 24
    np.testing.assert_array_equal(model.auxiliary_weights_, fit(1).auxiliary_weights_)
