"""The task of transfer: what a method is given, who is judged, and that its controls are what their names say."""

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from scipy.stats import t as student

from expressor import bench
from expressor.bench.controls.label_transfer import LabelTransfer, batch_size
from expressor.bench.controls.transferring import Dense, Transferred
from expressor.bench.task import find_task
from expressor.core.errors import DataError, MissingExtra

TASK = find_task("transfer")
PROTOCOL = TASK.protocols["simulated"]


@pytest.fixture(scope="module")
def folds():
    return TASK.folds(PROTOCOL, TASK.load(PROTOCOL))


def test_donors_are_apart_and_few_cells_are_labelled(folds) -> None:
    assert [one.name for one in folds] == [
        f"{donor} {k} labelled a type #1" for donor in ("beta1", "beta2") for k in (0, 5)
    ]
    for fold in folds:
        assert set(fold.train.obs["donor"]).isdisjoint(fold.test.obs["donor"])
        shots = TASK.context(PROTOCOL, fold, "log1p_cp10k", 0)["shots"]
        assert fold.train.obs["cell_type"].notna().sum() == 4 * shots
        assert fold.test.obs["cell_type"].notna().all()
        assert list(TASK.blind(fold.test).obs.columns) == ["donor"]


def control(fold, **options) -> Transferred:
    given = TASK.context(PROTOCOL, fold, "log1p_cp10k", 0)
    given.pop("mode")
    return Transferred(**given | options)


def edges(fold, **options) -> pd.DataFrame:
    return control(fold, **options)._edges(fold.train)[["source", "target"]]


def test_graphs(folds) -> None:
    fold = folds[0]
    full = edges(fold)
    pairs = set(map(tuple, full.to_numpy()))
    single = edges(fold, graph="one-to-one")
    assert set(map(tuple, single.to_numpy())) < pairs
    assert not single["source"].duplicated().any()
    assert not single["target"].duplicated().any()
    for graph in ("permuted", "random"):
        other = edges(fold, graph=graph)
        shared = pairs & set(map(tuple, other.to_numpy()))
        assert len(shared) < 0.15 * len(pairs)
        if graph == "permuted":
            assert sorted(other["target"].value_counts()) == sorted(full["target"].value_counts())
            assert other["source"].tolist() == full["source"].tolist()
        else:
            assert (other["source"].value_counts() <= full["source"].value_counts()).all()
            assert len(other) > 0.9 * len(full)
    with pytest.raises(DataError, match="no pair"):
        control(fold, graph="symbols").fit(fold.train)
    fold.train.var_names = [one.upper() for one in fold.train.var_names]  # F001B1 of beta is no gene of alpha
    assert len(edges(fold, graph="symbols")) == 0
    fold.train.var_names = fold.test.var_names


def test_networks(folds) -> None:
    fold = folds[1]
    retrained = control(fold, graph="one-to-one", retrained=True).fit(fold.train)
    assert set(retrained.model_.source_.genes) == set(edges(fold, graph="one-to-one")["source"])
    kept = control(fold, graph="one-to-one").fit(fold.train)
    assert len(kept.model_.source_.genes) == len(kept.source.genes) > len(retrained.model_.source_.genes)
    scratch = control(fold, scratch=True, shots=0).fit(fold.train)
    right = (scratch.predict(fold.test)["cell_type"] == fold.test.obs["cell_type"].astype(str)).mean()
    assert right < 0.7
    assert control(fold, shots=0).fit(fold.train).model_.n_labelled_ == 0


def test_results(tmp_path) -> None:
    results = bench.run("transfer", protocol="simulated", methods=["tron"], out=tmp_path)
    donors, results = results[results["level"] == "donors"], results[results["level"] != "donors"]
    plain = results[(results["reference"] == "") & (results["metric"] == "balanced_accuracy")]
    value = plain.set_index(["method", "section"])["value"]
    assert value["logistic", "0 labelled a type"] == pytest.approx(0.25)
    for k in ("0 labelled a type", "5 labelled a type"):
        assert value["tron", k] > value["permuted", k] + 0.2
    paired = results[(results["reference"] == "one-to-one") & (results["metric"] == "balanced_accuracy")].set_index(
        "method"
    )
    assert np.isfinite(paired.loc["tron", ["low", "high"]].to_numpy(dtype=float)).all()
    table = (tmp_path / "table.md").read_text()
    assert "difference from TRON" in table
    check_donors(donors, tmp_path / "cells")
    assert "balanced accuracy ↑, mean of 2 donors: difference from one-to-one orthologs" in table
    assert "with two of them the interval says next to nothing" in table


