"""The task of transfer: what a method is given, who is judged, and that its controls are what their names say."""

import numpy as np
import pandas as pd
import pytest

from expressor import bench
from expressor.bench.controls.transferring import Transferred
from expressor.bench.task import find_task
from expressor.core.errors import DataError

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
    plain = results[(results["reference"] == "") & (results["metric"] == "balanced_accuracy")]
    value = plain.set_index(["method", "section"])["value"]
    assert value["logistic", "0 labelled a type"] == pytest.approx(0.25)
    for k in ("0 labelled a type", "5 labelled a type"):
        assert value["tron", k] > value["permuted", k] + 0.2
    paired = results[(results["reference"] == "one-to-one") & (results["metric"] == "balanced_accuracy")].set_index(
        "method"
    )
    assert np.isfinite(paired.loc["tron", ["low", "high"]].to_numpy(dtype=float)).all()
    assert "difference from TRON" in (tmp_path / "table.md").read_text()
