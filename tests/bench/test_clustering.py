"""The task of clusters: what a method may see, resamples of cells, controls, tables."""

import numpy as np
import pytest

from expressor.bench import find_task, run, table
from expressor.bench.controls.clustering import UsualClusters
from expressor.bench.tasks.clustering import _of_common_types
from expressor.core.errors import DataError
from expressor.datasets import simulate_cells
from expressor.metrics.clustering import adjusted_rand_draws, adjusted_rand_index

FROZEN = {
    "cells": "ff792fde2ef5",
    "confirmation": "c2d02096949a",
    "simulation": "393e497c6cfa",
    "simulated": "bac33b585291",
}
SLOW = ("umap-kmeans",)  # compiles for a minute


@pytest.fixture(scope="module")
def task():
    found = find_task("clustering")
    without = tuple(one for one in found.controls(found.protocol("simulated")) if one.name not in SLOW)
    return type(
        "Few", (type(found),), {"controls": lambda self, protocol: without, "__module__": type(found).__module__}
    )()


def test_protocols_do_not_change_silently(task):
    assert {name: one.hash for name, one in task.protocols.items()} == FROZEN


def test_rare_types_and_cells_without_one_are_left_out():
    cells = simulate_cells(n_cells=40, n_types=3)
    cells.obs["cell_type"] = ["a"] * 25 + ["b"] * 10 + ["c"] * 4 + [None]
    kept = _of_common_types(cells, 10)
    assert kept.obs["cell_type"].value_counts().to_dict() == {"a": 25, "b": 10}
    assert len(_of_common_types(cells, 1)) == 39


def test_a_method_sees_counts_and_names_alone(task):
    protocol = task.protocol("simulated")
    (fold,) = task.folds(protocol, task.load(protocol))
    for seen in (fold.train, task.blind(fold.test)):
        assert list(seen.obs.columns) == []
        assert list(seen.var.columns) == []
        assert not seen.obsm
        assert not seen.uns
        np.testing.assert_array_equal(seen.X.toarray(), fold.test.X.toarray())
    assert task.context(protocol, fold, "number given", 3) == {"n_clusters": 4, "random_state": 3}


def test_results_have_intervals_over_cells_and_paired_differences(task):
    results = run(task, protocol="simulated", methods=["diphw"], seeds=(0, 1))
    own = results[(results["metric"] == "ari") & (results["reference"] == "")]
    plain = own[own["level"] == "cells"].set_index("method")
    assert set(own.loc[own["level"] == "seeds", "method"]) == {
        one.name for one in task.methods(task.protocol("simulated"), ["diphw"]) if one.seeded
    }
    assert (plain["status"] == "measured").all()
    assert set(plain.index) == {one.name for one in task.methods(task.protocol("simulated"), ["diphw"])}
    assert ((plain["low"] <= plain["value"]) & (plain["value"] <= plain["high"])).all()
    assert plain.loc["diphw", "value"] > 0.8
    assert abs(plain.loc["random", "value"]) < 0.1
    assert (plain["n_clusters"] == 80).all()
    paired = results[(results["reference"] == "pca-leiden") & (results["metric"] == "ari")].set_index("method")
    expected = plain.loc["diphw", "value"] - plain.loc["pca-leiden", "value"]
    assert paired.loc["diphw", "value"] == pytest.approx(expected)
    text = table(results)
    assert "bootstrap of the cells" in text
    assert "on the same cells" in text
    assert "patients" not in text


def test_resampled_agreement_counts_pairs_of_different_cells_only():
    rng = np.random.default_rng(0)
    truth, labels = rng.integers(0, 3, 40), rng.integers(0, 4, 40)
    labels[:20] = truth[:20]
    once = np.ones((1, 40))
    assert adjusted_rand_draws(truth, labels, once)[0] == pytest.approx(adjusted_rand_index(truth, labels))
    weights = rng.multinomial(40, np.full(40, 1 / 40), size=3).astype(float)
    for w, found in zip(weights, adjusted_rand_draws(truth, labels, weights)):
        sums = np.zeros(4)  # both, truth, labels, all
        for i in range(40):
            for j in range(i):
                same, near = truth[i] == truth[j], labels[i] == labels[j]
                sums += w[i] * w[j] * np.array([same and near, same, near, True])
        chance, best = sums[1] * sums[2] / sums[3], (sums[1] + sums[2]) / 2
        assert found == pytest.approx((sums[0] - chance) / (best - chance))
    chance = rng.multinomial(400, np.full(400, 1 / 400), size=200).astype(float)
    drawn = adjusted_rand_draws(rng.integers(0, 4, 400), rng.integers(0, 4, 400), chance)
    assert abs(drawn.mean()) < 0.02


@pytest.mark.parametrize(
    "words",
    [{}, {"grouping": "leiden"}, {"grouping": "louvain"}, {"grouping": "spectral"}, {"positions": "deepwalk"},
     {"grouping": "dense_leiden"}],
)  # fmt: skip
def test_controls_find_clear_types(words):
    if "leiden" in str(words):
        pytest.importorskip("graspologic_native")
    data = simulate_cells(n_cells=160, marker_fold=30.0, batch_fold=1.0, depth=3000.0)
    first, second = (UsualClusters(n_clusters=4, **words).fit(data).labels_ for _ in range(2))
    assert adjusted_rand_index(data.obs["cell_type"], first) > 0.8
    np.testing.assert_array_equal(first, second)


def test_wrong_names_are_refused():
    with pytest.raises(DataError, match="unknown grouping 'ward'"):
        UsualClusters(grouping="ward").fit(simulate_cells())
