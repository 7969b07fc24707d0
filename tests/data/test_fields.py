import copy

import anndata
import numpy as np
import pandas as pd
import pytest
from anndata import AnnData
from scipy import sparse

from expressor.core.errors import DataError, FormatError, GeneError
from expressor.data import SCALES, expression, expression_sparse, fingerprint, library_size, read

FORMS = {
    "csr": sparse.csr_matrix,
    "csc": sparse.csc_matrix,
    "csr array": sparse.csr_array,
    "dense": np.asarray,
    "fortran": np.asfortranarray,
    "int": lambda X: np.asarray(X, dtype=np.int32),
    "float64": lambda X: sparse.csr_matrix(X, dtype=np.float64),
}


def counts(n=30, genes=12, seed=0):
    return np.random.default_rng(seed).poisson(1.3, (n, genes)).astype(np.float32)


def tissue(form=sparse.csr_matrix, **shape):
    X = counts(**shape)
    obs = pd.DataFrame({"section": pd.Categorical(["a"] * len(X))}, index=[f"s{i}" for i in range(len(X))])
    adata = AnnData(form(X), obs=obs, var=pd.DataFrame(index=[f"G{i}" for i in range(X.shape[1])]))
    adata.obsm["spatial"] = np.random.default_rng(1).uniform(0, 9, (len(X), 2))
    adata.uns["spatial"] = {"a": {"scalefactors": {"microns_per_pixel": 0.5}}}
    adata.layers["counts"] = adata.X.copy()
    return adata


def same(left, right):
    assert list(left.obs_names) == list(right.obs_names)
    assert list(left.var_names) == list(right.var_names)
    assert (np.asarray(sparse.csr_matrix(left.X).todense()) == np.asarray(sparse.csr_matrix(right.X).todense())).all()


@pytest.mark.filterwarnings("ignore:zarr v3:UserWarning", "ignore::zarr.errors.ZarrUserWarning")
def test_every_way_in_gives_the_same(tmp_path):
    adata = tissue()
    adata.write_h5ad(tmp_path / "a.h5ad")
    with anndata.settings.override(zarr_write_format=3):
        adata.write_zarr(tmp_path / "a.zarr")
    backed = anndata.read_h5ad(tmp_path / "a.h5ad", backed="r")
    frame = adata.to_df()
    ways = [adata, tmp_path / "a.h5ad", str(tmp_path / "a.zarr"), backed, adata[:, :], frame]
    for way in ways:
        one = read(way)
        same(one, adata)
        assert not one.is_view
        assert not one.isbacked
        assert fingerprint(one) == fingerprint(adata)
    array = read(adata.X, genes=adata.var_names)
    assert list(array.obs_names[:2]) == ["0", "1"]
    assert (array.X != adata.X).nnz == 0
    backed.file.close()


def test_the_users_object_is_never_changed():
    adata = tissue()
    before = copy.deepcopy(adata)
    own = read(adata)
    own.obs["new"] = 1
    own.var["new"] = 1
    own.obsm["new"] = np.zeros((30, 1))
    own.layers["new"] = own.X
    own.uns["spatial"]["a"]["scalefactors"]["microns_per_pixel"] = 9.0
    own.uns["spatial"]["b"] = {}
    own.obs_names = [f"t{i}" for i in range(30)]
    assert list(adata.obs_names) == list(before.obs_names)
    assert list(adata.obs) == ["section"]
    assert list(adata.var) == []
    assert list(adata.obsm) == ["spatial"]
    assert list(adata.layers) == ["counts"]
    assert adata.uns == before.uns
    assert own.X is adata.X


def test_a_view_is_read_without_touching_its_parent():
    adata = tissue()
    view = adata[:5, ["G3", "G1"]]
    one = read(view)
    assert view.is_view
    assert one.shape == (5, 2)
    one.obs["new"] = 1
    assert "new" not in adata.obs


def test_tissue_without_genes_is_data_to_predict_on():
    bare = AnnData(obs=pd.DataFrame(index=["a", "b"]), obsm={"spatial": np.zeros((2, 2))})
    assert read(bare).shape == (2, 0)
    with pytest.raises(DataError, match="no expression: X is empty"):
        library_size(read(bare))


