"""Each equation against its definition, and the alternation against the textbook's iterated thresholding."""

import numpy as np
import pytest
import torch
from torch import Tensor

from expressor.systems.soft_impute import completion, equations


def table(n: int = 25, p: int = 15, *, missing: float = 0.3, seed: int = 0) -> tuple[Tensor, Tensor]:
    rng = np.random.default_rng(seed)
    Z = torch.from_numpy(rng.normal(size=(n, 3)) @ rng.normal(size=(3, p)) + 0.3 * rng.normal(size=(n, p)))
    known = torch.from_numpy(rng.random((n, p)) >= missing)
    return torch.where(known, Z, 0.0), known


def iterate(Z: Tensor, known: Tensor, lam: float, rounds: int = 3000) -> Tensor:
    """Soft-impute as it was first written: fill, threshold the singular values, again."""
    M = torch.zeros_like(Z)
    for _ in range(rounds):
        u, d, v = torch.linalg.svd(torch.where(known, Z, M), full_matrices=False)
        M = u * (d - lam).clamp(min=0.0) @ v
    return M


@pytest.mark.covers("S1", "S2", "S3", "S4")
@pytest.mark.parametrize("shape", [(25, 15), (15, 25)])
def test_alternation_ends_where_thresholding_does(shape: tuple[int, int]) -> None:
    Z, known = table(*shape)
    expected = iterate(Z, known, 2.0)
    found = completion.complete(Z, known, 2.0, rank=15, tolerance=1e-14, max_rounds=3000)
    torch.testing.assert_close(found.A @ found.B.T, expected, atol=5e-5, rtol=0.0)
    of_table = equations.nuclear_objective(Z, known, found.A @ found.B.T, 2.0)
    torch.testing.assert_close(
        equations.factor_objective(Z, known, found.A, found.B, 2.0), of_table, rtol=1e-6, atol=1e-6
    )
    for shift in (-0.02, 0.02):
        worse = equations.nuclear_objective(Z, known, expected * (1 + shift), 2.0)
        assert float(worse) > float(of_table)


@pytest.mark.covers("S3")
def test_without_gaps_it_is_one_thresholding() -> None:
    Z, _ = table(missing=0.0)
    known = torch.ones_like(Z, dtype=torch.bool)
    u, d, v = torch.linalg.svd(Z, full_matrices=False)
    expected = u * equations.soft_threshold(d, 3.0) @ v
    found = completion.complete(Z, known, 3.0, rank=15, tolerance=1e-12, max_rounds=500)
    torch.testing.assert_close(found.A @ found.B.T, expected, atol=1e-6, rtol=0.0)
    assert found.A.shape[1] == int((d > 3.0).sum())
    torch.testing.assert_close(found.A.square().sum(0), found.B.square().sum(0))


@pytest.mark.covers("S4", "S5")
def test_ridge_regression_is_where_the_gradient_vanishes() -> None:
    rng = np.random.default_rng(1)
    filled, A = torch.from_numpy(rng.normal(size=(9, 6))), torch.from_numpy(rng.normal(size=(9, 2)))
    B = equations.ridge_factor(filled, A, 0.7)
    torch.testing.assert_close(A.T @ (A @ B.T - filled) + 0.7 * B.T, torch.zeros(2, 6).double(), atol=1e-12, rtol=0.0)
    z = torch.from_numpy(rng.normal(size=(4, 6)))
    torch.testing.assert_close(equations.sample_factors(z, B, 0.7), equations.ridge_factor(z.T, B, 0.7))


@pytest.mark.covers("S5")
def test_samples_of_the_fit_get_what_the_fit_gave_them() -> None:
    Z, known = table(40, 20)
    found = completion.complete(Z, known, 1.5, rank=10, tolerance=1e-15, max_rounds=5000)
    for row in range(5):
        seen = torch.nonzero(known[row]).squeeze(1)
        a = equations.sample_factors(Z[row : row + 1, seen], found.B[seen], 1.5)
        torch.testing.assert_close(a[0], found.A[row], atol=1e-5, rtol=0.0)


def test_a_path_started_warm_ends_where_a_cold_start_does() -> None:
    Z, known = table()
    start = completion.complete(Z, known, 4.0, rank=15, tolerance=1e-14, max_rounds=3000)
    warm = completion.complete(Z, known, 1.0, rank=15, tolerance=1e-14, max_rounds=3000, start=start)
    cold = completion.complete(Z, known, 1.0, rank=15, tolerance=1e-14, max_rounds=3000)
    torch.testing.assert_close(warm.A @ warm.B.T, cold.A @ cold.B.T, atol=1e-4, rtol=0.0)
    assert start.A.shape[1] < warm.A.shape[1]


@pytest.mark.covers("S5", "S6")
def test_the_variance_is_that_of_the_errors_under_a_joint_normal_distribution() -> None:
    rng = np.random.default_rng(2)
    B, lam, noise = rng.normal(size=(9, 3)), 1.7, 0.4
    D = np.cov(rng.normal(size=(3, 20)))
    joint = B @ D @ B.T + noise * np.eye(9)
    o, h = np.arange(5), np.arange(5, 9)
    # The rows of E take a whole sample to the errors of its restored values.
    weights = equations.sample_factors(torch.eye(5).double(), torch.from_numpy(B[o]), lam).numpy() @ B[h].T
    E = np.hstack([-weights.T, np.eye(4)])
    found = equations.restored_variance(torch.from_numpy(B[o]), torch.from_numpy(B[h]), lam, torch.from_numpy(D), noise)
    np.testing.assert_allclose(found.numpy(), np.diag(E @ joint @ E.T), atol=1e-12)
