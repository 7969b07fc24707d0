"""The data sets of single cells: raw counts, labels, and what is refused. Real files where EXPRESSOR_DATA names them."""

import gzip
import os
from pathlib import Path

import numpy as np
import pytest
from scipy import sparse

from expressor import datasets
from expressor.core.errors import DataError, FormatError
from expressor.data.checks import is_counts

ROOT = Path(os.environ.get("EXPRESSOR_DATA") or "absent")
real = pytest.mark.skipif(
    not ((ROOT / "singlecell").is_dir() and (ROOT / "clustering").is_dir()),
    reason="EXPRESSOR_DATA names no folder with single cells",
)


@real
@pytest.mark.parametrize(
    ("name", "shape", "column", "groups"),
    [
        ("pbmc3k", (2638, 13714), "cell_type", 9),
        ("pbmc_3tech", (1200, 1767), "batch", {"3pv2": 480, "5p": 430, "3pv1": 290}),
        ("pbmc_3tech", (1200, 1767), "cell_type_broad", 7),
        ("pbmc68k", (700, 765), "cell_type", 10),
        ("kang", (1556, 1267), "condition", {"stim": 806, "ctrl": 750}),
        ("kang", (1556, 1267), "batch", {"stim101": 500, "ctrl101": 454, "stim107": 306, "ctrl107": 296}),
        ("pancreas_3tech", (528, 1403), "cell_type", {"beta": 300, "ductal": 228}),
        ("amygdala", (500, 1000), "donor", {"Br5212": 304, "Br5161": 196}),
        ("doublets", (2000, 2000), "doublet_label", {"Singlet": 1701, "Doublet": 216, "Negative": 83}),
        ("mixology", (462, 11985), "batch", {"CELseq2": 252, "Dropseq": 210}),
        ("innate_lymphoid", (647, 326), "cell_type", {"ILC3": 308, "ILC2": 139, "ILC1": 126, "NK": 74}),
    ],
)
def test_each_holds_raw_counts_and_labels(name, shape, column, groups):
    found = getattr(datasets, name)()
    adata = found.adata
    assert adata.shape == shape
    assert sparse.isspmatrix_csr(adata.X)
    assert adata.X.dtype == np.float32
    assert is_counts(adata.X)
    assert (adata.obs["n_counts"] > 0).all()
    np.testing.assert_array_equal(adata.obs["n_counts"], adata.X.toarray().sum(axis=1, dtype=np.float64))
    assert adata.uns["unit"] == "counts"
    assert adata.obs_names.is_unique
    assert adata.var_names.is_unique
    counts = adata.obs[column].value_counts()
    assert (len(counts) if isinstance(groups, int) else counts.to_dict()) == groups
    assert "doi" in found.citation
    assert "from which the copy is" in found.licence
    assert name in datasets.names()


@real
def test_lines_of_the_mixture_are_known_for_every_cell():
    obs = datasets.mixology().adata.obs
    assert not obs["cell_type"].isna().any()
    drop = obs[obs["batch"] == "Dropseq"]["cell_type"].value_counts()
    assert {line: number for line, number in drop.items() if number} == {"H1975": 79, "HCC827": 66, "H2228": 65}
    assert obs["cell_type"].nunique() == 5


@real
def test_a_doublet_has_no_type():
    obs = datasets.doublets().adata.obs
    assert obs["cell_type"].notna().equals(obs["doublet_label"] == "Singlet")


@real
def test_counts_are_those_of_the_table():
    """A few values of the mixture against the lines of its gzipped tables."""
    adata = datasets.mixology().adata
    with gzip.open(ROOT / "clustering" / "scmix_sc_dropseq.count.csv.gz", "rt") as lines:
        cells = [one.strip('"\n') for one in next(lines).split(",")]
        for _ in range(50):
            gene, *values = next(lines).strip().split(",")
            if gene.strip('"') in adata.var_names:
                expected = [float(values[i]) for i, cell in enumerate(cells) if f"Dropseq:{cell}" in adata.obs_names]
                got = adata[adata.obs["batch"] == "Dropseq", gene.strip('"')].X.toarray().ravel()
                np.testing.assert_array_equal(got, expected)
                assert max(expected) > 0


@real
def test_splits_hold_whole_batches():
    train, test = datasets.pbmc_3tech().split(by="batch", held_out=["5p"])
    assert (train.n_obs, test.n_obs) == (770, 430)


def test_absent_files_are_said_with_what_to_do(monkeypatch, tmp_path):
    monkeypatch.setenv("EXPRESSOR_DATA", str(tmp_path))
    monkeypatch.setenv("EXPRESSOR_CACHE", str(tmp_path / "cache"))
    with pytest.raises(
        DataError,
        match=r"'pbmc3k' is not on this machine: no file singlecell/pbmc3k_labelled.h5ad; .*Single cells.*example\('cells'\)",
    ):
        datasets.pbmc3k()
    with pytest.raises(DataError, match="no file clustering/scmix_sc_celseq2_5cl_p3.count.csv.gz"):
        datasets.mixology()


def test_other_files_are_refused(monkeypatch, tmp_path):
    monkeypatch.delenv("EXPRESSOR_DATA", raising=False)
    monkeypatch.setenv("EXPRESSOR_CACHE", str(tmp_path))
    (tmp_path / "datasets" / "singlecell").mkdir(parents=True)
    datasets.example("cells").write_h5ad(tmp_path / "datasets" / "singlecell" / "kang_ifnb_muscat.h5ad")
    with pytest.raises(FormatError, match="expected 1,556 cells and 1,267 genes, got 80 and 50"):
        datasets.kang()
    folder = tmp_path / "datasets" / "clustering"
    folder.mkdir()
    (folder / "Bjorklund_data.csv.gz").write_bytes(b"no gzip")
    with pytest.raises(FormatError, match="cannot be read as gzipped CSV"):
        datasets.innate_lymphoid()
    with gzip.open(folder / "Bjorklund_data.csv.gz", "wt") as stream:
        stream.write(",GSM1_T74_P1_A1_ILC1_expression.txt,cell\nACE,1.0,2.0\n")
    with pytest.raises(FormatError, match="names a cell as no other; .*got 'cell'"):
        datasets.innate_lymphoid()