@pytest.mark.parametrize(
    ("data", "genes", "error", "message"),
    [
        (3, None, DataError, "cannot take data from a int; expected an AnnData"),
        (np.ones((2, 2)), None, DataError, "does not name its genes.*genes="),
        (np.ones((2, 2)), ["A"], DataError, "genes= does not fit the matrix; expected 2 names, got 1"),
        (np.ones((2, 2)), ["A", "A"], GeneError, "stand more than once"),
        (np.ones(3), ["A"], DataError, "no matrix of real numbers"),
        (np.array([["x"]]), ["A"], DataError, "no matrix of real numbers"),
        (np.array([[1j]]), ["A"], DataError, "no matrix of real numbers"),
        (np.ones((0, 2)), ["A", "B"], DataError, "holds no observations"),
        (
            pd.DataFrame({"A": [1], "B": ["x"]}),
            None,
            DataError,
            "1 columns of the DataFrame are no numbers, such as 'B'",
        ),
        (pd.DataFrame([[1, 2]], columns=["A", "A"]), None, GeneError, "stand more than once"),
        (pd.DataFrame([[1, 2]]), None, GeneError, "have no names, only the positions"),
        (
            pd.DataFrame({"A": [1, 2]}, index=["s", "s"]),
            None,
            DataError,
            "1 observation names .* more than once, such as 's'",
        ),
        (pd.DataFrame({"A": [1]}), ["A"], DataError, "genes= was given, but the DataFrame names its genes itself"),
        (pd.DataFrame({("A", "B"): [1]}), None, DataError, "several levels of names"),
        ("nowhere/at_all.h5ad", None, DataError, "there is no data file at nowhere"),
        ("bad\0name.h5ad", None, DataError, "no data file|no usable path"),
    ],
)
def test_wrong_data_are_refused_with_a_remedy(data, genes, error, message):
    with pytest.raises(error, match=message):
        read(data, genes=genes)


def test_a_misspelt_path_gets_its_neighbours(tmp_path):
    tissue().write_h5ad(tmp_path / "section_C2.h5ad")
    with pytest.raises(DataError, match="nearest: 'section_C2.h5ad'"):
        read(tmp_path / "section_c2.h5ad")


def test_unknown_suffixes_and_folders_are_told(tmp_path):
    (tmp_path / "table.xlsx").write_text("a,b\n")
    with pytest.raises(DataError, match="the suffix of .*table.xlsx is not known.*Read other tables with pandas"):
        read(tmp_path / "table.xlsx")
    with pytest.raises(FormatError, match="is no zarr store"):
        read(tmp_path)
    (tmp_path / "spatial").mkdir()
    with pytest.raises(DataError, match="is a Space Ranger folder; |is a Space Ranger folder. Read it with"):
        read(tmp_path)


def test_repeated_and_mixed_names_in_an_anndata_are_refused():
    adata = tissue()
    adata.var.index = ["G0", "G0", *adata.var_names[2:]]
    with pytest.raises(GeneError, match="1 gene names in the AnnData stand more than once, such as 'G0'"):
        read(adata)
    adata = tissue()
    adata.var_names = [f"ENSG{i:011d}" if i > 5 else f"G{i}" for i in range(12)]
    with pytest.raises(GeneError, match="several namespaces"):
        read(adata)
    adata.var["gene_ids"] = [f"ENSG{i:011d}" for i in range(12)]
    assert read(adata).n_vars == 12
    adata.obs.index = ["s"] * 30
    with pytest.raises(DataError, match="observation names"):
        read(adata)


def test_hidden_damage_in_sparse_indices_is_found(tmp_path):
    import h5py

    tissue().write_h5ad(tmp_path / "a.h5ad")
    with h5py.File(tmp_path / "a.h5ad", "r+") as file:
        file["X/indices"][5] = 10**6
    with pytest.raises(FormatError, match="the sparse matrix X of .*a.h5ad is damaged"):
        read(tmp_path / "a.h5ad")


@pytest.mark.parametrize("scale", SCALES)
@pytest.mark.parametrize("form", FORMS)
def test_expression_equals_the_formula_in_every_form(scale, form):
    adata = tissue(FORMS[form])
    X = counts().astype(np.float64)
    factor = 1e4 / X.sum(1, keepdims=True) if scale == "log1p_cp10k" else 1.0
    expected = np.log1p(X * factor)[:, [7, 2, 5]].astype(np.float32)
    got = expression(adata, ["G7", "G2", "G5"], scale=scale)
    assert got.dtype == np.float32
    assert got.flags.c_contiguous
    np.testing.assert_array_equal(got, expected)
    np.testing.assert_array_equal(expression(adata, scale=scale), expression_sparse(adata, scale=scale).toarray())
    np.testing.assert_array_equal(expression(adata, adata.var_names, scale=scale)[:, [7, 2, 5]], expected)
    assert (np.asarray(adata.X.todense() if sparse.issparse(adata.X) else adata.X) == counts()).all()


