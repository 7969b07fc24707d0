"""A run gives tidy results, resumes, records refusals and nothing but refusals."""

import dataclasses
from dataclasses import dataclass, replace

import numpy as np
import pandas as pd
import pytest

from expressor import bench
from expressor.bench import runner
from expressor.bench.controls import GeneMean
from expressor.bench.store import Cell, Key, read_cell, write_cell
from expressor.bench.task import Method
from expressor.core.errors import DataError, FormatError
from expressor.data.fields import expression

COUNT = {"fits": 0}


@dataclass(kw_only=True)
class Counting(GeneMean):
    """Predicts a multiple of the truth of its training data's first spots; counts its fits."""

    random_state: int = 0
    fail: str = ""

    def fit(self, train):
        COUNT["fits"] += 1
        if self.fail == "refuse":
            raise FormatError("these weights are gated", fix="Ask for access.")
        if self.fail == "crash":
            raise ZeroDivisionError("a bug")
        return super().fit(train)

    def predict(self, data):
        rng = np.random.default_rng(self.random_state)
        return self._frame(rng.normal(size=(data.n_obs, len(self.target_genes))) + self.mean_, data)


def tried(small, **parameters):
    """The small task with one more method."""

    class Tried(type(small)):
        def systems(self, protocol):
            return (Method("tried", "tried", "model", Counting, parameters),)

    return Tried()


@pytest.fixture(scope="module")
def results(small):
    return bench.run(small, protocol="sections")


def test_results_are_tidy(results, protocol):
    assert set(results["hash"]) == {protocol.hash}
    assert set(results["scale"]) == set(protocol.variants)
    assert set(results["method"]) == {"mean", "library", "ridge"}
    assert (results["source"] == "measured").all()
    plain = results[(results.metric == "pearson") & (results.reference == "")]
    for (method, _), rows in plain.groupby(["method", "scale"]):
        assert list(rows["section"]) == ["all", "all", "all", "S1", "S2", "S3"]
        assert list(rows["level"][:3]) == ["sections", "patients", "spots"]
        if method == "mean":
            assert rows["value"].isna().all()
            assert (rows["n"] == rows["n_undefined"]).all()
        else:
            assert rows["value"].iloc[0] == pytest.approx(rows["value"].iloc[3:].mean())
            assert (rows["low"][:3] < rows["value"].iloc[0]).all()
    assert {"mae", "rmse", "spearman", "variance_ratio", "gene_correlation_error", "moran_concordance", "moran_bias",
            "significant_genes"} <= set(results["metric"])  # fmt: skip


def test_the_values_are_those_of_the_fitted_control(results, folds, small):
    values = []
    for fold in folds:
        predicted = GeneMean(target_genes=fold.targets).fit(fold.train).predict(fold.test)
        measured = expression(fold.test, fold.targets, scale="log1p_cp10k")
        values.append(np.abs(measured - predicted.to_numpy()).mean())
    found = results.query("metric == 'mae' and method == 'mean' and scale == 'log1p_cp10k' and level == 'sections'")
    assert found["value"].iloc[0] == pytest.approx(np.mean(values), rel=1e-5)


def test_paired_differences_are_of_the_same_genes_and_sections(results):
    paired = results[(results.reference == "ridge") & (results.method == "library") & (results.level == "sections")]
    assert len(paired) == 2
    for _, row in paired.iterrows():
        own = results[(results.metric == "pearson") & (results.scale == row["scale"]) & (results.reference == "")]
        by_section = own[own.section != "all"].pivot(index="section", columns="method", values="value")
        difference = by_section["library"] - by_section["ridge"]
        assert row["value"] == pytest.approx(difference.mean())
        half = 4.302653 * difference.std(ddof=1) / np.sqrt(3)
        assert (row["low"], row["high"]) == pytest.approx((row["value"] - half, row["value"] + half), rel=1e-5)
    # Against an undefined correlation there is no difference, and none is made up.
    assert not (results[results.reference != ""].method == "mean").any()


def test_a_run_resumes_and_ends_with_the_same_results(small, tmp_path):
    task = tried(small)
    COUNT["fits"] = 0
    first = bench.run(task, out=tmp_path, seeds=(0, 1))
    assert COUNT["fits"] == 3 * 2 * 2  # folds, scales, seeds; the controls fit once
    files = sorted((tmp_path / "cells").iterdir())
    for file in files[:5]:
        file.unlink()
    damaged = next(file for file in files[5:] if file.name.startswith("tried"))
    damaged.write_bytes(damaged.read_bytes()[:100])
    gone = sum(file.name.startswith("tried") for file in files[:5]) + 1
    COUNT["fits"] = 0
    second = bench.run(task, out=tmp_path, seeds=(0, 1))
    assert COUNT["fits"] == gone
    timeless = ~first["metric"].str.endswith("seconds")
    pd.testing.assert_frame_equal(first[timeless], second[timeless])
    written = pd.read_csv(tmp_path / "results.csv")
    assert len(written) == len(first)
    assert (tmp_path / "table.md").read_text() == bench.table(second)
    assert "hash" in (tmp_path / "protocol.json").read_text()


def test_another_protocol_method_or_data_is_computed_again(small, tmp_path):
    task = tried(small)
    bench.run(task, out=tmp_path)
    COUNT["fits"] = 0
    bench.run(task, out=tmp_path)
    assert COUNT["fits"] == 0
    bench.run(tried(small, random_state=5), out=tmp_path)
    assert COUNT["fits"] == 6

    class Newer(type(task)):
        protocols = {"sections": replace(small.protocol("sections"), version=2)}

    COUNT["fits"] = 0
    bench.run(Newer(), out=tmp_path)
    assert COUNT["fits"] == 6


