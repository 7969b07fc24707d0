"""Soft-impute by alternating least squares with a limit on the rank, and the choice of its penalty on hidden values."""

from dataclasses import dataclass

import torch
from torch import Tensor

from expressor.core.log import logger
from expressor.systems.soft_impute import equations

_RATIO = 0.02  # smallest penalty tried, as a part of the largest singular value


@dataclass(frozen=True, eq=False)
class Factors:
    """``A`` (sample, factor) and ``B`` (gene, factor), balanced: both are singular vectors times roots of singular values."""

    A: Tensor
    B: Tensor
    rounds: int
    converged: bool


def complete(
    Z: Tensor, known: Tensor, lam: float, *, rank: int, tolerance: float, max_rounds: int, start: Factors | None = None
) -> Factors:
    """Minimise S2 by alternating ridge regressions on the filled table, and trim to the singular values that are left.

    Parameters
    ----------
    Z
        Standardised values, float64 (sample, gene), 0 in gaps.
    known
        bool (sample, gene).
    lam, rank, tolerance, max_rounds
        Penalty; most factors; it ends when the table changes by less than this part of its squared size; most rounds.
    start
        Factors of a larger penalty.
    """
    rank = min(rank, *Z.shape)
    if start is None:
        A, B = _first(Z, rank)
    else:
        A, B = _widened(start, Z, known, rank)
    converged, rounds = False, 0
    while not converged and rounds < max_rounds:
        rounds += 1
        old_A, old_B = A, B
        B = equations.ridge_factor(torch.where(known, Z, A @ B.T), A, lam)
        A, B = _balanced(A, B)
        A = equations.ridge_factor(torch.where(known, Z, A @ B.T).T, B, lam)
        A, B = _balanced(A, B)
        converged = _change(old_A, old_B, A, B) < tolerance
    if not converged:
        logger.info("soft-impute had not settled after %d rounds at penalty %.3g", max_rounds, lam)
    A, B = _trimmed(torch.where(known, Z, A @ B.T), B, lam)
    return Factors(A, B, rounds, converged)


def _first(Z: Tensor, rank: int) -> tuple[Tensor, Tensor]:
    """Leading singular vectors of the table with gaps at 0; no chance is involved."""
    n, p = Z.shape
    gram = Z @ Z.T if n <= p else Z.T @ Z
    values, vectors = torch.linalg.eigh(gram)
    values, vectors = values.flip(0)[:rank].clamp(min=1e-12).sqrt(), vectors.flip(1)[:, :rank]
    other = (Z.T @ vectors if n <= p else Z @ vectors) / values
    left, right = (vectors, other) if n <= p else (other, vectors)
    return left * values.sqrt(), right * values.sqrt()


def _widened(start: Factors, Z: Tensor, known: Tensor, rank: int) -> tuple[Tensor, Tensor]:
    """Factors to go on from, with room for those that a smaller penalty lets in."""
    extra = rank - start.A.shape[1]
    if extra <= 0:
        return start.A[:, :rank], start.B[:, :rank]
    A, B = _first(torch.where(known, Z - start.A @ start.B.T, 0.0), min(extra, rank))
    return torch.cat([start.A, A], dim=1), torch.cat([start.B, B], dim=1)


def _balanced(A: Tensor, B: Tensor) -> tuple[Tensor, Tensor]:
    """The same product, from orthogonal columns of equal lengths."""
    (q_a, r_a), (q_b, r_b) = torch.linalg.qr(A), torch.linalg.qr(B)
    u, d, v = torch.linalg.svd(r_a @ r_b.T)
    root = d.sqrt()
    return q_a @ u * root, q_b @ v.T * root


def _trimmed(filled: Tensor, B: Tensor, lam: float) -> tuple[Tensor, Tensor]:
    """A last thresholding in the space of B, after which penalised factors are exactly gone."""
    basis = torch.linalg.qr(B).Q
    u, d, v = torch.linalg.svd(filled @ basis, full_matrices=False)
    d = equations.soft_threshold(d, lam)
    keep = d > 1e-9 * d[0].clamp(min=1e-300)
    root = d[keep].sqrt()
    right = basis @ v.T[:, keep]
    sign = torch.where(right.gather(0, right.abs().argmax(dim=0, keepdim=True)) < 0, -1.0, 1.0)
    return u[:, keep] * root * sign, right * root * sign


def _change(old_A: Tensor, old_B: Tensor, A: Tensor, B: Tensor) -> float:
    """Squared change of the product over its squared size, without making the product."""
    new, old = (A.T @ A * (B.T @ B)).sum(), (old_A.T @ old_A * (old_B.T @ old_B)).sum()
    cross = (old_A.T @ A * (old_B.T @ B)).sum()
    return float((new + old - 2 * cross).clamp(min=0.0) / old.clamp(min=1e-300))


def penalty_grid(Z: Tensor, n: int) -> list[float]:
    """Return ``n`` penalties, evenly in their logarithm, falling from half the largest singular value."""
    top = float(torch.linalg.matrix_norm(Z, ord=2))
    return [top / 2 * (2 * _RATIO) ** (i / max(n - 1, 1)) for i in range(n)]


def choose_penalty(
    Z: Tensor, known: Tensor, hidden: Tensor, *, n: int, rank: int, tolerance: float, max_rounds: int
) -> tuple[list[float], list[float], list[int], list[int]]:
    """Try falling penalties with some known values hidden; end where two in a row restore them worse.

    Returns
    -------
    Penalties, root mean squared errors of the hidden values, ranks, rounds.
    """
    kept = known & ~hidden
    held = torch.where(kept, Z, 0.0)
    tried, errors, ranks, rounds = [], [], [], []
    found: Factors | None = None
    for lam in penalty_grid(held, n):
        found = complete(held, kept, lam, rank=rank, tolerance=tolerance, max_rounds=max_rounds, start=found)
        error = (found.A @ found.B.T - Z)[hidden].square().mean().sqrt()
        tried.append(lam)
        errors.append(float(error))
        ranks.append(found.A.shape[1])
        rounds.append(found.rounds)
        if len(errors) > 2 and errors[-1] > errors[-2] > errors[-3]:
            break
    return tried, errors, ranks, rounds
