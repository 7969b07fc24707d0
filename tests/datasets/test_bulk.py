"""The bulk data sets: layout, units, outcomes and what is refused. Real files where EXPRESSOR_DATA names them."""

import os
import re
import sys
from pathlib import Path

import anndata as ad
import numpy as np
import pandas as pd
import pytest

from expressor import datasets
from expressor.core.errors import DataError, FormatError, MissingExtra
from expressor.data import detect_scale, has_outcome, read_outcomes, unit_of
from expressor.data.units import family
from expressor.datasets import bulk, example, join_outcomes

ROOT = Path(os.environ.get("EXPRESSOR_DATA") or "absent") / "bulk"
real = pytest.mark.skipif(not ROOT.is_dir(), reason="EXPRESSOR_DATA names no folder with bulk data")


@real
@pytest.mark.parametrize(
    ("name", "shape", "deaths", "known"),
    [
        ("tcga_coadread", (592, 17507), 115, 566),
        ("tcga_counts7", (384, 35266), None, None),
        ("tcga_toil4", (1160, 1577), 370, None),
        ("tcga13", (5240, 1526), None, None),
    ],
)
def test_tcga(name, shape, deaths, known):
    found = getattr(datasets, name)()
    adata = found.adata
    assert adata.shape == shape
    assert adata.X.dtype == np.float32
    assert family(unit_of(adata)) == detect_scale(adata.X).name
    assert adata.obs["patient"].nunique() == shape[0]
    usable = has_outcome(adata)
    if deaths is not None:
        assert read_outcomes(adata[usable]).event.sum() == deaths
    if known is not None:
        assert usable.sum() == known
    assert (adata.obs["site"].astype(str).str.len() > 0).all()
    assert "10.1038/ng.2764" in found.citation
    assert found.licence
    train, test = found.split(by="patient", held_out=[adata.obs["patient"].iloc[0]])
    assert (train.n_obs, test.n_obs) == (shape[0] - 1, 1)


@real
def test_they_can_be_written(tmp_path):
    adata = datasets.tcga_coadread().adata[:20, :30].copy()
    adata.write_h5ad(tmp_path / "part.h5ad")
    again = ad.read_h5ad(tmp_path / "part.h5ad")
    assert has_outcome(again).tolist() == has_outcome(adata).tolist()


@real
def test_toil_is_log_of_one_plus():
    """Against the stored log2(TPM+0.001), value by value."""
    stored = ad.read_h5ad(ROOT / "tcga_toil4.h5ad").X[:50].astype(np.float64)
    got = datasets.tcga_toil4().adata.X[:50]
    np.testing.assert_allclose(np.exp2(got.astype(np.float64)) - 1, np.exp2(stored) - 0.001, rtol=1e-4, atol=1e-3)
    assert got.min() >= 0


@real
def test_endpoints():
    overall, progress = datasets.tcga_toil4().adata.obs, datasets.tcga_toil4(endpoint="PFI").adata.obs
    assert (overall["time"].dropna() == overall["os_time_days"].dropna()).all()
    assert (progress["time"].dropna() == progress["pfi_time_days"].dropna()).all()
    assert not overall["event"].equals(progress["event"])
    with pytest.raises(DataError, match="unknown endpoint 'EFS'; expected one of 'OS'"):
        datasets.tcga_toil4(endpoint="EFS")


@real
@pytest.mark.parametrize(
    ("name", "patients", "events"),
    [
        ("DBCD", 295, 79), ("DLBCL", 240, 138), ("GSE1992", 124, 35), ("GSE3143", 158, 50), ("COADREAD-full", 566, 115),
        ("KIRC", 345, 92), ("KIRP", 260, 40), ("GBMLGG", 569, 187), ("LUSC", 450, 192),
    ],
)  # fmt: skip
def test_survival_cohorts(name, patients, events):
    found = datasets.survival_cohort(name)
    outcomes = read_outcomes(found.adata, strata="cohort")
    assert len(outcomes) == patients
    assert outcomes.event.sum() == events
    assert set(outcomes.strata) == {name}
    assert not np.isnan(found.adata.X).any()
    # Months and years were turned into days: nobody is followed for half a century, and some for more than two years.
    assert 730 < outcomes.time.max() < 365 * 50


@real
def test_every_cohort_loads():
    for name in bulk.COHORTS:
        read_outcomes(datasets.survival_cohort(name).adata)


@real
def test_cohorts_are_checked():
    with pytest.raises(DataError, match="unknown cohort 'KIRCC'.*nearest: 'KIRC'"):
        datasets.survival_cohort("KIRCC")
    with pytest.raises(DataError, match="cohort DBCD has no endpoint 'PFI'"):
        datasets.survival_cohort("DBCD", endpoint="PFI")


