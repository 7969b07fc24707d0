"""The equations of soft-impute by alternating least squares, on standardised expression.

``Z`` is expression (sample, gene) with gaps, ``Omega`` where it was measured, ``A B'`` the low-rank table, ``lam`` the penalty.
Written from general knowledge of the method; the papers' numbers were not looked up and are therefore not given.
"""

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from expressor.core.equations import equation

_KNOWN = "written from general knowledge and checked by the tests named here"


@equation(
    "soft_impute", "S1",
    meaning="the objective: squared error where something was measured, and the nuclear norm",
    latex=r"\min_M \tfrac{1}{2} \lVert P_\Omega(Z - M) \rVert_F^2 + \lambda \lVert M \rVert_*",
    fidelity="inferred", source="Mazumder, Hastie and Tibshirani 2010; " + _KNOWN,
)  # fmt: skip
def nuclear_objective(
    Z: Float[Tensor, "sample gene"], Omega: Bool[Tensor, "sample gene"], M: Float[Tensor, "sample gene"], lam: float
) -> Float[Tensor, ""]:
    """Return the objective of a table M."""
    return 0.5 * torch.where(Omega, Z - M, 0.0).square().sum() + lam * torch.linalg.svdvals(M).sum()


@equation(
    "soft_impute", "S2",
    meaning="the same in factors of limited rank",
    latex=r"\min_{A, B} \tfrac{1}{2} \lVert P_\Omega(Z - A B^\top) \rVert_F^2 "
    r"+ \tfrac{\lambda}{2} \left( \lVert A \rVert_F^2 + \lVert B \rVert_F^2 \right)",
    fidelity="inferred", source="Hastie, Mazumder, Lee and Zadeh 2015; " + _KNOWN,
)  # fmt: skip
def factor_objective(
    Z: Float[Tensor, "sample gene"], Omega: Bool[Tensor, "sample gene"], A: Float[Tensor, "sample factor"],
    B: Float[Tensor, "gene factor"], lam: float,
) -> Float[Tensor, ""]:  # fmt: skip
    """Return the objective of factors; at its minimum it equals that of ``A B'``."""
    error = torch.where(Omega, Z - A @ B.T, 0.0).square().sum()
    return 0.5 * error + lam / 2 * (A.square().sum() + B.square().sum())


@equation(
    "soft_impute", "S3",
    meaning="soft-thresholded singular values: the minimum where nothing is missing",
    latex=r"S_\lambda(X) = U (D - \lambda)_+ V^\top, \qquad X = U D V^\top",
    fidelity="inferred", source="Mazumder, Hastie and Tibshirani 2010; " + _KNOWN,
)  # fmt: skip
def soft_threshold(D: Float[Tensor, " factor"], lam: float) -> Float[Tensor, " factor"]:
    """Return singular values moved towards 0 by lam."""
    return (D - lam).clamp(min=0.0)


@equation(
    "soft_impute", "S4",
    meaning="one half-step: gaps are filled from the present factors, and one side is fitted by ridge regression on the other",
    latex=r"B \leftarrow \tilde Z^\top A (A^\top A + \lambda I)^{-1}, "
    r"\qquad \tilde Z = P_\Omega(Z) + P_\Omega^\perp(A B^\top)",
    fidelity="inferred", source="Hastie, Mazumder, Lee and Zadeh 2015; " + _KNOWN,
)  # fmt: skip
def ridge_factor(
    filled: Float[Tensor, "sample gene"], A: Float[Tensor, "sample factor"], lam: float
) -> Float[Tensor, "gene factor"]:
    """Return B for the filled table and A."""
    inner = A.T @ A + lam * torch.eye(A.shape[1], dtype=A.dtype)
    return torch.linalg.solve(inner, A.T @ filled).T


@equation(
    "soft_impute", "S5",
    meaning="a new sample: its factors by ridge regression on what was measured of it, then every gene",
    latex=r"a = (B_o^\top B_o + \lambda I)^{-1} B_o^\top z_o, \qquad \hat z_h = B_h a",
    fidelity="inferred",
    source="ours: the minimum of S2 over one row with B fixed, so that samples of the fit get what the fit gave them",
)  # fmt: skip
def sample_factors(
    z_o: Float[Tensor, "sample observed"], B_o: Float[Tensor, "observed factor"], lam: float
) -> Float[Tensor, "sample factor"]:
    """Return a of samples that share what was measured."""
    return ridge_factor(z_o.T, B_o, lam)


@equation(
    "soft_impute", "S6",
    meaning="expected squared error of S5: factors that the penalty holds back, noise of what was measured, noise of the value",
    latex=r"v_h = B_h M \left( \lambda^2 D + \sigma^2 B_o^\top B_o \right) M B_h^\top + \sigma^2, \qquad "
    r"M = (B_o^\top B_o + \lambda I)^{-1}",
    fidelity="inferred",
    source="ours: for factors with the covariance D and noise of variance sigma^2; samples of the fit have D = B'B / n",
)  # fmt: skip
def restored_variance(
    B_o: Float[Tensor, "observed factor"], B_h: Float[Tensor, "target factor"], lam: float,
    D: Float[Tensor, "factor factor"], noise: float,
) -> Float[Tensor, " target"]:  # fmt: skip
    """Return v of the targets, in squared standard deviations; ``noise`` is sigma^2."""
    inner = B_o.T @ B_o
    along = torch.linalg.solve(inner + lam * torch.eye(len(inner), dtype=inner.dtype), B_h.T)
    return (along * ((lam**2 * D + noise * inner) @ along)).sum(0) + noise
