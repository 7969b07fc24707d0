"""Pancreas of two species and their orthologs. Real files where EXPRESSOR_DATA names them."""

import os
from pathlib import Path

import pytest
from scipy import sparse

from expressor import datasets
from expressor.core.errors import DataError
from expressor.data.checks import is_counts
from expressor.genes import GeneVocab

real = pytest.mark.skipif(
    not (Path(os.environ.get("EXPRESSOR_DATA") or "absent") / "crossspecies").is_dir(),
    reason="EXPRESSOR_DATA names no folder with two species",
)


@real
def test_counts_types_and_donors():
    human, mouse = datasets.baron_human().adata, datasets.baron_mouse().adata
    for adata in (human, mouse):
        assert sparse.isspmatrix_csr(adata.X)
        assert is_counts(adata.X)
        assert adata.uns["unit"] == "counts"
        assert (adata.obs["n_counts"] > 0).all()
    assert human.obs["donor"].value_counts().to_dict() == {"human3": 914, "human1": 472, "human2": 450, "human4": 306}
    assert mouse.obs["donor"].value_counts().to_dict() == {"mouse2": 1064, "mouse1": 822}
    both = set(human.obs["cell_type"]) & set(mouse.obs["cell_type"])
    assert both == {
        "beta", "alpha", "ductal", "delta", "gamma", "endothelial", "macrophage", "activated_stellate",
        "quiescent_stellate", "schwann", "t_cell",
    }  # fmt: skip


@real
@pytest.mark.parametrize(
    ("source", "pairs"),
    [
        ("ensembl", 25_454),
        *(pytest.param(one, n, marks=pytest.mark.slow) for one, n in (("hcop", 60_000), ("came", 23_000))),
    ],
)
def test_orthologs_join_them(source, pairs):
    table = datasets.human_mouse_orthologs(source)
    assert len(table) >= pairs
    genes = [GeneVocab(one().adata.var_names) for one in (datasets.baron_human, datasets.baron_mouse)]
    bridge = table.connect(*genes)
    assert bridge.n_edges > 12_000
    assert {("INS", "Ins1"), ("INS", "Ins2")} <= set(map(tuple, bridge.edges()[["human", "mouse"]].to_numpy()))
    with pytest.raises(DataError, match="the direction is swapped"):
        table.connect(*genes[::-1])


def test_what_is_not_here_is_said(monkeypatch, tmp_path):
    monkeypatch.setenv("EXPRESSOR_DATA", str(tmp_path))
    monkeypatch.setenv("EXPRESSOR_CACHE", str(tmp_path))
    with pytest.raises(DataError, match="the data set 'baron_human' is not on this machine"):
        datasets.baron_human()
    with pytest.raises(DataError, match="unknown source of orthologs 'omim'"):
        datasets.human_mouse_orthologs("omim")
    assert len(datasets.human_mouse_orthologs()) == 25_454
