"""The tasks on bulk profiles: folds, what a method may see, controls against simulated truth, intervals, tables."""

import os
from dataclasses import dataclass, replace

import numpy as np
import pandas as pd
import pytest
from sklearn.linear_model import Ridge

from expressor.bench import find_task, run, table
from expressor.bench.controls.restoring import NearestSamples, PatternRidge
from expressor.bench.controls.surviving import ComponentCox
from expressor.bench.store import Key
from expressor.bench.task import Method
from expressor.bench.tasks.cancer_type import LABEL
from expressor.bench.tasks.restoration import MASK, MEASURED
from expressor.core.errors import DataError
from expressor.data import PatientFolds, has_outcome
from expressor.datasets import simulate_bulk
from expressor.metrics.survival import concordance

FROZEN = {
    "restoration": {
        "coadread": "3512caa7dcb0",
        "tcga13": "5e4e40e6171d",
        "toil4": "6744f92f4e1d",
        "simulated": "a5feed164e71",
    },
    "cancer_type": {
        "counts7": "c43a5156f6f7",
        "toil4": "fa7357b73644",
        "counts7-few": "d5d9f25d7dad",
        "simulated": "5f7694032587",
    },
    "survival": {
        "kirc": "5dec9c23984b",
        "dbcd": "7edee0dd3a7c",
        "kirc-pan": "4bf1da577ed3",
        "breast-across": "711fd1ac3cca",
        "simulated": "58a1073a4833",
    },
}
TASKS = tuple(FROZEN)


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    found = {}
    for name in TASKS:
        folder = tmp_path_factory.mktemp(name)
        found[name] = run(name, protocol="simulated", methods=[], out=folder), folder
    return found


@pytest.mark.parametrize("name", TASKS)
def test_protocols_do_not_change_silently(name):
    protocols = find_task(name).protocols
    assert {one: protocols[one].hash for one in FROZEN[name]} == FROZEN[name]
    assert len({one.hash for one in protocols.values()}) == len(protocols)


@pytest.mark.parametrize("name", TASKS)
def test_patients_are_on_one_side_and_every_one_judges(name):
    task = find_task(name)
    protocol = task.protocol("simulated")
    data = task.load(protocol)
    folds = task.folds(protocol, data)
    judged: set[str] = set()
    for fold in folds:
        train, test = set(fold.train.obs["patient"]), set(fold.test.obs["patient"])
        assert not train & test
        judged |= test
    assert judged == set(data.obs["patient"])


@pytest.mark.parametrize("name", TASKS)
def test_folds_are_kept_beside_the_results(name, results):
    task, (_, folder) = find_task(name), results[name]
    protocol = task.protocol("simulated")
    kept = PatientFolds.read(folder / "folds.json")
    assert kept == task.patient_folds(protocol, task.load(protocol))


def test_folds_of_other_data_are_refused():
    task = find_task("restoration")
    simulated = task.protocol("simulated")
    protocol = replace(simulated, split=simulated.split | {"sha256": "000000"})
    with pytest.raises(DataError, match="are not those it was written with; expected sha256 000000"):
        task.patient_folds(protocol, task.load(protocol))


def test_a_method_sees_no_hidden_value():
    task = find_task("restoration")
    protocol = task.protocol("simulated")
    fold = task.folds(protocol, task.load(protocol))[0]
    seen = task.blind(fold.test)
    assert list(seen.obs.columns) == ["patient", "cohort", "pipeline", MASK]
    assert not seen.layers
    assert not seen.obsm
    assert set(seen.uns) == {"unit"}
    hidden = np.isnan(seen.X)
    np.testing.assert_array_equal(seen.X[~hidden], fold.test.layers[MEASURED][~hidden])
    for mask in seen.obs[MASK].unique():
        rows = (seen.obs[MASK] == mask).to_numpy()
        if "measured" in mask:
            assert {int(n) for n in (~hidden[rows]).sum(axis=1)} == {int(mask.split()[0])}
        else:
            assert abs(hidden[rows].mean() - 0.3) < 0.05


def test_low_values_are_hidden_more_often():
    task = find_task("restoration")
    protocol = task.protocol("simulated")
    targets = protocol.targets | {"masks": [{"kind": "mnar", "share": 0.4, "draws": 1}]}
    fold = task.folds(replace(protocol, targets=targets), task.load(protocol))[0]
    hidden = np.isnan(fold.test.X)
    assert abs(hidden.mean() - 0.4) < 0.06
    z = (fold.test.layers[MEASURED] - fold.train.X.mean(axis=0)) / fold.train.X.std(axis=0)
    assert z[hidden].mean() < z[~hidden].mean() - 0.5


