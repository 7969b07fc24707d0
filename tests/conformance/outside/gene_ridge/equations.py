"""The two equations of ridge regression, in its paper's symbols."""

import torch
from torch import Tensor

from expressor.core.equations import equation


@equation(
    "gene_ridge", "1", meaning="penalised sum of squares, divided by the number of observations",
    latex=r"\frac{1}{n}\left(\lVert Y - X\beta\rVert^2 + k \lVert\beta\rVert^2\right)",
    fidelity="paper", source="section 2",
)  # fmt: skip
def penalised_squares(X: Tensor, Y: Tensor, beta: Tensor, k: float, n: int) -> Tensor:
    """Return the objective for the rows ``X`` (spot, dim), ``Y`` (spot, gene) out of ``n``, and ``beta`` (dim, gene)."""
    return (Y - X @ beta).square().sum() / len(X) + k * beta.square().sum() / n


@equation(
    "gene_ridge", "2", meaning="its minimum", latex=r"\hat\beta = (X^T X + kI)^{-1} X^T Y", fidelity="paper", source="eq. 2.1"
)  # fmt: skip
def ridge(X: Tensor, Y: Tensor, k: float) -> Tensor:
    """Return the minimiser of :func:`penalised_squares`, (dim, gene)."""
    return torch.linalg.solve(X.T @ X + k * torch.eye(X.shape[1], dtype=X.dtype), X.T @ Y)