def test_the_library_is_summed_over_all_genes_and_layers_are_followed():
    adata = tissue()
    np.testing.assert_array_equal(library_size(adata), counts().sum(1))
    adata.X = np.log1p(counts())
    with pytest.raises(DataError, match="X does not hold raw counts but what looks like log-transformed values"):
        expression(adata, ["G1"], scale="log1p_counts")
    np.testing.assert_array_equal(
        expression(adata, ["G1"], scale="log1p_counts", layer="counts")[:, 0], np.log1p(counts()[:, 1])
    )
    with pytest.raises(DataError, match="there is no layer 'count'; nearest: 'counts'"):
        library_size(adata, layer="count")


def test_observations_without_counts_give_zero_and_are_reported(caplog):
    adata = tissue()
    X = counts()
    X[[3, 8]] = 0
    adata.X = sparse.csr_matrix(X)
    with caplog.at_level("WARNING", logger="expressor"):
        got = expression(adata, ["G0"], scale="log1p_cp10k")
    assert got[[3, 8]].tolist() == [[0.0], [0.0]]
    assert np.isfinite(got).all()
    assert "2 of 30 observations have no counts" in caplog.text


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (-1.0, r"scaled or centred values; expected whole numbers from 0, got values such as -1 in \[-1"),
        (0.5, "looks like log-transformed values.*layer="),
        (100.5, "looks like normalised values"),
        (np.nan, "not finite; got 1 NaN or infinite values"),
        (np.inf, "not finite; got 1 NaN or infinite values"),
    ],
)
@pytest.mark.parametrize("form", ["csr", "dense"])
def test_what_is_no_count_is_refused(value, message, form):
    X = counts()
    X[4, 4] = value
    adata = tissue()
    adata.X = FORMS[form](X)
    with pytest.raises(DataError, match=message):
        expression(adata, ["G1"], scale="log1p_counts")


def test_unknown_genes_and_scales_are_refused():
    with pytest.raises(GeneError, match="1 of 2 genes are not in the data, such as 'G99'"):
        expression(tissue(), ["G1", "G99"], scale="log1p_counts")
    with pytest.raises(
        DataError, match="unknown scale 'log1p'; expected one of 'log1p_cp10k', 'log1p_counts'; nearest"
    ):
        expression(tissue(), ["G1"], scale="log1p")


def test_only_the_wanted_genes_are_made_dense(monkeypatch):
    adata = tissue(n=50, genes=400)
    made = []
    original = sparse.csr_matrix.toarray
    monkeypatch.setattr(
        sparse.csr_matrix, "toarray", lambda self, *a, **k: made.append(self.shape) or original(self, *a, **k)
    )
    expression(adata, ["G7"], scale="log1p_cp10k")
    assert made == [(50, 1)]


@pytest.mark.parametrize("form", FORMS)
def test_the_fingerprint_is_of_the_content_alone(form, tmp_path):
    reference = fingerprint(tissue())
    adata = tissue(FORMS[form])
    assert fingerprint(adata) == reference
    adata.write_h5ad(tmp_path / "a.h5ad")
    backed = anndata.read_h5ad(tmp_path / "a.h5ad", backed="r")
    assert fingerprint(backed) == reference
    backed.file.close()


def test_the_fingerprint_spans_blocks_and_sees_every_change():
    X = sparse.random(9000, 3, density=0.4, format="csr", random_state=0)
    adata = AnnData(X, obs=pd.DataFrame(index=[str(i) for i in range(9000)]), var=pd.DataFrame(index=["A", "B", "C"]))
    seen = {fingerprint(adata)}
    assert fingerprint(AnnData(X.tocsc(), obs=adata.obs, var=adata.var)) in seen
    changed = X.copy()
    changed.data[-1] += 1
    variants = [
        AnnData(changed, obs=adata.obs, var=adata.var),
        AnnData(X, obs=adata.obs, var=adata.var[::-1]),
        AnnData(X[::-1], obs=adata.obs, var=adata.var),
        adata[:8999].copy(),
        AnnData(obs=adata.obs, var=adata.var),
    ]
    for variant in variants:
        assert fingerprint(variant) not in seen
        seen.add(fingerprint(variant))
