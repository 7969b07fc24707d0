"""Elastic-net Cox regression for a falling series of penalties, each started where the last one ended."""

import torch
from torch import Tensor

from expressor.core.log import logger
from expressor.nn.cox import PartialLikelihood
from expressor.systems.penalised_cox import equations

_TOLERANCE = 1e-7  # relative change of the objective at which a fit ends
_MOST_STEPS = 2000


def alpha_grid(x: Tensor, likelihood: PartialLikelihood, rho: float, *, n: int, ratio: float) -> list[float]:
    """Return ``n`` penalties, evenly in their logarithm, from the one that leaves nothing down to ``ratio`` of it."""
    gradient = _gradient(x, likelihood, torch.zeros(x.shape[1], dtype=torch.float64))
    top = float(equations.largest_alpha(gradient, rho))
    return [top * ratio ** (i / max(n - 1, 1)) for i in range(n)]


def fit_path(x: Tensor, likelihood: PartialLikelihood, alphas: list[float], rho: float) -> Tensor:
    """Return the coefficients for each of the falling ``alphas``, float64 (alpha, dim).

    Only features that can be in the model are worked on: those in it, and those that the strong rule lets in; what it shut out
    wrongly is found by the condition of the optimum and let in.
    """
    beta = torch.zeros(x.shape[1], dtype=torch.float64)
    found = torch.empty(len(alphas), x.shape[1], dtype=torch.float64)
    gradient = _gradient(x, likelihood, beta)
    before = float(equations.largest_alpha(gradient, rho))
    for i, alpha in enumerate(alphas):
        active = (beta != 0) | (gradient.abs() >= rho * (2 * alpha - before))
        while True:
            if bool(active.any()):
                beta = torch.zeros_like(beta).index_put(
                    (active,), _descend(x[:, active].contiguous(), likelihood, beta[active], alpha, rho)
                )
            gradient = _gradient(x, likelihood, beta)
            wrong = ~active & (gradient.abs() > rho * alpha * (1 + 1e-6))
            if not bool(wrong.any()):
                break
            active |= wrong
        found[i], before = beta, alpha
    return found


def _gradient(x: Tensor, likelihood: PartialLikelihood, beta: Tensor) -> Tensor:
    return x.T @ likelihood.residuals(x @ beta) / likelihood.n_events


def _descend(x: Tensor, likelihood: PartialLikelihood, beta: Tensor, alpha: float, rho: float) -> Tensor:
    """Accelerated proximal gradient with backtracking, started again when the objective rises."""

    def loss(at: Tensor) -> Tensor:
        return likelihood.loss(x @ at) / likelihood.n_events

    def total(at: Tensor, loss_there: Tensor) -> float:
        return float(equations.objective(loss_there, at, alpha, rho))

    ahead, momentum, value = beta, 1.0, total(beta, loss(beta))
    # The Hessian of the loss is at most the mean square of the features of a direction.
    length = 4.0 / float(torch.linalg.matrix_norm(x, ord=2) ** 2 / len(x) + 1e-12)
    for _ in range(_MOST_STEPS):
        here = loss(ahead)
        gradient = _gradient(x, likelihood, ahead)
        while True:
            new = equations.proximal_step(ahead, gradient, length, alpha, rho)
            move = new - ahead
            there = loss(new)
            if there <= here + gradient @ move + move.square().sum() / (2 * length) + 1e-14 or length < 1e-10:
                break
            length /= 2
        reached = total(new, there)
        if reached > value:
            if momentum == 1.0:
                return beta
            ahead, momentum = beta, 1.0
            continue
        following = (1 + (1 + 4 * momentum**2) ** 0.5) / 2
        ahead, beta = new + (momentum - 1) / following * (new - beta), new
        if value - reached < _TOLERANCE * abs(reached):
            return beta
        momentum, value = following, reached
    logger.warning("elastic-net Cox regression did not converge in %d steps at alpha %.3g", _MOST_STEPS, alpha)
    return beta
