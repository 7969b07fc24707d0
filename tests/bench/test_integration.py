"""The task of integration: what a method sees, controls on simulated cells, Harmony against loops and harmonypy."""

import warnings

import numpy as np
import pandas as pd
import pytest

from expressor.bench import find_task, run, table
from expressor.bench.controls.harmony import assign, correct, harmonise, unit
from expressor.bench.controls.integrating import Integrator, less_means, most_variable
from expressor.bench.store import Cell, Key
from expressor.bench.tasks.integration import ALL, _statistics
from expressor.core.errors import DataError, MissingExtra
from expressor.datasets import simulate_cells
from expressor.metrics.integration import judge_integration

FROZEN = {"cells": "4579acf5c602", "simulated": "abb4415c41e2"}


@pytest.fixture(scope="module")
def task():
    return find_task("integration")


@pytest.fixture(scope="module")
def cells():
    return simulate_cells(n_cells=160, batch_fold=2.5, seed=0)


@pytest.fixture(scope="module")
def results():
    return run("integration", protocol="simulated", methods=[])


def test_protocols_do_not_change_silently(task):
    assert {name: one.hash for name, one in task.protocols.items()} == FROZEN


def test_a_method_sees_no_type(task):
    protocol = task.protocol("simulated")
    (fold,) = task.folds(protocol, task.load(protocol))
    for seen in (fold.train, task.blind(fold.test)):
        assert list(seen.obs.columns) == ["batch"]
        assert not seen.var.columns.size


def test_what_integrates_scores_higher(results):
    plain = results[results["reference"] == ""].pivot_table(index="method", columns="metric", values="value")
    overall = plain["integration"]
    assert overall["harmony"] > overall["none"] + 0.2
    assert overall["means"] > overall["none"] + 0.2
    assert plain.loc["random", "avg_bio"] < 0.25 < 0.7 < plain.loc["harmony", "avg_bio"]
    assert plain.loc["none", "pcr_comparison"] == pytest.approx(0, abs=1e-6)
    paired = results[(results["reference"] == "none") & (results["metric"] == "integration")].set_index("method")
    assert paired.loc["harmony", "value"] == pytest.approx(overall["harmony"] - overall["none"])
    assert paired.loc["harmony", "low"] > 0.1


def test_the_table_says_what_its_brackets_are(results):
    text = table(results)
    assert text.startswith("## integration: simulated (version 1")
    assert "95 % of random halves of the cells" in text
    assert "| PCA + Harmony | control |" in text
    assert "patients" not in text


def test_intervals_are_those_of_the_halves():
    def cell(name, value, halves):
        metrics = ("integration", "avg_bio", "avg_batch", "nmi", "ari", "asw_label", "clisi", "isolated_labels",
                   "graph_connectivity", "asw_batch", "ilisi", "pcr_comparison")  # fmt: skip
        tables = {
            "scores": pd.DataFrame([dict.fromkeys(metrics, value)]),
            "halves": pd.DataFrame(dict.fromkeys(metrics, halves)),
            "cells": pd.DataFrame({"n": [10]}),
        }
        return Cell(Key("m", name, "counts", 0, ""), tables=tables)

    found = {
        (one.setting, one.metric): one for one in _statistics([cell("a", 0.5, [0.3, 0.5]), cell("b", 0.7, [0.8, 0.6])])
    }
    np.testing.assert_allclose(found["a", "integration"].draws, [0.4, 0.6])
    assert found[ALL, "integration"].value == pytest.approx(0.6)
    np.testing.assert_allclose(found[ALL, "integration"].draws, [0.6, 0.6])
    assert found[ALL, "integration"].n == 20


def test_batch_means_and_variable_genes_against_loops(cells):
    values = np.log1p(cells.X.toarray())
    batch = cells.obs["batch"].astype(str).to_numpy()
    found = less_means(values, batch)
    for gene in range(3):
        for one in np.unique(batch):
            rows = batch == one
            np.testing.assert_allclose(found[rows, gene], values[rows, gene] - values[rows, gene].mean(), atol=1e-6)
    assert set(most_variable(found, cells.var_names, 7)) == set(np.argsort(-found.std(axis=0))[:7])
    assert len(most_variable(found, cells.var_names, None)) == cells.n_vars


def test_other_cells_and_a_missing_batch_are_refused(cells):
    model = Integrator().fit(cells)
    with pytest.raises(DataError, match="only the cells of the fit have places; expected 160, got 159"):
        model.transform(cells[1:])
    with pytest.raises(DataError, match="there is no column 'run' in obs"):
        Integrator(batch="run").fit(cells)


