import numpy as np
import pandas as pd
import pytest
from anndata import AnnData
from scipy import sparse
from sklearn.preprocessing import StandardScaler

from expressor.core.errors import DataError, GeneError
from expressor.data import Recipe, expression, expression_sparse
from expressor.genes import hvg_scores, rank_genes


def cells(n=60, genes=30, seed=0):
    rng = np.random.default_rng(seed)
    X = rng.negative_binomial(2, 2 / (2 + rng.gamma(0.5, 4, genes)), (n, genes)).astype(np.float32)
    X[:, 4] = 0
    obs, var = (
        pd.DataFrame(index=[f"c{seed}_{i}" for i in range(n)]),
        pd.DataFrame(index=[f"G{i}" for i in range(genes)]),
    )
    return AnnData(sparse.csr_matrix(X), obs=obs, var=var)


@pytest.mark.parametrize("scale", ["log1p_cp10k", "log1p_counts"])
def test_it_is_fitted_on_train_and_replayed(scale):
    train, test = cells(), cells(n=20, seed=1)
    fitted = Recipe(n_genes=8, scale=scale).fit(train)
    order = rank_genes(hvg_scores(expression_sparse(train, scale=scale)), train.var_names)[:8]
    assert fitted.genes.names == tuple(train.var_names[order])
    scaler = StandardScaler().fit(expression(train, fitted.genes, scale=scale).astype(np.float64))
    expected = scaler.transform(expression(test, fitted.genes, scale=scale))
    got = fitted.apply(test)
    assert got.dtype == np.float32
    np.testing.assert_allclose(got, expected, atol=1e-5)
    np.testing.assert_allclose(fitted.restore(got), expression(test, fitted.genes, scale=scale), atol=1e-5)


def test_the_order_of_genes_does_not_matter():
    train = cells()
    order = np.random.default_rng(2).permutation(30)
    one, other = Recipe(n_genes=8).fit(train), Recipe(n_genes=8).fit(train[:, order])
    assert one.genes == other.genes
    np.testing.assert_array_equal(one.apply(train), other.apply(train[:, order]))


def test_constant_genes_are_centred_and_never_divided_by_zero():
    train = cells()
    values = Recipe().fit(train).apply(train)
    assert np.isfinite(values).all()
    assert (values[:, 4] == 0).all()
    plain = Recipe(standardise=False).fit(train)
    np.testing.assert_array_equal(plain.apply(train), expression(train, scale="log1p_cp10k"))


def test_a_given_pool_is_kept_to():
    pool = ["G9", "G3", "G7", "G1"]
    fitted = Recipe(n_genes=2).fit(cells(), genes=pool)
    assert set(fitted.genes) < set(pool)


def test_wrong_use_is_refused():
    with pytest.raises(
        DataError, match="too few genes vary in the training data; expected at least n_genes=30, got 2\\d"
    ):
        Recipe(n_genes=30).fit(cells())
    with pytest.raises(DataError, match="unknown ranking 'hgv'"):
        Recipe(n_genes=3, ranking="hgv").fit(cells())
    with pytest.raises(DataError, match="n_genes is out of range"):
        Recipe(n_genes=0).fit(cells())
    with pytest.raises(GeneError, match="1 of 30 needed genes are missing from the data"):
        Recipe().fit(cells()).apply(cells()[:, 1:])