def check_donors(rows: pd.DataFrame, folder: Path) -> None:
    """Two donors of two values each: their mean, and half their distance times Student's t of one degree of freedom."""
    found = {}
    for path in folder.glob("*.npz"):
        with np.load(path, allow_pickle=False) as stored:
            about = json.loads(str(stored["about"]))
            if about["status"] == "refused":
                continue
            names = stored["samples/columns"].tolist()
            column = {one: stored[f"samples/{i}"] for i, one in enumerate(names)}
        donor, setting = about["key"]["fold"].split(" ", 1)
        assert set(column["donor"]) == {donor}
        truth, right = column["truth"], column["truth"] == column["predicted"]
        recall = np.mean([right[truth == one].mean() for one in np.unique(truth)])
        found[about["key"]["method"], setting.split(" #")[0], donor] = recall
    for _, row in rows.iterrows():
        one = np.array([found[row["method"], row["section"], f"beta{i}"] for i in (1, 2)])
        if row["reference"]:
            one -= np.array([found[row["reference"], row["section"], f"beta{i}"] for i in (1, 2)])
        assert row["value"] == pytest.approx(one.mean())
        half = student.ppf(0.975, 1) * one.std(ddof=1) / np.sqrt(2)
        bounds = np.array([one.mean() - half, one.mean() + half])
        assert [row["low"], row["high"]] == pytest.approx(
            bounds if row["reference"] else bounds.clip(0, 1).tolist(), abs=1e-9
        )
    assert len(rows) == 2 * (2 * rows["method"].nunique() - 1)


def test_dense(folds) -> None:
    fold = folds[1]
    given = {name: one for name, one in TASK.context(PROTOCOL, fold, "log1p_cp10k", 0).items() if name != "mode"}
    given = {name: given[name] for name in ("source", "shots", "label", "random_state", "plan")}
    truth = fold.test.obs["cell_type"].astype(str)
    blank = Dense(**given | {"shots": 0}, genes=50).fit(fold.train).predict_proba(fold.test)
    assert np.allclose(blank, blank.iloc[0])  # all genes are at the source's mean
    learnt = Dense(**given, genes=50, rate=3e-3).fit(fold.train)
    assert (learnt.predict(fold.test)["cell_type"] == truth).mean() > 0.5
    assert np.allclose(learnt.predict_proba(fold.test).sum(axis=1), 1, atol=1e-5)


def label_transfer(fold, **options) -> LabelTransfer:
    given = TASK.context(PROTOCOL, fold, "log1p_cp10k", 0)
    names = ("source_cells", "orthologs", "species", "label", "random_state")
    return LabelTransfer(**{name: given[name] for name in names} | options)


def test_scanvi_sees_one_to_one_orthologs_and_no_type_of_the_judged(folds, monkeypatch) -> None:
    fold = folds[1]
    model = label_transfer(fold, genes=10, most=3)
    model._pairs = model._one_to_one(fold.train)
    single = edges(fold, graph="one-to-one")
    assert len(model._pairs) == 10
    assert set(model._pairs.items()) <= set(map(tuple, single.to_numpy()))
    cells = model._cells(TASK.blind(fold.test), model._pairs, "beta")
    assert set(cells.obs["type"]) == {"none"}
    assert (cells.X != fold.test[:, list(model._pairs)].layers["counts"]).nnz == 0
    few = model._cells(fold.train, model._pairs, "beta").obs["type"]
    assert (few != "none").sum() == 20
    own = model._some_of_each_type()
    assert (own.obs["cell_type"].value_counts() == 3).all()
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(MissingExtra, match="scvi-tools is needed to run scANVI and is not installed"):
        model.fit(fold.train)


def test_no_batch_is_of_one_cell() -> None:
    assert batch_size(1280, 256) == 128
    assert batch_size(1281, 256) == 127  # 1281 = 10 x 128 + 1
    assert batch_size(1281, 127 * 3 + 1) == 126
    assert all(n % batch_size(n, m) != 1 != m % batch_size(n, m) for n in range(2, 400, 7) for m in range(2, 300, 11))


@pytest.mark.slow
def test_scanvi_tells_types_of_new_cells(folds) -> None:
    pytest.importorskip("scvi", reason="scvi-tools is not installed")
    fold = folds[0]
    before = np.random.get_state()[1].copy()  # noqa: NPY002
    model = label_transfer(fold, epochs=(30, 10)).fit(fold.train)
    right = model.predict(TASK.blind(fold.test))["cell_type"] == fold.test.obs["cell_type"].astype(str)
    assert right.mean() > 0.6
    again = label_transfer(fold, epochs=(30, 10)).fit(fold.train)
    assert again.predict_proba(TASK.blind(fold.test)).equals(model.predict_proba(TASK.blind(fold.test)))
    assert np.array_equal(before, np.random.get_state()[1])  # noqa: NPY002