# Harmony ------------------------------------------------------------------------------------------------------------------------


def test_correction_is_a_weighted_ridge_in_each_cluster():
    rng = np.random.default_rng(0)
    Z, codes = rng.normal(size=(40, 3)), rng.integers(0, 2, 40)
    R = rng.dirichlet([1.0, 1.0], 40)
    expected = Z.copy()
    for k in range(2):
        # Rows of the penalty stand below those of the cells: plain least squares then gives the ridge solution.
        root = np.sqrt(R[:, k])
        design = np.column_stack([np.ones(40), codes == 0, codes == 1]) * root[:, None]
        rows = np.vstack([design, [[0, np.sqrt(0.5), 0], [0, 0, np.sqrt(0.5)]]])
        shift = np.linalg.lstsq(rows, np.vstack([Z * root[:, None], np.zeros((2, 3))]), rcond=None)[0]
        for i in range(40):
            expected[i] -= R[i, k] * shift[1 + codes[i]]
    np.testing.assert_allclose(correct(Z, R, np.eye(2)[codes], ridge=0.5), expected, atol=1e-10)


def test_shares_of_clusters():
    cosines = np.array([[1.0, 0.8], [0.2, 0.2]])
    raw = np.exp(-2 * (1 - cosines) / 0.1)
    np.testing.assert_allclose(assign(cosines, 0.1), raw / raw.sum(axis=1, keepdims=True))
    weighed = raw * [[1.0, 3.0], [1.0, 3.0]]
    np.testing.assert_allclose(assign(cosines, 0.1, np.array([1.0, 3.0])), weighed / weighed.sum(axis=1, keepdims=True))
    np.testing.assert_allclose(np.linalg.norm(unit(np.array([[3.0, 4.0], [0.0, 0.0]])), axis=1), [1, 0])


def test_one_batch_is_left_alone_and_a_shift_is_taken_away():
    rng = np.random.default_rng(0)
    kind, batch = np.repeat([0, 1], 90), np.tile([0, 1, 2], 60)
    types = 4 * rng.normal(size=(2, 5))[kind] + rng.normal(size=(180, 5))
    shifted = types + 3 * rng.normal(size=(3, 5))[batch]
    np.testing.assert_allclose(harmonise(types, np.zeros(180), seed=0, ridge=1e9), types, atol=1e-6)
    found = harmonise(shifted, batch, seed=0)
    before, after = (judge_integration(one, kind, batch, before=shifted) for one in (shifted, found))
    assert after["ilisi"] > before["ilisi"] + 0.5
    assert after["ari"] > 0.95
    np.testing.assert_array_equal(found, harmonise(shifted, batch, seed=0))
    with pytest.raises(DataError, match="cells and batches do not fit"):
        harmonise(shifted, batch[:-1], seed=0)


def test_against_harmonypy():
    """The same settings and tolerances; first centroids and the order of cells differ."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        harmonypy = pytest.importorskip("harmonypy", reason="the group rivals is not installed")
    rng = np.random.default_rng(0)
    kind, batch = np.repeat([0, 1, 2], 120), np.tile([0, 1], 180)
    Z = 4 * rng.normal(size=(3, 6))[kind] + 2 * rng.normal(size=(2, 6))[batch] + rng.normal(size=(360, 6))
    theirs = np.asarray(
        harmonypy.run_harmony(
            Z, pd.DataFrame({"batch": batch.astype(str)}), ["batch"], verbose=False, ncores=1, nclust=12, lamb=1, theta=2,
            sigma=0.1, max_iter_kmeans=20, epsilon_cluster=1e-5, epsilon_harmony=1e-4,
        ).Z_corr
    )  # fmt: skip
    theirs = theirs if theirs.shape == Z.shape else theirs.T
    ours = harmonise(Z, batch, seed=0)
    assert np.corrcoef(ours.ravel(), theirs.ravel())[0, 1] > 0.999 > 0.98 > np.corrcoef(Z.ravel(), theirs.ravel())[0, 1]
    before, *both = (judge_integration(one, kind, batch, before=Z) for one in (Z, ours, theirs))
    assert both[1]["ilisi"] > before["ilisi"] + 0.3
    for name in ("integration", "avg_bio", "avg_batch"):
        assert both[0][name] == pytest.approx(both[1][name], abs=0.02)


# scVI ---------------------------------------------------------------------------------------------------------------------------


def test_scvi_is_asked_for_where_it_is_missing(cells, monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(MissingExtra, match="scvi-tools is needed to run scVI and is not installed"):
        Integrator(way="scvi").fit(cells)
