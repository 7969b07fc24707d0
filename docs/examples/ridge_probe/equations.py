"""The equations, each a function of arrays in the paper's symbols."""

import numpy as np

from expressor.core.equations import equation


@equation(
    "ridge_probe", "1",
    meaning="ridge estimate of the coefficients",
    latex=r"\hat\beta^* = (X^\top X + k I)^{-1} X^\top Y, \qquad k > 0",
    fidelity="paper",
    source="abstract: positive quantities are added to the diagonal of X'X",
)  # fmt: skip
def ridge(X: np.ndarray, Y: np.ndarray, k: float) -> np.ndarray:
    """Return float64 (dim, gene) from features X (spot, dim) and expression Y (spot, gene)."""
    return np.linalg.solve(X.T @ X + k * np.eye(X.shape[1]), X.T @ Y)


@equation(
    "ridge_probe", "I1",
    meaning="prediction with an intercept that is not penalised",
    latex=r"\hat Y = \bar Y + (X - \bar X)\,\hat\beta^*",
    fidelity="inferred",
    source="the paper standardises; centring keeps the penalty off the intercept",
)  # fmt: skip
def predict(X: np.ndarray, X_mean: np.ndarray, Y_mean: np.ndarray, beta: np.ndarray) -> np.ndarray:
    """Return float64 (spot, gene) from features X (spot, dim) and the means of the fit."""
    return Y_mean + (X - X_mean) @ beta