@pytest.mark.parametrize("name", ["cancer_type", "survival"])
def test_a_method_sees_no_label_and_no_outcome(name):
    task = find_task(name)
    protocol = task.protocol("simulated")
    fold = task.folds(protocol, task.load(protocol))[0]
    seen = task.blind(fold.test)
    assert list(seen.obs.columns) == ["patient", "cohort", "pipeline"]
    assert not seen.obsm
    assert set(seen.uns) == {"unit"}
    assert not seen.var.columns.size


@dataclass(kw_only=True)
class WithPanel:
    panel: tuple[str, ...] = ()


def test_few_labels_and_panels():
    task = find_task("cancer_type")
    protocol = task.protocol("simulated")
    for fold in task.folds(protocol, task.load(protocol)):
        assert fold.test.var_names.tolist() == list(fold.targets)
        own = task.training(object(), fold)
        assert own.var_names.tolist() == list(fold.targets)
        counts = own.obs[LABEL].value_counts()
        assert counts.nunique() == 1
        assert counts.iloc[0] == (3 if "3 labelled" in fold.name else 20)
        whole = task.training(WithPanel(), fold)
        assert whole.n_vars == 40
        assert whole.n_obs == 60
        assert whole.obs[LABEL].notna().sum() == own.n_obs


@pytest.mark.parametrize("patients", [40, 7], ids=["more patients than genes", "fewer"])
def test_ridge_for_a_pattern_is_ridge(patients):
    adata = simulate_bulk(n_patients=60, seed=3)
    train, test = adata[:patients].copy(), adata[40:].copy()
    hidden = np.zeros(40, dtype=bool)
    hidden[10:] = True
    truth = test.X.copy()
    test.X[:, hidden] = np.nan
    control = PatternRidge(alphas=(0.3,)).fit(train)
    got = control.impute(test)
    z = (train.X - train.X.mean(axis=0)) / train.X.std(axis=0)
    oracle = Ridge(alpha=0.3 * 10, fit_intercept=False).fit(z[:, :10], z[:, 10:])
    seen = ((truth - train.X.mean(axis=0)) / train.X.std(axis=0))[:, :10]
    wanted = oracle.predict(seen) * train.X.std(axis=0)[10:] + train.X.mean(axis=0)[10:]
    np.testing.assert_allclose(got[:, 10:], wanted, atol=1e-3)
    np.testing.assert_array_equal(got[:, :10], truth[:, :10])


def test_penalty_is_that_of_leave_one_out():
    """Against refits without each sample in turn."""
    adata = simulate_bulk(n_patients=25, seed=4)
    control = PatternRidge(alphas=(0.03, 0.3, 3.0, 30.0)).fit(adata)
    control._restore(control.train_[:1], np.arange(40) < 8)
    x, y = control.train_[:, :8], control.train_[:, 8:]
    errors = []
    for alpha in control.alphas:
        total = 0.0
        for i in range(25):
            kept = np.arange(25) != i
            one = Ridge(alpha=alpha * 8, fit_intercept=False).fit(x[kept], y[kept])
            total += ((one.predict(x[[i]]) - y[[i]]) ** 2).mean()
        errors.append(total / 25)
    assert control.alpha_ == control.alphas[int(np.argmin(errors))]


def test_nearest_samples_is_that_of_a_loop():
    adata = simulate_bulk(n_patients=30, seed=5)
    train, test = adata[:25].copy(), adata[25:].copy()
    rng = np.random.default_rng(0)
    truth = test.X.copy()
    test.X[rng.random(test.X.shape) < 0.5] = np.nan
    test.X[0] = np.nan  # nothing measured: the mean
    got = NearestSamples(neighbours=3).fit(train).impute(test)
    mean, spread = train.X.mean(axis=0), train.X.std(axis=0)
    z = (train.X - mean) / spread
    np.testing.assert_allclose(got[0], mean, rtol=1e-4)
    for i in range(1, 5):
        seen = ~np.isnan(test.X[i])
        distance = (((truth[i] - mean) / spread - z)[:, seen] ** 2).sum(axis=1)
        wanted = z[np.argsort(distance)[:3]].mean(axis=0) * spread + mean
        np.testing.assert_allclose(got[i][~seen], wanted[~seen], rtol=1e-4)
        np.testing.assert_array_equal(got[i][seen], truth[i][seen])


def rows(results, **wanted):
    found = results
    for key, value in wanted.items():
        found = found[found[key] == value]
    return found


def test_restoration_finds_the_low_rank(results):
    found, _ = results["restoration"]
    for setting in ("8 genes measured", "20 genes measured", "30 % hidden"):
        value = rows(found, section=setting, metric="restoration_rmse", reference="").set_index("method")["value"]
        assert value["mean"] == pytest.approx(1.0, abs=0.06)
        assert value["permuted"] > 0.98
        assert value["ridge"] < value["nearest"] < value["mean"]
    difference = rows(found, method="mean", reference="ridge", section="20 genes measured").iloc[0]
    assert difference["low"] > 0.2
    single = rows(found, method="mean", metric="gene_r", section="30 % hidden").iloc[0]
    assert np.isnan(single["value"])
    assert single["n_undefined"] == single["n"]


