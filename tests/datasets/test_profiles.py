"""The simulator of bulk profiles keeps to its stated truth."""

import numpy as np
import pytest

from expressor.core.errors import DataError
from expressor.data import detect_scale, fingerprint
from expressor.datasets import example, simulate_bulk


def test_layout():
    adata = example("bulk")
    assert adata.shape == (60, 40)
    assert adata.X.dtype == np.float32
    assert np.isfinite(adata.X).all()
    assert adata.X.min() >= 0
    assert detect_scale(adata.X).name == adata.uns["unit"] == "log2(TPM+1)"
    assert adata.obs["event"].dtype == bool
    assert (adata.obs["time"] > 0).all()
    assert adata.obs["cancer_type"].value_counts().tolist() == [20, 20, 20]
    assert example("bulk", n=9).n_obs == 9


def test_seeds_are_new_patients_of_one_population():
    first, second = example("bulk"), example("bulk", seed=1)
    assert first.var.equals(second.var)
    assert not set(first.obs["patient"]) & set(second.obs["patient"])
    assert fingerprint(first) == fingerprint(example("bulk"))
    assert fingerprint(first) != fingerprint(second)


def test_it_can_be_written(tmp_path):
    example("bulk").write_h5ad(tmp_path / "bulk.h5ad")


def test_covariance_and_means_are_those_of_the_truth():
    adata = simulate_bulk(n_patients=6000, n_types=1, noise=0.5)
    truth = adata.uns["truth"]
    wanted = truth["loadings"] @ truth["loadings"].T + 0.25 * np.eye(40)
    high = truth["mean"] + truth["shift"][:, 0] > 5.0  # never cut off at 0
    got = np.cov(adata.X[:, high], rowvar=False)
    np.testing.assert_allclose(got, wanted[np.ix_(high, high)], atol=0.1)
    np.testing.assert_allclose(adata.X.mean(axis=0)[high], (truth["mean"] + truth["shift"][:, 0])[high], atol=0.07)


def test_outcomes_follow_the_first_factor():
    """The maximum of the exponential likelihood, which the data were drawn from, is where it was planted."""
    adata = simulate_bulk(n_patients=4000, log_hazard=0.8, censored=0.4, median_days=900)
    factor, time, event = adata.obsm["factors"][:, 0], adata.obs["time"].to_numpy(), adata.obs["event"].to_numpy()
    assert abs(event.mean() - 0.6) < 0.03
    design = np.stack([np.ones_like(factor), factor], axis=1)
    weights = np.array([-np.log(time.mean()), 0.0])
    for _ in range(30):
        expected = time * np.exp(design @ weights)
        weights += np.linalg.solve(design.T * expected @ design, design.T @ (event - expected))
    assert abs(weights[1] - 0.8) < 0.06
    assert abs(np.log(2) / np.exp(weights[0]) - 900) < 60


def test_roles():
    adata = simulate_bulk(n_patients=3000, n_types=3)
    truth = adata.uns["truth"]
    survival = adata.var_names.isin(truth["survival_genes"])
    assert (adata.var["role"] == "survival").to_numpy().tolist() == survival.tolist()
    np.testing.assert_array_equal(truth["loadings"][survival, 1:], 0)
    np.testing.assert_array_equal(truth["loadings"][~survival, 0], 0)
    for gene in truth["type_genes"]:
        mean = adata.to_df()[gene].groupby(adata.obs["cancer_type"], observed=True).mean()
        assert mean.idxmax() == adata.var.loc[gene, "marks"]


def test_samples_of_one_patient_share_all_but_noise():
    adata = simulate_bulk(n_patients=5, samples_per_patient=3, noise=0.0)
    assert adata.shape == (15, 40)
    for _, rows in adata.obs.groupby("patient", observed=True).indices.items():
        assert len(rows) == 3
        np.testing.assert_array_equal(adata.X[rows[0]], adata.X[rows[1]])
    assert adata.obs.groupby("patient", observed=True)["time"].nunique().max() == 1


def test_missing_and_pipeline():
    adata = simulate_bulk(n_patients=400, missing=0.3)
    assert abs(np.isnan(adata.X).mean() - 0.3) < 0.02
    plain, shifted = simulate_bulk(), simulate_bulk(pipeline_shift=1.0)
    second = (plain.obs["pipeline"] == "P2").to_numpy()
    np.testing.assert_array_equal(plain.X[~second], shifted.X[~second])
    assert not np.allclose(plain.X[second], shifted.X[second])


@pytest.mark.parametrize(
    "wrong", [{"n_genes": 5}, {"n_types": 0}, {"n_patients": 1}, {"missing": 1.0}, {"censored": -0.1}, {"n_factors": 1}]
)
def test_sizes_are_checked(wrong):
    with pytest.raises(DataError, match=f"{next(iter(wrong))} is out of range"):
        simulate_bulk(**wrong)


def test_unlimited_hazard_is_refused():
    with pytest.raises(DataError, match="log_hazard is not finite"):
        simulate_bulk(log_hazard=float("nan"))
