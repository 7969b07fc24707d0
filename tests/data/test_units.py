"""Scales are told apart, claims are checked, conversions are right."""

import numpy as np
import pandas as pd
import pytest
from anndata import AnnData
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import sparse

from expressor.core.errors import DataError
from expressor.data import BULK_SCALES, check_same_unit, check_unit, detect_scale, to_log2, unit_of
from expressor.data.units import family


def profiles(seed=0, samples=30, genes=400):
    """Counts with a realistic spread, and what is made of them."""
    rng = np.random.default_rng(seed)
    rate = rng.lognormal(4, 2, size=genes) * rng.lognormal(0, 0.5, size=(samples, genes))
    counts = rng.poisson(rate).astype(np.float64)
    tpm = rate / rate.sum(axis=1, keepdims=True) * 1e6
    log = np.log2(tpm + 1)
    return {
        "counts": counts,
        "TPM": tpm,
        "log2(TPM+1)": log,
        "log1p_cp10k": np.log1p(counts / counts.sum(axis=1, keepdims=True) * 1e4),
        "z-score": (log - log.mean(axis=0)) / log.std(axis=0),
        "log ratio": (log - np.median(log, axis=0)) * np.linspace(0.3, 3, log.shape[1]),
    }


@given(seed=st.integers(0, 50), name=st.sampled_from(BULK_SCALES))
@settings(max_examples=40, deadline=None)
def test_scales_are_told_apart(seed, name):
    X = profiles(seed)[name]
    assert detect_scale(X).name == name
    assert detect_scale(X.astype(np.float32)).name == name


def test_all_of_them_are_sure_and_give_reasons():
    for name, X in profiles().items():
        found = detect_scale(X)
        assert found.sure, name
        assert str(found).startswith(f"{name}: ")


def test_part_of_the_genes_of_a_logarithm_is_a_guess():
    found = detect_scale(np.log1p(profiles()["TPM"][:, :20] / 1e3))
    assert not found.sure
    assert "(a guess)" in str(found)


def test_missing_values_do_not_matter():
    for name in ("counts", "z-score", "log ratio"):
        X = profiles()[name].copy()
        X[np.random.default_rng(0).random(X.shape) < 0.2] = np.nan
        assert detect_scale(X).name == name


def test_sparse_counts():
    X = profiles()["counts"]
    assert detect_scale(sparse.csr_matrix(X)) == detect_scale(X) == detect_scale(sparse.csc_matrix(X))


def test_pseudo_count_of_a_thousandth_is_recognised():
    X = np.log2(np.maximum(profiles()["TPM"] - 300, 0) + 0.001)
    found = detect_scale(X)
    assert found.name == "log ratio"
    assert "plus 0.001" in str(found)


@pytest.mark.parametrize(
    ("X", "message"),
    [
        (np.full((3, 3), np.nan), "nothing was measured"),
        (np.array([[1.0, np.inf], [2.0, 3.0]]), "infinite values; got 1 of those examined"),
        (np.array([["a"]]), "no matrix of real numbers"),
    ],
)
def test_no_scale(X, message):
    with pytest.raises(DataError, match=message):
        detect_scale(X)


@pytest.mark.parametrize(
    ("unit", "wanted"),
    [
        ("log2(RSEM+1)", "log2(TPM+1)"),
        ("log2(x + 1)", "log2(TPM+1)"),
        ("log2(TPM+0.001)", "log ratio"),
        ("log2", "log ratio"),
        ("log ratio", "log ratio"),
        ("raw counts", "counts"),
        ("mRNA z-scores per cohort", "z-score"),
        ("log1p_cp10k", "log1p_cp10k"),
        ("CPM", "TPM"),
    ],
)
def test_units_as_people_write_them(unit, wanted):
    assert family(unit) == wanted


def test_unknown_unit_is_refused():
    with pytest.raises(DataError, match="unknown unit 'quantiles'"):
        family("quantiles")


def bulk(X, unit=None):
    names = [f"G{i}" for i in range(X.shape[1])]
    adata = AnnData(np.asarray(X, dtype=np.float32), var=pd.DataFrame(index=names))
    if unit is not None:
        adata.uns["unit"] = unit
    return adata


def test_a_claim_that_the_values_refute_is_refused():
    made = profiles()
    with pytest.raises(DataError, match=r"says 'log2\(TPM\+1\)', but the values are counts.*whole numbers"):
        unit_of(bulk(made["counts"], "log2(TPM+1)"))
    with pytest.raises(DataError, match="but the values are z-score"):
        unit_of(bulk(made["z-score"], "log2(RSEM+1)"))
    assert unit_of(bulk(made["log2(TPM+1)"], "log2(RSEM+1)")) == "log2(RSEM+1)"
    assert unit_of(bulk(made["counts"])) == "counts"


def test_a_scale_that_cannot_be_used_is_refused_with_the_way_out():
    made = profiles()
    with pytest.raises(DataError, match=r"GexBERT cannot use counts; expected log2\(TPM\+1\), got counts\. .*to_log2"):
        check_unit(bulk(made["counts"]), ["log2(TPM+1)"], who="GexBERT")
    with pytest.raises(DataError, match="cannot be turned back"):
        check_unit(bulk(made["z-score"]), ["log2(TPM+1)"], who="GexBERT")
    assert check_unit(bulk(made["z-score"]), BULK_SCALES, who="GexBERT") == "z-score"


def test_predicting_on_another_scale_is_refused(caplog):
    made = profiles()
    with pytest.raises(
        DataError, match="another scale than those of the fit; expected z-score, got counts.*Give z-scores"
    ):
        check_same_unit("z-score", bulk(made["counts"]))
    with pytest.raises(DataError, match="got z-score.*cannot be turned back: give the values"):
        check_same_unit("log2(TPM+1)", bulk(made["z-score"]))
    check_same_unit("log2(TPM+1)", bulk(made["log2(TPM+1)"], "log2(RSEM+1)"))
    assert "results may be shifted" in caplog.text


def test_logarithm():
    made = profiles()
    cpm = made["counts"] / made["counts"].sum(axis=1, keepdims=True) * 1e6
    for name, wanted, unit in (
        ("counts", np.log2(cpm + 1), "log2(CPM+1)"),
        ("log1p_cp10k", np.log2(cpm + 1), "log2(CPM+1)"),
        ("TPM", made["log2(TPM+1)"], "log2(TPM+1)"),
        ("log2(TPM+1)", made["log2(TPM+1)"], None),
    ):
        given_ = bulk(made[name])
        got = to_log2(given_)
        np.testing.assert_allclose(got.X, wanted, rtol=2e-4, atol=2e-4)
        assert got.uns.get("unit") == unit
        assert got is not given_
    with pytest.raises(DataError, match="z-score cannot be turned"):
        to_log2(bulk(made["z-score"]))
    empty = made["counts"].copy()
    empty[3] = 0
    with pytest.raises(DataError, match="1 samples have no counts, such as '3'"):
        to_log2(bulk(empty))