def test_types_are_found_and_permuted_labels_are_not(results):
    found, _ = results["cancer_type"]
    value = rows(found, section="10 genes", metric="balanced_accuracy", reference="").set_index("method")
    assert value.loc["ridge", "value"] > 0.8
    assert value.loc["frequencies", "value"] == pytest.approx(1 / 3)
    assert abs(value.loc["permuted", "value"] - 1 / 3) < 0.12
    assert value.loc["ridge", "low"] < value.loc["ridge", "value"] < value.loc["ridge", "high"]
    assert rows(found, method="frequencies", metric="log_loss", section="10 genes").iloc[0]["value"] == pytest.approx(
        np.log(3)
    )


def test_risk_is_found_and_permuted_outcomes_are_not(results):
    found, _ = results["survival"]
    value = rows(found, metric="concordance", reference="").set_index("method")
    assert value.loc["none", "value"] == 0.5
    assert value.loc["ridge-cox", "value"] > 0.65
    assert abs(value.loc["permuted", "value"] - 0.5) < 0.1
    skill = rows(found, metric="brier_skill").set_index("method")["value"]
    assert skill["ridge-cox"] > 0.05
    assert abs(skill["none"]) < 0.02
    for metric in ("uno_concordance", "auc_1y", "auc_3y", "brier_skill"):
        one = rows(found, metric=metric, method="ridge-cox").iloc[0]
        assert one["low"] < one["value"] < one["high"], metric
    refused = rows(found, method="clinical").iloc[0]
    assert refused["status"] == "refused"
    assert "obs has no column 'age'" in refused["message"]


def test_ridge_cox_comes_near_the_truth():
    adata, new = simulate_bulk(n_patients=300), simulate_bulk(n_patients=300, seed=1)
    model = ComponentCox(components=10).fit(adata)
    own = concordance(new.obs["time"], new.obs["event"], model.risk(new))
    best = concordance(new.obs["time"], new.obs["event"], new.obsm["factors"][:, 0])
    assert own > best - 0.03
    curves = model.survival_function(new, [100.0, 1000.0])
    assert (curves[100.0] >= curves[1000.0]).all()
    assert ((curves > 0) & (curves <= 1)).all().all()


@pytest.mark.parametrize("name", TASKS)
def test_tables(name, results):
    found, folder = results[name]
    text = table(found)
    assert text == (folder / "table.md").read_text()
    assert "95 % percentile interval of a bootstrap of" in text
    assert "Made data" in text
    assert "difference from" in text
    for title in found["title"].unique():
        assert title in text
    read = pd.read_csv(folder / "results.csv", keep_default_na=True)
    assert len(table(read.fillna({"reference": "", "needs": "", "message": ""}))) > 500


def test_finished_parts_are_not_run_again(results, monkeypatch):
    found, folder = results["restoration"]
    monkeypatch.setattr("expressor.bench.runner.run_cell", None)
    again = run("restoration", protocol="simulated", methods=[], out=folder)
    pd.testing.assert_frame_equal(again.drop(columns=["expressor"]), found.drop(columns=["expressor"]))


@dataclass(kw_only=True)
class Cheat(PatternRidge):
    def impute(self, data):
        return super().impute(data) + 1


def test_a_method_that_changes_what_was_measured_is_refused():
    from expressor.bench.runner import judge

    task = find_task("restoration")
    protocol = task.protocol("simulated")
    fold = task.folds(protocol, task.load(protocol))[0]
    method = Method("cheat", "cheat", "rival", Cheat)
    _, cell = judge(task, protocol, fold, method, Key("cheat", fold.name, "log2", 0, ""))
    assert cell.status == "refused"
    assert "changed values that were measured" in cell.message


real = pytest.mark.skipif(not os.environ.get("EXPRESSOR_DATA"), reason="EXPRESSOR_DATA is not set")


