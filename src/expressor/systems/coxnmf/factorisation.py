"""The alternation: gene factors, coefficients, patient factors."""

import warnings
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from expressor.nn.cox import PartialLikelihood, fit_cox
from expressor.systems.coxnmf import equations


@dataclass(frozen=True)
class Options:
    """The estimator's parameters that a factorisation needs; they are explained there."""

    n_factors: int
    alpha: float
    ridge: float
    sigma: float
    update: str
    start: str
    max_iterations: int
    tolerance: float
    seed: int


@dataclass(frozen=True, eq=False)
class Factorisation:
    """``W`` (gene, factor) with columns of length 1, ``H`` (factor, patient) of the fit, ``beta``, and a row an iteration."""

    W: Tensor
    H: Tensor
    beta: Tensor
    history: list[dict[str, Any]]


def factorise(X: Tensor, time: Tensor, event: Tensor, options: Options) -> Factorisation:
    """Alternate until the objective falls by less than ``tolerance`` of itself, or for ``max_iterations``.

    With ``update="line_search"`` neither the step of W nor that of H lets the objective rise; with ``"projection"``, the authors'
    rule, it may.
    """
    W, H = _start(X, options)
    beta = torch.zeros(options.n_factors, dtype=torch.float64)
    history: list[dict[str, Any]] = []
    for iteration in range(1, options.max_iterations + 1):
        W = equations.update_w(X, W, H, options.sigma)
        W, H, beta = _unit_columns(W, H, beta)
        if options.alpha > 0:
            beta = _fit_beta(H, time, event, options, beta)
        C = equations.cox_gradient(beta, H, time, event)
        if options.update == "projection":
            H = equations.update_h_projected(X, W, H, C, options.alpha)
        else:
            H = _search(X, W, H, C, beta, time, event, options)
        value = float(equations.objective(X, W, H, beta, time, event, options.alpha))
        error = float((X - W @ H).norm() / X.norm())
        history.append({"iteration": iteration, "objective": value, "relative_error": error})
        if iteration > 1 and abs(history[-2]["objective"] - value) < options.tolerance * abs(value):
            break
    return Factorisation(W, H, beta, history)


def _start(X: Tensor, options: Options) -> tuple[Tensor, Tensor]:
    from sklearn.decomposition import NMF
    from sklearn.exceptions import ConvergenceWarning

    if options.start == "random":
        rng = np.random.default_rng(options.seed)
        size = float(X.mean() / options.n_factors) ** 0.5
        W, H = (torch.from_numpy(size * np.abs(rng.normal(size=shape)))
                for shape in ((len(X), options.n_factors), (options.n_factors, X.shape[1])))  # fmt: skip
        return W, H
    init = "nndsvda" if options.n_factors <= min(X.shape) else "random"
    plain = NMF(options.n_factors, init=init, max_iter=100, tol=1e-3, random_state=options.seed % 2**32)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # it is only where to begin
        H = torch.from_numpy(plain.fit_transform(X.T.numpy())).T
    # A factor that is 0 would stay so under multiplication.
    return torch.from_numpy(plain.components_).T.clamp(min=1e-6).contiguous(), H.clamp(min=1e-6).contiguous()


def _unit_columns(W: Tensor, H: Tensor, beta: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """The same product and the same risks, with gene factors of length 1."""
    length = W.norm(dim=0).clamp(min=1e-12)
    return W / length, H * length[:, None], beta / length


def _fit_beta(H: Tensor, time: Tensor, event: Tensor, options: Options, beta: Tensor) -> Tensor:
    """The authors take one Newton step and scale; here the step is taken to the end, on factors in standard deviations."""
    if options.update == "projection":
        penalty = _ridge(H, event, options)
        gradient, hessian = PartialLikelihood(time, event).derivatives(H.T, beta)
        step = torch.linalg.solve(hessian + torch.diag(penalty), gradient + penalty * beta)
        return equations.normalise_beta(beta - step)
    return fit_cox(H.T, time, event, ridge=_ridge(H, event, options), ties="breslow", start=beta).coefficients


def _ridge(H: Tensor, event: Tensor, options: Options) -> Tensor:
    """Penalty of each coefficient that is ``ridge`` per event for a factor in standard deviations."""
    return options.ridge * int(event.sum()) * H.var(dim=1, correction=0).clamp(min=1e-12)


def _search(
    X: Tensor, W: Tensor, H: Tensor, C: Tensor, beta: Tensor, time: Tensor, event: Tensor, options: Options
) -> Tensor:
    direction = equations.update_h_target(X, W, H, C, options.alpha) - H
    before = equations.objective(X, W, H, beta, time, event, options.alpha)
    step = 1.0
    while step > 1e-6:
        tried = H + step * direction
        if equations.objective(X, W, tried, beta, time, event, options.alpha) <= before:
            return tried
        step /= 2
    return H
