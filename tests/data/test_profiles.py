"""Profiles: the order of genes, gaps, and what is refused."""

import anndata as ad
import numpy as np
import pandas as pd
import pytest
from scipy import sparse

from expressor.core.errors import DataError, GeneError
from expressor.data.profiles import bounded_scores, check_scale_of_use, profiles


def data(names: str = "CAB") -> ad.AnnData:
    X = np.arange(6, dtype=np.float32).reshape(2, 3)
    return ad.AnnData(X, var=pd.DataFrame(index=list(names)), obs=pd.DataFrame(index=["s1", "s2"]))


@pytest.mark.parametrize("convert", [np.asarray, sparse.csr_matrix, sparse.csc_matrix])
def test_genes_come_in_the_wanted_order(convert: type) -> None:
    adata = data()
    adata.X = convert(adata.X)
    found = profiles(adata)
    assert found.tolist() == [[1, 2, 0], [4, 5, 3]]
    assert found.dtype == np.float32
    assert profiles(adata, ["C", "A"]).tolist() == [[0, 1], [3, 4]]


def test_gaps_are_nan_where_they_are_allowed() -> None:
    adata = data()
    adata.X[0, 1] = np.nan
    found = profiles(adata, ["B", "X", "A"], allow_gaps=True)
    assert np.array_equal(found, [[2, np.nan, np.nan], [5, np.nan, 4]], equal_nan=True)


def test_gaps_are_refused_otherwise() -> None:
    adata = data()
    adata.X[:, 1] = np.nan
    with pytest.raises(
        DataError, match="X holds 2 NaN: values of 1 genes in 2 samples; expected a value for every gene"
    ):
        profiles(adata)
    with pytest.raises(GeneError, match="1 of 2 needed genes are missing from the data"):
        profiles(adata, ["C", "X"])
    with pytest.raises(GeneError, match="2 of 2 needed genes are missing from the data"):
        profiles(adata, ["c", "X"], allow_gaps=True)
    adata.X[:, 1] = -np.inf
    with pytest.raises(DataError, match="X holds infinite values; got 2 of 6"):
        profiles(adata, allow_gaps=True)
    with pytest.raises(DataError, match="the data hold no expression"):
        profiles(ad.AnnData(obs=adata.obs, var=adata.var))


def test_another_scale_is_refused_where_it_is_sure() -> None:
    logs = ad.AnnData(np.random.default_rng(0).uniform(0, 15, (5, 3)).astype(np.float32))
    check_scale_of_use(logs, "log2(TPM+1)")
    counts = ad.AnnData(np.random.default_rng(0).integers(0, 9000, (5, 3)).astype(np.float32))
    with pytest.raises(DataError, match=r"on another scale than those of the fit; expected log2\(TPM\+1\), got counts"):
        check_scale_of_use(counts, "log2(TPM+1)")
    # Small whole numbers may be anything; what is stated is believed.
    few = ad.AnnData(np.array([[0.0, 3.0], [2.0, 1.0]], dtype=np.float32))
    check_scale_of_use(few, "log2(TPM+1)")
    few.uns["unit"] = "counts"
    with pytest.raises(DataError, match="another scale"):
        check_scale_of_use(few, "log2(TPM+1)")


def test_standard_scores_are_cut_where_a_gene_hardly_varied() -> None:
    values = np.array([[1.0, 2.0], [1.0, 4.0], [9.0, 3.0]])
    found = bounded_scores(values, np.array([1.0, 3.0]), np.array([1e-6, 1.0]))
    np.testing.assert_array_equal(found, [[0.0, -1.0], [0.0, 1.0], [5.0, 0.0]])