@real
def test_pan_cancer_training_adds_patients_of_other_cohorts_alone():
    task = find_task("survival")
    own, pan = task.protocol("kirp"), task.protocol("kirp-pan")
    cohort, other = task.load(own).obs_names, task.folds(pan, task.load(pan))
    judged = [name for fold in other for name in fold.test.obs_names]
    assert sorted(judged) == sorted(cohort)
    assert other[0].train.n_obs > 4500
    assert set(other[0].test.obs["cohort"]) == {"KIRP"}
    assert not set(other[0].train.obs["patient"]) & set(other[0].test.obs["patient"])
    alone = task.narrow(other[0], "own cohort")
    assert set(alone.train.obs_names) == set(cohort) - set(other[0].test.obs_names)
    profiles = task.narrow(other[0], "own outcomes").train
    assert profiles.n_obs == other[0].train.n_obs
    assert profiles.obs_names[has_outcome(profiles)].tolist() == alone.train.obs_names.tolist()
    assert other[0].train.obs["event"].notna().all()
    with pytest.raises(DataError, match="no part of the training data that is called 'half'"):
        task.narrow(other[0], "half")
    names = {method.name: method.part for method in task.methods(pan, ["gexbert-own", "gexbert-profiles"])}
    assert (names["gexbert-own"], names["gexbert-profiles"]) == ("own cohort", "own outcomes")
    assert not any(method.part for method in task.methods(own))
    names = [{method.name for method in task.controls(one)} for one in (own, pan)]
    assert names[0] - names[1] == {"permuted"}


def test_controls_of_labels_learn_scales_from_everyone():
    from expressor.bench.controls.labelling import Multinomial

    adata = simulate_bulk(n_patients=60)
    few = adata.copy()
    few.obs["cancer_type"] = few.obs["cancer_type"].where(np.arange(60) < 9)
    panel = tuple(adata.var_names[:12])
    model = Multinomial(panel=panel).fit(few)
    np.testing.assert_allclose(model.mean_, adata.X[:, :12].mean(axis=0), rtol=1e-5)
    assert set(model.classes_) == {"T1", "T2", "T3"}
    assert model.predict_proba(adata[:, :12].copy()).shape == (60, 3)
    same = Multinomial().fit(adata[:, :12].copy()).predict_proba(adata[:, :12].copy())
    np.testing.assert_allclose(Multinomial(panel=panel).fit(adata).predict_proba(adata[:, :12].copy()), same)


def test_protocols_side_by_side():
    from scipy.stats import wilcoxon

    from expressor.bench.tables_cohorts import across_table

    def result(protocol, values, refused=()):
        lines = []
        for method, value in values.items():
            common = {"task": "survival", "protocol": protocol, "version": 1, "hash": "h" + protocol, "method": method,
                      "title": method.upper(), "metric": "concordance", "section": "all", "level": "patients"}  # fmt: skip
            if method in refused:
                lines.append(common | {"status": "refused", "value": np.nan, "reference": ""})
                continue
            lines.append(
                common
                | {"status": "measured", "value": value, "low": value - 0.05, "high": value + 0.05, "reference": ""}
            )
            if method != "ridge":
                d = value - values["ridge"]
                lines.append(
                    common | {"status": "measured", "value": d, "low": d - 0.05, "high": d + 0.05, "reference": "ridge"}
                )
        return pd.DataFrame(lines)

    rng = np.random.default_rng(0)
    found, ridge, trees = [], [], []
    for i in range(7):
        one, other = 0.6 + 0.1 * rng.random(), 0.5 + 0.1 * rng.random()
        ridge.append(one)
        trees.append(other)
        found.append(result(f"c{i}", {"ridge": one, "trees": other, "age": 0.7}, refused=("age",) if i == 3 else ()))
    text = across_table(found)
    line = next(one for one in text.splitlines() if one.startswith("| TREES |") and one.count("|") == 8)
    cells = [one.strip() for one in line.strip("|").split("|")]
    difference = np.array(trees) - np.array(ridge)
    assert cells[1:] == [
        "2.000", "7", f"{difference.mean():+.3f}", str((difference > 0.05).sum()), str((difference < -0.05).sum()),
        # Two methods are tested, and this one has the smaller p or the larger: Holm leaves it between p and twice p.
        cells[-1],
    ]  # fmt: skip
    p = wilcoxon(difference).pvalue
    assert p <= float(cells[-1]) + 1e-3 <= 2 * p + 2e-3
    age = next(one for one in text.splitlines() if one.startswith("| AGE |") and one.count("|") == 8)
    assert [one.strip() for one in age.strip("|").split("|")][1:3] == ["–", "6"]
    assert "| c3 |" in text
    assert "c3 hc3" in text


@pytest.mark.parametrize("shape", [(40, 90), (90, 60)])
def test_components_of_the_cox_control_are_those_of_a_singular_value_decomposition(shape):
    from expressor.bench.controls.surviving import _components, _project

    x = np.random.default_rng(0).normal(size=shape) @ np.diag(np.linspace(1, 3, shape[1]))
    scores = _project(x, _components(x, 5))
    z = (x - x.mean(axis=0)) / x.std(axis=0)
    u, s, _ = np.linalg.svd(z, full_matrices=False)
    expected = u[:, :5] * s[:5] / (s[0] / np.sqrt(len(x)))
    np.testing.assert_allclose(np.abs(scores), np.abs(expected), atol=1e-9)
