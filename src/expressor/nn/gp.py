"""Gaussian-process regression with a Matern-3/2 kernel, one length for each axis, many outputs that share the kernel.

Up to some thousands of points the posterior is exact; beyond, it goes through inducing points (the variational approximation of
Titsias, 2009). Everything is computed in float64. Lengths, signal and noise maximise the exact marginal likelihood, of a random
part of the points where there are many, because each step costs the cube of their number.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property

import torch
from jaxtyping import Float, Int
from torch import Tensor

from expressor.core.errors import DataError, check_range
from expressor.core.rng import stream

EXACT = 4000
"""Points up to which the posterior is exact."""

_JITTER = 1e-8
_CHUNK = 4096  # points predicted at once


def matern32(
    x: Float[Tensor, "point axis"], z: Float[Tensor, "other axis"], lengths: Float[Tensor, " axis"]
) -> Float[Tensor, "point other"]:
    """Return the Matern-3/2 correlation (1 + sqrt(3) r) exp(-sqrt(3) r), r the distance in units of ``lengths``."""
    difference = torch.cdist(x / lengths, z / lengths, compute_mode="donot_use_mm_for_euclid_dist")
    r = math.sqrt(3.0) * difference.clamp_min(1e-12)
    return (1 + r) * torch.exp(-r)


def log_marginal_likelihood(
    x: Float[Tensor, "point axis"], y: Float[Tensor, "point gene"], lengths: Float[Tensor, " axis"],
    signal: Float[Tensor, ""], noise: Float[Tensor, ""],
) -> Float[Tensor, ""]:  # fmt: skip
    """Return the log density of the outputs, summed over genes, under kernel variance ``signal`` and noise variance ``noise``."""
    n, genes = y.shape
    covariance = signal * matern32(x, x, lengths) + (noise + _JITTER) * torch.eye(n, dtype=x.dtype)
    factor = torch.linalg.cholesky(covariance)
    solved = torch.linalg.solve_triangular(factor, y, upper=False)
    return -0.5 * solved.square().sum() - genes * (factor.diagonal().log().sum() + 0.5 * n * math.log(2 * math.pi))


@dataclass(frozen=True, eq=False)
class GaussianProcess:
    """A fitted process: what it was given, and its kernel. Factors are computed on first use.

    Attributes
    ----------
    x, y
        float64 (point, axis) and (point, gene).
    lengths
        float64 (axis,): correlation lengths.
    signal, noise
        float64 (): variances of the function and of what is added to it.
    inducing
        float64 (node, axis): inducing points; of no rows where the posterior is exact.
    """

    x: Float[Tensor, "point axis"]
    y: Float[Tensor, "point gene"]
    lengths: Float[Tensor, " axis"]
    signal: Float[Tensor, ""]
    noise: Float[Tensor, ""]
    inducing: Float[Tensor, "node axis"]

    def tensors(self) -> dict[str, Tensor]:
        """Return the tensors by name; :meth:`from_tensors` is the way back."""
        return {name: getattr(self, name) for name in ("x", "y", "lengths", "signal", "noise", "inducing")}

    @classmethod
    def from_tensors(cls, tensors: Mapping[str, Tensor]) -> "GaussianProcess":
        """Rebuild from what :meth:`tensors` returned."""
        return cls(**{name: tensors[name] for name in ("x", "y", "lengths", "signal", "noise", "inducing")})

    @cached_property
    def _exact(self) -> tuple[Tensor, Tensor]:
        n = len(self.x)
        covariance = self.signal * matern32(self.x, self.x, self.lengths)
        factor = torch.linalg.cholesky(covariance + (self.noise + _JITTER) * torch.eye(n, dtype=self.x.dtype))
        return factor, torch.cholesky_solve(self.y, factor)

    @cached_property
    def _sparse(self) -> tuple[Tensor, Tensor, Tensor]:
        m = len(self.inducing)
        inner = self.signal * matern32(self.inducing, self.inducing, self.lengths)
        lower = torch.linalg.cholesky(inner + 1e-6 * self.signal * torch.eye(m, dtype=self.x.dtype))
        cross = self.signal * matern32(self.inducing, self.x, self.lengths)
        a = torch.linalg.solve_triangular(lower, cross, upper=False) / self.noise.sqrt()
        b = torch.linalg.cholesky(torch.eye(m, dtype=self.x.dtype) + a @ a.T)
        c = torch.linalg.solve_triangular(b, a @ self.y, upper=False) / self.noise.sqrt()
        return lower, b, c

    def predict(
        self, x: Float[Tensor, "query axis"], genes: Int[Tensor, " gene"] | None = None
    ) -> Float[Tensor, "query gene"]:
        """Return the posterior mean of the function, of all genes or of those at some positions."""
        weights = self._exact[1] if not len(self.inducing) else self._sparse[2]
        weights = weights if genes is None else weights[:, genes]
        return torch.cat([self._mean(one, weights) for one in x.double().split(_CHUNK)])

    def variance(self, x: Float[Tensor, "query axis"]) -> Float[Tensor, " query"]:
        """Return the variance of a new measurement: of the function and of the noise; the same for every gene."""
        return torch.cat([self._variance(one) for one in x.double().split(_CHUNK)])

    def _mean(self, x: Tensor, weights: Tensor) -> Tensor:
        if not len(self.inducing):
            return self.signal * matern32(x, self.x, self.lengths) @ weights
        lower, b, _ = self._sparse
        inner = self._whitened(x, lower)
        return torch.linalg.solve_triangular(b, inner, upper=False).T @ weights

    def _variance(self, x: Tensor) -> Tensor:
        if not len(self.inducing):
            cross = self.signal * matern32(self.x, x, self.lengths)
            known = torch.linalg.solve_triangular(self._exact[0], cross, upper=False).square().sum(dim=0)
        else:
            lower, b, _ = self._sparse
            inner = self._whitened(x, lower)
            known = inner.square().sum(dim=0) - torch.linalg.solve_triangular(b, inner, upper=False).square().sum(dim=0)
        return (self.signal - known).clamp_min(0.0) + self.noise

    def _whitened(self, x: Tensor, lower: Tensor) -> Tensor:
        cross = self.signal * matern32(self.inducing, x, self.lengths)
        return torch.linalg.solve_triangular(lower, cross, upper=False)


def fit_process(
    x: Float[Tensor, "point axis"],
    y: Float[Tensor, "point gene"],
    *,
    exact: int = EXACT,
    inducing: int = 1000,
    judged: int = 1000,
    steps: int = 30,
    seed: int = 0,
) -> GaussianProcess:
    """Fit lengths, signal and noise by marginal likelihood, shared by the genes.

    Parameters
    ----------
    x, y
        Points and outputs, the latter of mean about 0 and variance about 1.
    exact
        Points up to which the posterior is exact.
    inducing
        Inducing points beyond that, chosen one by one, each farthest from those before.
    judged
        Points, drawn at random, of which the likelihood is computed.
    steps
        Most steps of L-BFGS.
    seed
        Of the draw.

    Raises
    ------
    DataError
        Fewer than three points, or values that are not finite.
    """
    for name, value in (("exact", exact), ("inducing", inducing), ("judged", judged), ("steps", steps)):
        check_range(value, name=name, low=1, integer=True)
    if len(x) < 3 or not bool(torch.isfinite(x).all() and torch.isfinite(y).all()):
        raise DataError("a Gaussian process cannot be fitted", expected="three or more points, all values finite",
                        got=f"{len(x)} points")  # fmt: skip
    x, y = x.double(), y.double()
    rows = torch.from_numpy(stream(seed, "likelihood").permutation(len(x))[:judged])
    lengths, signal, noise = _maximise(x[rows], y[rows], steps)
    nodes = x[:0] if len(x) <= exact else x[_spread_out(x / lengths, inducing)]
    return GaussianProcess(x, y, lengths, signal, noise, nodes)


def refit(process: GaussianProcess, x: Tensor, y: Tensor, *, exact: int = EXACT) -> GaussianProcess:
    """Return a process of the same kernel on other points, for instance on part of them."""
    x, y = x.double(), y.double()
    nodes = x[:0] if len(x) <= exact else x[_spread_out(x / process.lengths, max(1, len(process.inducing) or 1000))]
    return GaussianProcess(x, y, process.lengths, process.signal, process.noise, nodes)


def _maximise(x: Tensor, y: Tensor, steps: int) -> tuple[Tensor, Tensor, Tensor]:
    spread = x.std(dim=0).clamp_min(1e-9)
    start = torch.cat([spread.log() - 0.5, torch.tensor([math.log(0.7), math.log(0.3)], dtype=x.dtype)])
    theta = start.clone().requires_grad_(True)
    optimizer = torch.optim.LBFGS([theta], max_iter=steps, line_search_fn="strong_wolfe")
    low, high = start - 6.0, start + 6.0

    def loss() -> Tensor:
        optimizer.zero_grad()
        # A kernel at its bound is as good as one beyond it, and its factor can be computed.
        bounded = torch.minimum(torch.maximum(theta, low), high).exp()
        value = -log_marginal_likelihood(x, y, bounded[:-2], bounded[-2], bounded[-1]) / y.numel()
        value.backward()  # type: ignore[no-untyped-call]
        return value

    optimizer.step(loss)  # type: ignore[arg-type]
    found = torch.minimum(torch.maximum(theta.detach(), low), high).exp()
    return found[:-2], found[-2], found[-1]


def _spread_out(x: Tensor, n: int) -> Tensor:
    """Return rows of which each is farthest from those before; the first is nearest to the middle."""
    chosen = [int((x - x.mean(dim=0)).square().sum(dim=1).argmin())]
    nearest = (x - x[chosen[0]]).square().sum(dim=1)
    while len(chosen) < min(n, len(x)):
        chosen.append(int(nearest.argmax()))
        nearest = torch.minimum(nearest, (x - x[chosen[-1]]).square().sum(dim=1))
    return torch.tensor(chosen)