@real
def test_breast_cohorts():
    adata = datasets.breast_cohorts().adata
    assert adata.shape == (282, 8282)
    assert detect_scale(adata.X).name == "z-score"
    assert adata.obs["cohort"].value_counts().to_dict() == {"GSE3143": 158, "GSE1992": 124}
    for _, rows in adata.obs.groupby("cohort", observed=True).indices.items():
        np.testing.assert_allclose(adata.X[rows].mean(axis=0), 0, atol=1e-5)
    assert "ESR1" in adata.var_names


@real
def test_golub():
    adata = datasets.golub().adata
    assert adata.obs["cancer_type"].value_counts().to_dict() == {"ALL": 47, "AML": 25}
    assert family(unit_of(adata)) == "TPM"


@real
def test_tcga13_with_all_genes_keeps_what_was_not_measured():
    adata = datasets.tcga13(genes="all").adata
    assert adata.n_vars == 1608
    assert np.isnan(adata.X).any()
    assert not np.isnan(datasets.tcga13().adata.X).any()


def test_absent_files_are_said_with_what_to_do(monkeypatch, tmp_path):
    monkeypatch.setenv("EXPRESSOR_DATA", str(tmp_path))
    monkeypatch.setenv("EXPRESSOR_CACHE", str(tmp_path / "cache"))
    with pytest.raises(DataError, match="'tcga_toil4' is not on this machine: no file bulk/tcga_toil4.h5ad; .*example"):
        datasets.tcga_toil4()
    with pytest.raises(DataError, match="'survset_DBCD' is not on this machine"):
        datasets.survival_cohort("DBCD")


def test_the_cache_is_looked_at_too_and_other_files_are_refused(monkeypatch, tmp_path):
    monkeypatch.delenv("EXPRESSOR_DATA", raising=False)
    monkeypatch.setenv("EXPRESSOR_CACHE", str(tmp_path))
    folder = tmp_path / "datasets" / "bulk"
    folder.mkdir(parents=True)
    example("bulk").write_h5ad(folder / "golub.h5ad")
    with pytest.raises(FormatError, match="not the file .*; expected 72 samples and 7,129 genes, got 60 and 40"):
        datasets.golub()
    (folder / "tcga_toil4.h5ad").write_text("nothing")
    with pytest.raises(FormatError, match="cannot be read as h5ad"):
        datasets.tcga_toil4()


def outcomes_table():
    return pd.DataFrame(
        {"os_time_days": [10.0, 20.0, np.nan], "os_event": [1.0, 0.0, np.nan], "age": [1, 2, 3]},
        index=["TCGA-AA-0001", "TCGA-AA-0002", "TCGA-AA-0003"],
    )


def test_outcomes_are_joined_by_patient():
    adata = example("bulk", n=4)
    adata.obs["patient"] = ["TCGA-AA-0002-01A", "TCGA-AA-0001", "TCGA-AA-0003", "TCGA-AA-0009"]
    joined = join_outcomes(adata, outcomes_table())
    assert joined.obs["time"].iloc[:2].tolist() == [20.0, 10.0]
    assert has_outcome(joined).tolist() == [True, True, False, False]
    assert read_outcomes(joined[:2]).event.tolist() == [False, True]
    assert "age" not in joined.obs
    assert adata.obs["time"].iloc[0] != 20.0


def test_joining_is_checked():
    adata = example("bulk", n=4)
    with pytest.raises(DataError, match=r"no patient of obs\['patient'\].*expected names such as 'TCGA-AA-0001'"):
        join_outcomes(adata, outcomes_table())
    with pytest.raises(DataError, match="no column 'case' to join outcomes by"):
        join_outcomes(adata, outcomes_table(), by="case")
    adata.obs["patient"] = "TCGA-AA-0001"
    with pytest.raises(DataError, match="the outcomes lack the column 'pfi_time_days'"):
        join_outcomes(adata, outcomes_table(), endpoint="PFI")
    with pytest.raises(DataError, match="has patients twice; got 'TCGA-AA-0001'"):
        join_outcomes(adata, pd.concat([outcomes_table()] * 2))


def test_curated_outcomes_need_pyarrow(monkeypatch):
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(MissingExtra, match=re.escape('pip install "expressor[spatial]"')):
        datasets.tcga_cdr()


@real
def test_curated_outcomes():
    pytest.importorskip("pyarrow", reason="pyarrow is not installed")
    table = datasets.tcga_cdr()
    assert table.shape == (11160, 16)
    toil = datasets.tcga_toil4().adata
    joined = join_outcomes(toil, table)
    pd.testing.assert_series_equal(joined.obs["time"], toil.obs["time"])
