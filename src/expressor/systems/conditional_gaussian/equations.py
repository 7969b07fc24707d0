"""The equations, each as the textbook writes it, on whole matrices.

The estimator computes the same by :mod:`expressor.nn.gaussian`, which never makes a matrix of gene by gene where there are many
genes. The formulas are standard; they were not looked up in the papers, whose numbers are therefore not given.
"""

import math

import torch
from jaxtyping import Float, Int
from torch import Tensor

from expressor.core.equations import equation
from expressor.estimator import intervals

_TEXTBOOK = "standard formula, written from general knowledge and checked by the tests named here"


@equation(
    "conditional_gaussian", "G1",
    meaning="covariance of standardised genes: correlation, shrunk towards independence",
    latex=r"\Sigma = (1 - s) R + s I, \qquad R = \tfrac{1}{n} Z^\top Z",
    fidelity="inferred", source="Ledoit and Wolf 2004 for standardised variables; " + _TEXTBOOK,
)  # fmt: skip
def shrunk_correlation(Z: Float[Tensor, "sample gene"], s: float) -> Float[Tensor, "gene gene"]:
    """Return Sigma from standardised expression Z and the shrinkage s."""
    return (1 - s) * Z.T @ Z / len(Z) + s * torch.eye(Z.shape[1], dtype=Z.dtype)


@equation(
    "conditional_gaussian", "G2",
    meaning="restored genes h given observed genes o: the conditional mean, which is ridge regression on o",
    latex=r"\mathrm{E}[z_h \mid z_o] = \Sigma_{ho} \Sigma_{oo}^{-1} z_o",
    fidelity="inferred", source=_TEXTBOOK,
)  # fmt: skip
def conditional_mean(
    z_o: Float[Tensor, "sample observed"], Sigma: Float[Tensor, "gene gene"], o: Int[Tensor, " observed"],
    h: Int[Tensor, " target"],
) -> Float[Tensor, "sample target"]:  # fmt: skip
    """Return the conditional mean of the genes at the positions h given those at o."""
    return z_o @ torch.linalg.solve(Sigma[o[:, None], o], Sigma[o[:, None], h])


@equation(
    "conditional_gaussian", "G3",
    meaning="how uncertain a restored gene is; it depends on what was observed, not on the values",
    latex=r"\mathrm{Var}[z_h \mid z_o] = \mathrm{diag}(\Sigma_{hh} - \Sigma_{ho} \Sigma_{oo}^{-1} \Sigma_{oh})",
    fidelity="inferred", source=_TEXTBOOK,
)  # fmt: skip
def conditional_variance(
    Sigma: Float[Tensor, "gene gene"], o: Int[Tensor, " observed"], h: Int[Tensor, " target"]
) -> Float[Tensor, " target"]:
    """Return the conditional variances of the genes at the positions h given those at o."""
    across = Sigma[o[:, None], h]
    return Sigma[h, h] - (across * torch.linalg.solve(Sigma[o[:, None], o], across)).sum(0)


@equation(
    "conditional_gaussian", "G4",
    meaning="the same through factors: their posterior mean, from a system of the size of the factors",
    latex=r"\mathrm{E}[f \mid z_o] = (I + F_o^\top D_o^{-1} F_o)^{-1} F_o^\top D_o^{-1} z_o, \qquad \Sigma = F F^\top + D",
    fidelity="inferred", source="identity of Woodbury; " + _TEXTBOOK,
)  # fmt: skip
def posterior_factors(
    z_o: Float[Tensor, "sample observed"], F_o: Float[Tensor, "observed factor"], D_o: Float[Tensor, " observed"]
) -> Float[Tensor, "sample factor"]:
    """Return the posterior mean of the factors; ``F_h`` times it is the conditional mean of unobserved genes."""
    inner = torch.eye(F_o.shape[1], dtype=F_o.dtype) + F_o.T @ (F_o / D_o[:, None])
    return torch.linalg.solve(inner, F_o.T @ (z_o / D_o).T).T


@equation(
    "conditional_gaussian", "G5",
    meaning="how the shrinkage is chosen by default: the log density of held-out samples",
    latex=r"\log p(z) = -\tfrac{1}{2} \left( z^\top \Sigma^{-1} z + \log |\Sigma| + p \log 2\pi \right)",
    fidelity="inferred", source=_TEXTBOOK,
)  # fmt: skip
def log_density(z: Float[Tensor, "sample gene"], Sigma: Float[Tensor, "gene gene"]) -> Float[Tensor, " sample"]:
    """Return the log density of each sample."""
    quadratic = (z * torch.linalg.solve(Sigma, z.T).T).sum(1)
    return -0.5 * (quadratic + torch.linalg.slogdet(Sigma).logabsdet + z.shape[1] * math.log(2 * math.pi))


@equation(
    "conditional_gaussian", "G6",
    meaning="the shrinkage of Ledoit and Wolf: spread of the sample covariance over its distance from the target",
    latex=r"s = \min\left(1, \frac{\frac{1}{n^2} \sum_i \lVert z_i z_i^\top - R \rVert^2}{\lVert R - \mu I \rVert^2}\right), "
    r"\qquad \mu = \tfrac{1}{p} \mathrm{tr} R",
    fidelity="inferred", source="Ledoit and Wolf 2004; compared with scikit-learn's implementation",
)  # fmt: skip
def ledoit_wolf_shrinkage(Z: Float[Tensor, "sample gene"]) -> Float[Tensor, ""]:
    """Return the shrinkage s for centred Z."""
    n, p = Z.shape
    R = Z.T @ Z / n
    spread = sum(((torch.outer(z, z) - R).square().sum() for z in Z), torch.zeros((), dtype=Z.dtype)) / n**2
    distance = (R - R.trace() / p * torch.eye(p, dtype=Z.dtype)).square().sum()
    return (spread / distance).clamp(max=1.0)


@equation(
    "conditional_gaussian", "G7",
    meaning="bounds of a restored value: its standard error, times what held-out values of the gene needed",
    latex=r"\hat x_g \pm q_\gamma \, c_g \, \sigma_g \sqrt{\mathrm{Var}[z_g \mid z_o]}, \qquad "
    r"c_g^2 = \frac{\nu + \sum_i r_{ig}^2}{\nu + n_g}",
    fidelity="inferred", source="ours: r are held-out errors in standard errors, q their quantile at coverage gamma",
)  # fmt: skip
def gene_inflation(squares: Float[Tensor, " gene"], n: Float[Tensor, " gene"], nu: float) -> Float[Tensor, " gene"]:
    """Return c of each gene from its summed squared errors and their number; nu errors of size 1 are added."""
    return intervals.gene_inflation(squares, n, nu)
