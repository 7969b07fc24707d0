import numpy as np
import pandas as pd
import pytest
from anndata import AnnData
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import sparse

from expressor.core.errors import DataError
from expressor.genes import coexpression, detection_rate, dispersion, hvg_scores, mean_expression, moran_i, rank_genes

FORMS = (np.asarray, np.asfortranarray, sparse.csr_matrix, sparse.csc_matrix, sparse.coo_matrix, sparse.csr_array)


def tissue(n=120, genes=60, seed=0):
    rng = np.random.default_rng(seed)
    means = rng.gamma(0.6, 2.0, genes)
    counts = rng.negative_binomial(2, 2 / (2 + means * rng.gamma(4, 0.25, (n, 1)))).astype(np.float64)
    coords = rng.uniform(0, 10, (n, 2))
    counts[:, 0] = 0
    counts[:, 1] = 3
    return counts, coords, np.repeat(["a", "b"], [n // 2, n - n // 2])


def scanpy_scores(X):
    import scanpy as sc

    adata = AnnData(X.copy())
    return sc.pp.highly_variable_genes(adata, n_top_genes=5, inplace=False)["dispersions_norm"].to_numpy()


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("seed", range(3))
def test_hvg_scores_are_scanpys(seed, dtype):
    X = sparse.csr_matrix(np.log1p(tissue(seed=seed, genes=300)[0]).astype(dtype))
    expected = scanpy_scores(X)
    np.testing.assert_allclose(hvg_scores(X), expected, atol=1e-6 if dtype == np.float64 else 2e-5, rtol=1e-6)
    assert np.isnan(expected[[0, 1]]).all()


def test_a_gene_alone_in_its_bin_gets_one_as_in_scanpy():
    X = np.log1p(
        np.c_[np.random.default_rng(0).poisson(1.0, (50, 12)), np.random.default_rng(1).poisson(900, (50, 1))].astype(
            float
        )
    )
    scores = hvg_scores(X)
    assert scores[-1] == 1.0
    np.testing.assert_allclose(scores, scanpy_scores(X), atol=1e-6)


SCORES = {
    "hvg": lambda X, coords, groups: hvg_scores(X),
    "dispersion": lambda X, coords, groups: dispersion(X),
    "detection": lambda X, coords, groups: detection_rate(X),
    "mean": lambda X, coords, groups: mean_expression(X),
    "moran": moran_i,
    "coexpression": lambda X, coords, groups: coexpression(X, [3, 5, 1]),
    "coexpression max": lambda X, coords, groups: coexpression(X, [3, 5, 1], summary="max"),
}


@pytest.mark.parametrize("name", SCORES)
@pytest.mark.parametrize("form", FORMS, ids=lambda form: form.__name__)
def test_every_form_of_the_matrix_gives_the_same_bits_and_stays_as_it_was(name, form):
    counts, coords, groups = tissue()
    X = form(np.log1p(counts))
    before = X.copy()
    np.testing.assert_array_equal(SCORES[name](X, coords, groups), SCORES[name](np.log1p(counts), coords, groups))
    assert (X != before).sum() == 0


def test_explicit_zeros_and_unsorted_or_repeated_entries_change_nothing():
    clean = sparse.csc_matrix(np.array([[1.0, 0, 2], [0, 3, 0], [4, 0, 0], [0, 0, 1]]))
    messy = sparse.csc_matrix(
        (np.array([3.0, 1, 1, 0, 3, 0, 1, 2]), np.array([2, 0, 2, 3, 1, 0, 3, 0]), np.array([0, 4, 6, 8])), shape=(4, 3)
    )
    assert (clean != messy).sum() == 0
    for score in (hvg_scores, dispersion, detection_rate, mean_expression):
        np.testing.assert_array_equal(score(clean), score(messy))
    assert messy.nnz == 8


@pytest.mark.parametrize("name", ["hvg", "dispersion", "detection", "mean", "moran"])
def test_the_order_of_the_genes_does_not_matter(name):
    counts, coords, groups = tissue(n=1501, genes=83)
    order = np.random.default_rng(1).permutation(counts.shape[1])
    X = sparse.csr_matrix(np.log1p(counts))
    np.testing.assert_array_equal(SCORES[name](X, coords, groups)[order], SCORES[name](X[:, order], coords, groups))


def test_dispersion_is_variance_over_mean():
    counts, _, _ = tissue()
    with np.errstate(invalid="ignore"):
        expected = counts.var(axis=0, ddof=1) / counts.mean(axis=0)
    np.testing.assert_allclose(dispersion(sparse.csr_matrix(counts)), expected, rtol=1e-12)
    assert np.isnan(dispersion(counts)[0])
    assert dispersion(counts)[1] == 0
    with pytest.raises(DataError, match="at least two observations"):
        dispersion(counts[:1])


def naive_moran(x, coords, groups, k):
    values = []
    for group in np.unique(groups):
        spots = np.flatnonzero(groups == group)
        z, at = x[spots] - x[spots].mean(), coords[spots]
        if (z == 0).all():
            continue
        top = 0.0
        for i in range(len(spots)):
            distance = np.sqrt(((at - at[i]) ** 2).sum(1))
            distance[i] = np.inf
            near = distance <= np.sort(distance)[k - 1] * 1.01
            top += z[i] * z[near].mean()
        values.append(top / (z**2).sum())
    return np.mean(values) if values else np.nan


def test_moran_equals_the_loop_and_knows_smooth_from_noise():
    counts, coords, groups = tissue(n=80, genes=12)
    X = np.log1p(counts)
    X[:, 2] = coords[:, 0]
    scores = moran_i(sparse.csr_matrix(X), coords, groups)
    np.testing.assert_allclose(scores, [naive_moran(x, coords, groups, 6) for x in X.T], atol=1e-10)
    assert np.isnan(scores[[0, 1]]).all()
    assert scores[2] > 0.7
    assert np.abs(np.nanmedian(scores[3:])) < 0.15


def test_moran_on_a_square_grid_does_not_depend_on_the_order_of_the_spots():
    coords = np.stack(np.meshgrid(np.arange(7.0), np.arange(8.0)), -1).reshape(-1, 2)
    X = np.random.default_rng(0).poisson(2.0, (56, 5)).astype(float)
    order = np.random.default_rng(1).permutation(56)
    np.testing.assert_allclose(moran_i(X, coords, ["s"] * 56), moran_i(X[order], coords[order], ["s"] * 56), atol=1e-12)


def test_moran_leaves_out_small_sections_and_refuses_nonsense():
    counts, coords, _ = tissue(n=60)
    groups = np.array(["large"] * 56 + ["tiny"] * 4)
    np.testing.assert_array_equal(moran_i(counts, coords, groups), moran_i(counts[:56], coords[:56], groups[:56]))
    with pytest.raises(DataError, match="no section is large enough"):
        moran_i(counts[:6], coords[:6], ["a"] * 6)
    with pytest.raises(DataError, match=r"expected coords \(60, 2\)"):
        moran_i(counts, coords[:, :1], groups)
    coords[3, 0] = np.nan
    with pytest.raises(DataError, match="coordinates are not finite; got 1 spots"):
        moran_i(counts, coords, groups)


@pytest.mark.parametrize("summary", ["mean", "max"])
def test_coexpression_equals_numpys_correlation(summary):
    counts, _, _ = tissue(genes=20)
    X, primary = np.log1p(counts), [4, 7, 9, 0]
    with np.errstate(invalid="ignore", divide="ignore"):
        r = np.abs(np.corrcoef(X.T))
    np.fill_diagonal(r, np.nan)
    r = r[:, [4, 7, 9]]
    varies = counts.std(axis=0) > 0
    expected = np.full(20, np.nan)
    expected[varies] = (np.nanmean if summary == "mean" else np.nanmax)(r[varies], axis=1)
    np.testing.assert_allclose(coexpression(sparse.csr_matrix(X), primary, summary=summary), expected, atol=1e-10)


def test_coexpression_without_a_varying_primary_is_undefined():
    counts, _, _ = tissue()
    assert np.isnan(coexpression(counts, [0, 1])).all()
    with pytest.raises(DataError, match=r"expected at least one integer in \[0, 59\], got \[60\]"):
        coexpression(counts, [60])


@settings(max_examples=50)
@given(st.lists(st.sampled_from([0.0, 1.0, 2.5, np.nan, -1.0, np.inf]), min_size=1, max_size=12), st.randoms())
def test_ranking_is_best_first_ties_by_name_nan_last_in_any_order(scores, random):
    names = [f"g{i:02d}" for i in range(len(scores))]
    expected = sorted(
        zip(scores, names), key=lambda one: (np.isnan(one[0]), -one[0] if one[0] == one[0] else 0, one[1])
    )
    shuffled = random.sample(list(zip(scores, names)), len(scores))
    order = rank_genes([score for score, _ in shuffled], pd.Index([name for _, name in shuffled]))
    assert [shuffled[i][1] for i in order] == [name for _, name in expected]


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_values_that_are_not_finite_are_refused(bad):
    X = np.ones((4, 3))
    X[0, 0] = bad
    for score in (hvg_scores, dispersion, detection_rate, mean_expression):
        with pytest.raises(DataError, match="not finite; got 1 of them"):
            score(sparse.csr_matrix(X))


def test_wrong_matrices_are_refused():
    with pytest.raises(DataError, match="too small; expected at least 0.0, got -1.0"):
        hvg_scores(-np.eye(3))
    with pytest.raises(DataError, match="at least two observations"):
        hvg_scores(np.ones((1, 3)))
    with pytest.raises(DataError, match="not a matrix of numbers"):
        mean_expression(np.array([["a"]]))
    with pytest.raises(DataError, match="not a matrix of numbers"):
        mean_expression(np.ones(3))
    with pytest.raises(DataError, match="one score for each of 2 names"):
        rank_genes([1.0], ["a", "b"])
