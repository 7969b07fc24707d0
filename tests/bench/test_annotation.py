"""The task of cell types: folds, what a method may see, controls against simulated truth, tables."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from anndata import AnnData
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import f1_score
from sklearn.neighbors import KNeighborsClassifier

from expressor.bench import find_task, run, table
from expressor.bench.controls.annotating import Annotator, log_normalised
from expressor.bench.controls.labelling import NEIGHBOURS, STRENGTHS, TunedLabels
from expressor.bench.labels import f1_draws
from expressor.bench.store import Cell, Key
from expressor.bench.task import Method
from expressor.bench.tasks.annotation import _statistics
from expressor.core import registry
from expressor.core.errors import DataError
from expressor.datasets import simulate_cells
from expressor.estimator.inner import inner_folds
from expressor.metrics.classification import macro_f1

FROZEN = {
    "pbmc-technologies": "0d352a969a5e",
    "amygdala-donors": "eb7a10a65ff5",
    "kang-samples": "1e54076ad575",
    "pbmc3k": "392202393395",
    "simulated": "385f4cbcfe1d",
}


@pytest.fixture(scope="module")
def task():
    return find_task("annotation")


@pytest.fixture(scope="module")
def results():
    return run("annotation", protocol="simulated", methods=[])


def test_protocols_do_not_change_silently(task):
    assert {name: one.hash for name, one in task.protocols.items()} == FROZEN


def test_groups_and_cells_are_on_one_side(task):
    protocol = task.protocol("simulated")
    data = task.load(protocol)
    folds = task.folds(protocol, data)
    assert len(folds) == 2
    for fold in folds:
        assert not set(fold.train.obs["batch"]) & set(fold.test.obs["batch"])
    five = replace(protocol, split={"kind": "folds", "folds": 5, "seed": 0})
    folds = task.folds(five, data)
    judged = [name for fold in folds for name in fold.test.obs_names]
    assert sorted(judged) == sorted(data.obs_names)
    for fold in folds:
        assert set(fold.test.obs["cell_type"]) == set(data.obs["cell_type"])
        assert not set(fold.train.obs_names) & set(fold.test.obs_names)


def test_a_method_sees_no_type(task):
    protocol = task.protocol("simulated")
    fold = task.folds(protocol, task.load(protocol))[0]
    seen = task.blind(fold.test)
    assert list(seen.obs.columns) == ["batch"]
    assert not seen.obsm
    assert not seen.var.columns.size
    backwards = Annotator().fit(fold.train).predict(seen).iloc[::-1]
    with pytest.raises(DataError, match="predictions do not fit what was asked .predicted.; expected all 60 test"):
        task.check(fold, {"predicted": backwards})


def test_only_what_can_learn_learns(results):
    rows = results[(results["metric"] == "accuracy") & (results["section"] == "all") & (results["reference"] == "")]
    accuracy = rows.set_index("method")["value"]
    assert accuracy["logistic"] > 0.95
    assert accuracy["boosted"] > 0.9
    assert accuracy["permuted"] < 0.45
    assert accuracy["frequencies"] < 0.35
    paired = results[
        (results["reference"] == "logistic") & (results["metric"] == "accuracy") & (results["section"] == "all")
    ]
    found = paired.set_index("method")
    assert found.loc["permuted", "value"] == pytest.approx(accuracy["permuted"] - accuracy["logistic"])
    assert found.loc["permuted", "high"] < 0


def test_the_table_speaks_of_cells(results):
    text = table(results)
    assert "| method | kind | all | batch B1 | batch B2 |" in text
    assert "on the same cells" in text
    assert "bootstrap of 120 cells" in text
    assert "patients" not in text


def test_the_table_says_what_another_seed_changes(task):
    own = run(task, protocol="simulated", methods=[], seeds=(0, 3), once=["boosted"])
    assert own.drop_duplicates("method").set_index("method")["n_seeds"].to_dict() == {
        one.name: 2 if one.name == "permuted" else 1 for one in task.controls(task.protocol("simulated"))
    }
    spread = own[own["level"] == "seeds"].set_index(["metric", "section"])
    assert set(spread["method"]) == {"permuted"}
    alone = []
    for seed in (0, 3):
        rows = run(task, protocol="simulated", methods=[], seeds=(seed,))
        assert not (rows["level"] == "seeds").any()
        alone.append(rows[(rows["method"] == "permuted") & (rows["reference"] == "")].set_index(["metric", "section"]))
    for which in spread.index:
        values = [one.loc[which, "value"] for one in alone]
        found = spread.loc[which]
        assert (found["low"], found["high"]) == (min(values), max(values))
        assert found["value"] == pytest.approx(np.mean(values))
    assert spread.loc[("accuracy", "all"), "low"] < spread.loc[("accuracy", "all"), "high"]
    text = table(own)
    assert "### accuracy: seeds" in text
    assert "### macro F1: seeds" in text
    assert text.split("### accuracy: seeds")[1].split("###")[0].count("permuted types | 2 |") == 1
    with pytest.raises(DataError, match="method to run once.*boosted"):
        run(task, protocol="simulated", methods=[], once=["boostd"])


def test_resampled_f1_is_that_of_the_weights():
    rng = np.random.default_rng(0)
    truth, given = rng.choice(list("abc"), 50), rng.choice(list("abcd"), 50)
    weights = rng.integers(0, 3, (7, 50)).astype(float)
    expected = [macro_f1(truth, given, weights=one) for one in weights]
    np.testing.assert_allclose(f1_draws(truth, given, weights), expected)


def test_rare_types_do_not_rule_the_score_of_common_ones(task):
    protocol = task.protocol("simulated")
    data = task.load(protocol)
    kinds = data.obs["cell_type"].astype(str).to_numpy()
    kinds[:3] = "rare"
    truth = np.array(kinds)
    given = np.where(np.arange(len(truth)) % 10 == 9, np.roll(truth, 1), truth)
    given[:2] = truth[5]
    given[7] = "rare"
    table = pd.DataFrame({"cell": data.obs_names, "truth": truth, "predicted": given})
    cell = Cell(Key("m", "B1", "counts", 0, ""), tables={"samples": table})
    found = {(one.setting, one.metric): one for one in _statistics([cell], True)}
    where = "types of 10 cells or more"
    common = truth != "rare"
    assert found["all", "macro_f1"].value == pytest.approx(f1_score(truth, given, average="macro"))
    expected = f1_score(truth[common], given[common], labels=np.unique(truth[common]), average="macro")
    assert found[where, "macro_f1"].value == pytest.approx(expected)
    assert found[where, "accuracy"].value == pytest.approx((truth == given)[common].mean())
    assert found[where, "macro_f1"].n == common.sum()


def test_log_expression_and_variable_genes():
    cells = simulate_cells(n_cells=30)
    X = cells.X.toarray().astype(np.float64)
    values = log_normalised(cells)
    np.testing.assert_allclose(np.expm1(values), X / X.sum(axis=1, keepdims=True) * 1e4, atol=1e-8)
    kept = Annotator(genes=10).fit(cells).kept_
    assert set(kept) == set(np.argsort(-values.std(axis=0))[:10])
    with pytest.raises(DataError, match="the genes differ from those of the fit; expected 50, got 49"):
        Annotator().fit(cells).predict_proba(cells[:, 1:])


def test_a_system_represents_cells_without_their_types(monkeypatch):
    seen = []

    class Sums:
        def __init__(self, random_state):
            self.seed = random_state

        def fit(self, data):
            seen.append(list(data.obs.columns))
            return self

        def transform(self, data):
            return log_normalised(data)

    monkeypatch.setattr(registry, "load", lambda name: Sums)
    cells = simulate_cells(n_cells=60)
    given = Annotator(encoder="sums").fit(cells).predict(cells)["cell_type"]
    assert seen == [[]]
    assert (given == cells.obs["cell_type"].astype(str)).mean() > 0.9


def test_the_code_of_a_wrapped_system_counts():
    plain = Method("a", "a", "rival", Annotator, {"encoder": "diphw"})
    assert replace(plain, wraps="diphw").hash != plain.hash
    names = {
        one.name: one.wraps for one in find_task("annotation").systems(find_task("annotation").protocol("simulated"))
    }
    assert names["diphw-linear"] == names["diphw-nearest"] == "diphw"


def test_a_tuned_classifier_keeps_distances_and_finds_its_setting():
    rng = np.random.default_rng(0)
    kind = np.tile(["a", "b"], 60)
    # One wide column tells the kinds apart; twenty narrow ones are noise, which a scale for each column would blow up.
    X = np.column_stack([np.where(kind == "a", -5.0, 5.0) + rng.normal(size=120), 0.5 * rng.normal(size=(120, 20))])
    cells = AnnData(X, obs=pd.DataFrame({"cell_type": kind}, index=[f"c{i}" for i in range(120)]))
    for name in ("linear", "nearest"):
        model = TunedLabels(label="cell_type", kind=name, together=True).fit(cells[:80])
        assert np.unique(model.spread_).size == 1
        assert (model.predict(cells[80:])["cell_type"] == kind[80:]).all()
        losses = {}
        fold = inner_folds(np.arange(80), np.unique(kind[:80], return_inverse=True)[1], folds=3, seed=0)
        z = (X[:80] - model.mean_) / model.spread_
        for one in STRENGTHS if name == "linear" else NEIGHBOURS:
            found = []
            for part in range(3):
                plain = (
                    LogisticRegression(C=one, max_iter=2000) if name == "linear" else KNeighborsClassifier(one)
                ).fit(z[fold != part], kind[:80][fold != part])
                p = plain.predict_proba(z[fold == part])[
                    np.arange((fold == part).sum()), (kind[:80][fold == part] == "b").astype(int)
                ]
                found.append(-np.log(0.99 * p + 0.005).mean())
            losses[one] = np.mean(found)
        assert model.setting_ == min(losses, key=losses.get)


def test_a_type_of_one_cell_is_no_obstacle():
    cells = simulate_cells(n_cells=60)
    kinds = cells.obs["cell_type"].astype(str).to_numpy()
    kinds[0] = "alone"
    cells.obs["cell_type"] = kinds
    for head in ("linear", "nearest"):
        p = Annotator(components=5, head=head).fit(cells).predict_proba(cells)
        assert "alone" in p.columns
        np.testing.assert_allclose(p.sum(axis=1), 1)
