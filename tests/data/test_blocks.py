"""Cells from memory, from a file and from several as one give the same rows; and what is no counts is refused with a remedy."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from anndata import AnnData
from scipy import sparse

from expressor.core.errors import DataError, FormatError, GeneError
from expressor.data import Tokeniser, gene_medians, open_blocks
from expressor.genes import GeneVocab

pytestmark = pytest.mark.filterwarnings("ignore:Writing zarr v2:UserWarning")


def make(cells: int = 60, genes: tuple[str, ...] = tuple(f"GENE{i}" for i in range(30)), seed: int = 0) -> AnnData:
    counts = np.random.default_rng(seed).poisson(0.6, (cells, len(genes))).astype(np.float32)
    obs = pd.DataFrame({"kind": pd.Categorical([f"k{i % 3}" for i in range(cells)]), "depth": counts.sum(axis=1)},
                       index=[f"c{seed}-{i}" for i in range(cells)])  # fmt: skip
    return AnnData(sparse.csr_matrix(counts), obs=obs, var=pd.DataFrame(index=list(genes)))


@pytest.mark.parametrize("kept", ["memory", "dense", "h5ad", "dense h5ad", "zarr", "backed"])
def test_any_rows_are_those_of_the_matrix(tmp_path: Path, kept: str) -> None:
    adata = make()
    counts = adata.X.toarray()
    if kept.startswith("dense"):
        adata.X = counts
    data: object = adata
    if "h5ad" in kept or kept == "backed":
        adata.write_h5ad(tmp_path / "a.h5ad")
        data = tmp_path / "a.h5ad"
    if kept == "zarr":
        adata.write_zarr(tmp_path / "a.zarr")
        data = tmp_path / "a.zarr"
    if kept == "backed":
        import anndata

        data = anndata.read_h5ad(tmp_path / "a.h5ad", backed="r")
    vocab = GeneVocab(["GENE9", "ABSENT", "GENE2", "GENE17"])
    blocks = open_blocks(data, genes=vocab)
    assert len(blocks) == 60
    for rows in (slice(3, 11), np.array([40, 2, 2, 59]), np.array([], dtype=int), np.arange(0, 60, 7)):
        matrix, size = blocks.load(rows)
        assert matrix.dtype == np.float32
        assert matrix.has_sorted_indices
        expected = counts[rows][:, [9, 0, 2, 17]]
        expected[:, 1] = 0
        np.testing.assert_array_equal(matrix.toarray(), expected)
        np.testing.assert_array_equal(size, counts[rows].sum(axis=1))
    assert blocks.measured.tolist() == [[True, False, True, True]]
    assert blocks.obs["kind"].tolist() == adata.obs["kind"].tolist() == blocks.column("kind").tolist()
    with pytest.raises(DataError, match="no column 'kin' in obs.*nearest: 'kind'"):
        blocks.column("kin")
    with pytest.raises(DataError, match="out of range; expected 0 to 59, got 60 to 60"):
        blocks.load(np.array([60]))


def test_several_sources_are_one_with_all_their_genes(tmp_path: Path) -> None:
    first, second = make(20, ("A1", "B1", "C1")), make(15, ("C1", "D1", "A1"), seed=1)
    first.write_h5ad(tmp_path / "a.h5ad")
    second.write_h5ad(tmp_path / "b.h5ad")
    for blocks in (open_blocks(tmp_path), open_blocks([first, second]), open_blocks({"x": first, "y": second})):
        assert blocks.genes.names == ("A1", "B1", "C1", "D1")
        found = blocks.read(np.array([19, 20])).toarray()
        np.testing.assert_array_equal(found[0, :3], first.X.toarray()[19])
        np.testing.assert_array_equal(found[1, [2, 3, 0]], second.X.toarray()[0])
        assert blocks.measured.tolist() == [[True, True, True, False], [True, False, True, True]]
        assert blocks.source_of(np.array([0, 19, 20, 34])).tolist() == [0, 0, 1, 1]
        assert list(blocks.obs.index) == [*first.obs_names, *second.obs_names]
        assert "3 of 4 genes found" in blocks.report()


def test_bad_sources_are_refused(tmp_path: Path) -> None:
    adata = make()
    logged = adata.copy()
    logged.X = np.log1p(adata.X.toarray())
    with pytest.raises(DataError, match="does not hold raw counts but what looks like log-transformed.*name the layer"):
        open_blocks(logged)
    logged.layers["counts"] = adata.X.copy()
    with pytest.raises(DataError, match="There are raw counts beside it: give layer='counts'"):
        open_blocks(logged)
    logged.write_h5ad(tmp_path / "logged.h5ad")
    with pytest.raises(DataError, match="There are raw counts beside it: give layer='counts'"):
        open_blocks(tmp_path / "logged.h5ad")
    assert open_blocks(tmp_path / "logged.h5ad", layer="counts").read(slice(0, 5)).nnz
    with pytest.raises(GeneError, match="no gene of the vocabulary is in the AnnData"):
        open_blocks(adata, genes=["X1", "X2"])
    with pytest.raises(GeneError, match="shares no gene with the sources before it"):
        open_blocks([adata, make(5, ("Q1", "Q2"))])
    by_genes = adata.copy()
    by_genes.X = by_genes.X.tocsc()
    by_genes.write_h5ad(tmp_path / "csc.h5ad")
    with pytest.raises(DataError, match=r"kept by genes \(CSC\).*tocsr"):
        open_blocks(tmp_path / "csc.h5ad")
    adata.write_h5ad(tmp_path / "cut.h5ad")
    content = (tmp_path / "cut.h5ad").read_bytes()
    (tmp_path / "cut.h5ad").write_bytes(content[: len(content) // 2])
    with pytest.raises(FormatError, match="cannot be read|truncated"):
        open_blocks(tmp_path / "cut.h5ad")


def write_collection(folder: Path, parts: list[AnnData]) -> None:
    """Write what annbatch documents: a zarr 3 group of numbered stores, whose sparse arrays are sharded."""
    import anndata
    import zarr

    root = zarr.open_group(folder, mode="w", zarr_format=3)
    root.attrs.update({"encoding-type": "annbatch-preshuffled", "encoding-version": "0.1.0"})
    with anndata.settings.override(zarr_write_format=3):
        for at, part in enumerate(parts):
            part.write_zarr(folder / f"dataset_{at}")
            matrix = zarr.open_group(folder / f"dataset_{at}" / "X")
            for name in ("data", "indices"):
                values = matrix[name][:]
                del matrix[name]
                shards = (-(-len(values) // 64) * 64,)
                matrix.create_array(name, data=values, chunks=(64,), shards=shards)
            zarr.consolidate_metadata(folder / f"dataset_{at}")


@pytest.mark.filterwarnings("ignore")
def test_a_collection_of_annbatch_is_one_source(tmp_path: Path) -> None:
    parts = [make(9, seed=at) for at in range(11)]
    write_collection(tmp_path / "all.zarr", parts)
    blocks = open_blocks(tmp_path / "all.zarr")
    assert len(blocks) == 99
    rows = np.array([98, 0, 40, 20, 20])
    whole = np.concatenate([one.X.toarray() for one in parts])
    np.testing.assert_array_equal(blocks.read(rows).toarray(), whole[rows])
    assert blocks.obs.index[:90:9].tolist() == [f"c{at}-0" for at in range(10)]
    assert blocks.column("source").iloc[90] == "dataset_10"
    import shutil

    for one in (tmp_path / "all.zarr").glob("dataset_*"):
        shutil.rmtree(one)
    with pytest.raises(
        FormatError, match="the collection of annbatch .* is empty; expected folders dataset_0, dataset_1"
    ):
        open_blocks(tmp_path / "all.zarr")


def test_medians_of_genes_are_those_of_all_cells_at_once(tmp_path: Path) -> None:
    cells = make(200)
    counts = cells.X.toarray() * np.random.default_rng(1).integers(1, 9, (200, 1))
    counts[:, 4] = 0
    cells = AnnData(sparse.csr_matrix(counts), var=cells.var)
    cells.write_h5ad(tmp_path / "a.h5ad")
    found = gene_medians(open_blocks(tmp_path / "a.h5ad"), at_once=33)
    values = 1e4 * counts / counts.sum(axis=1, keepdims=True)
    expected = [np.median(column[column > 0]) if column.any() else np.nan for column in values.T]
    np.testing.assert_allclose(found, expected, rtol=0.008)
    assert np.isnan(found[4])
    part = np.arange(50, 90)
    expected = [np.median(column[column > 0]) if column.any() else np.nan for column in values[part].T]
    np.testing.assert_allclose(gene_medians(open_blocks(cells), rows=part[::-1]), expected, rtol=0.008)
    tokens = Tokeniser(max_length=40, order="sorted", normalise="medians", medians=found)(
        cells.X[:1], counts[:1].sum(axis=1)
    )
    ranked = np.argsort(-(values[0] / np.where(np.isnan(found), np.inf, found)), kind="stable")
    assert tokens.genes[0].tolist() == ranked[: tokens.lengths[0]].tolist()


@pytest.mark.parametrize("kind", [np.float32, np.float64, np.int32, np.uint16])
def test_the_compiled_pass_equals_plain_indexing(kind: type) -> None:
    counts = np.random.default_rng(0).poisson(0.7, (50, 12)).astype(kind)
    matrix = sparse.csr_matrix(counts)
    matrix.data[::7] = 0  # stored zeros are no counts
    cells = AnnData(matrix, var=pd.DataFrame(index=[f"GENE{i}" for i in range(12)]))
    wanted = ["GENE7", "ABSENT", "GENE0", "GENE11"]
    found, size = open_blocks(cells, genes=wanted).load(slice(None))
    dense = matrix.toarray().astype(np.float32)
    np.testing.assert_array_equal(
        found.toarray(), np.column_stack([dense[:, 7], 0 * dense[:, 0], dense[:, 0], dense[:, 11]])
    )
    np.testing.assert_array_equal(size, dense.sum(axis=1))
    assert found.dtype == np.float32
    assert found.has_canonical_format
    assert (found.data > 0).all()


@pytest.mark.parametrize("wrong", [np.nan, np.inf, -1.0, 0.5])
def test_what_is_no_count_is_found_wherever_it_stands(wrong: float, tmp_path: Path) -> None:
    cells = make(1200)
    cells.X.data[cells.X.indptr[500]] = wrong  # where the opening does not look
    cells.write_h5ad(tmp_path / "a.h5ad")
    blocks = open_blocks(tmp_path / "a.h5ad")
    assert blocks.read(np.arange(500)).shape == (500, 30)
    with pytest.raises(DataError):
        blocks.read(np.arange(490, 510))