def test_an_interrupted_run_keeps_its_finished_cells(small, tmp_path, monkeypatch):
    task = tried(small)
    original, made = runner.run_cell, []

    def interrupted(*arguments):
        if len(made) == 5:
            raise KeyboardInterrupt
        made.append(1)
        return original(*arguments)

    monkeypatch.setattr(runner, "run_cell", interrupted)
    with pytest.raises(KeyboardInterrupt):
        bench.run(task, out=tmp_path)
    assert len(list((tmp_path / "cells").iterdir())) == 5
    monkeypatch.setattr(runner, "run_cell", original)
    resumed = bench.run(task, out=tmp_path)
    fresh = bench.run(task)
    timeless = ~fresh["metric"].str.endswith("seconds")
    pd.testing.assert_frame_equal(resumed[timeless], fresh[timeless])


def test_a_refusal_is_recorded_and_tried_again(small, tmp_path):
    results = bench.run(tried(small, fail="refuse"), out=tmp_path)
    rows = results[results.method == "tried"]
    assert list(rows["status"]) == ["refused"] * 2
    assert rows["value"].isna().all()
    assert "3 of 3 parts refused: FormatError: these weights are gated" in rows["message"].iloc[0]
    assert "these weights are gated" in bench.table(results)
    assert (results[results.method != "tried"]["status"] == "measured").all()
    COUNT["fits"] = 0
    bench.run(tried(small, fail="refuse"), out=tmp_path)
    assert COUNT["fits"] == 6


def test_a_bug_is_not_swallowed(small):
    with pytest.raises(ZeroDivisionError, match="a bug"):
        bench.run(tried(small, fail="crash"))


def test_predictions_in_another_unit_or_without_a_gene_are_refused(small, folds, protocol):
    fold = folds[0]
    good = GeneMean(target_genes=fold.targets, target_scale="log1p_counts").fit(fold.train).predict(fold.test)
    with pytest.raises(DataError, match="predictions are not in the unit of the targets; expected log1p_cp10k"):
        small.score(protocol, fold, "log1p_cp10k", {"predicted": good})
    short = good.iloc[:, 1:]
    short.attrs["unit"] = "log1p_counts"
    with pytest.raises(DataError, match="predictions do not fit what was asked; .* 1 of them missing"):
        small.score(protocol, fold, "log1p_counts", {"predicted": short})


def test_random_spots_report_the_spread_over_folds_as_what_it_is(small):
    results = bench.run(small, protocol="spots")
    ridge = results.query("method == 'ridge' and metric == 'pearson' and section == 'all' and reference == ''")
    folds = ridge[ridge.level == "folds"]
    assert set(folds["design"]) == {"sd over folds"}
    assert (folds["n_clusters"] == 3).all()
    assert "which is no confidence interval" in bench.table(results)


def test_held_out_patients_count_as_clusters(small):
    results = bench.run(small, protocol="patients")
    row = results.query("method == 'ridge' and metric == 'pearson' and level == 'patients' and reference == ''").iloc[0]
    assert row["n_clusters"] == 1
    assert np.isnan(row["low"])
    assert row["design"] == "none"


def test_wrong_seeds_are_refused(small):
    with pytest.raises(DataError, match="no seed was given"):
        bench.run(small, seeds=())
    with pytest.raises(DataError, match="seeds is out of range"):
        bench.run(small, seeds=(-1,))


def test_a_cell_survives_the_disk(tmp_path):
    key = Key("a b/c", "section C2", "log1p_cp10k", 0, "abc")
    tables = {
        "predicted": pd.DataFrame(np.eye(3, dtype=np.float32), index=["s1", "s2", "s3"], columns=["A", "B", "C"]),
        "scores": pd.DataFrame({"section": ["x", "y"], "value": [1.0, np.nan], "n": [1, 2]}),
    }
    cell = Cell(key, tables=tables, fitted={"k_": 7, "seconds": 0.5})
    write_cell(tmp_path, cell)
    found = read_cell(tmp_path, key)
    assert found is not None
    assert (found.status, found.fitted) == ("measured", cell.fitted)
    pd.testing.assert_frame_equal(found.tables["predicted"], tables["predicted"])
    pd.testing.assert_frame_equal(found.tables["scores"].reset_index(drop=True), tables["scores"])
    assert read_cell(tmp_path, dataclasses.replace(key, seed=1)) is None
    assert not list(tmp_path.glob("*.tmp"))


def test_a_folder_that_cannot_be_written_is_said(small, tmp_path):
    taken = tmp_path / "cells"
    taken.write_text("a file")
    with pytest.raises(DataError, match="cannot be written .*Finished parts are kept"):
        write_cell(taken, Cell(Key("a", "b", "c", 0, "d")))


def test_a_grid_spreads_over_dask(small, results):
    distributed = pytest.importorskip("distributed")
    local = {"host": "127.0.0.1", "protocol": "tcp", "dashboard_address": None, "processes": False}
    with distributed.LocalCluster(n_workers=1, threads_per_worker=2, **local) as cluster:
        spread = bench.run(small, protocol="sections", scheduler=cluster.scheduler_address)
    timeless = ~results["metric"].str.endswith("seconds")
    pd.testing.assert_frame_equal(spread[timeless], results[timeless])


def test_without_dask_the_message_says_what_to_install(small, monkeypatch):
    import sys

    monkeypatch.setitem(sys.modules, "distributed", None)
    with pytest.raises(ImportError, match=r'pip install "expressor\[bench\]"'):
        bench.run(small, scheduler="tcp://127.0.0.1:1")
