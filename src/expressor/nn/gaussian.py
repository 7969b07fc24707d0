"""A shrinkage Gaussian over genes: one covariance that restores any genes from any others, in closed form.

The covariance of standardised expression is kept as factors and a diagonal, ``Sigma = F F' + diag(noise)``. A correlation matrix of
``n`` samples has rank below ``n``, so that nothing is lost by this where genes outnumber samples, and no matrix of gene by gene is
ever needed: what is solved has the size of the observed genes or of the factors, whichever is smaller. Everything is computed in
float64.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from expressor.core.errors import DataError, check_choice, check_range
from expressor.core.rng import stream

CHOICES = ("likelihood", "ledoit_wolf")
GRID = (0.01, 0.02, 0.03, 0.05, 0.07, 0.1, 0.14, 0.2, 0.28, 0.4, 0.55, 0.75, 0.95)
"""Shrinkages among which the held-out likelihood chooses."""

_DENSE = 4096  # genes up to which the covariance itself is kept beside its factors, for speed
_SWEEP_FACTORS = 128  # factors of the models between which missing values of the training data are filled in
_JUDGED = 100  # held-out samples a fold where each has missing values of its own


@dataclass(frozen=True, eq=False)
class GaussianState:
    """A fitted shrinkage Gaussian.

    Attributes
    ----------
    mean, scale
        float64 (gene,): mean and standard deviation on the scale of the values; a scale of 0 marks a gene that was constant, which
        tells nothing about others and is restored to its mean.
    factors
        float64 (gene, factor): F, of standardised values.
    noise
        float64 (gene,): what the factors leave of the unit variance of a standardised gene, > 0.
    shrinkage
        float64 (): weight of the identity in the covariance, in (0, 1].
    """

    mean: Float[Tensor, " gene"]
    scale: Float[Tensor, " gene"]
    factors: Float[Tensor, "gene factor"]
    noise: Float[Tensor, " gene"]
    shrinkage: Float[Tensor, ""]

    def tensors(self) -> dict[str, Tensor]:
        """Return the tensors by name, ready for a safetensors file; :meth:`from_tensors` is the way back."""
        return {name: getattr(self, name) for name in ("mean", "scale", "factors", "noise", "shrinkage")}

    @classmethod
    def from_tensors(cls, tensors: Mapping[str, Tensor]) -> "GaussianState":
        """Rebuild from what :meth:`tensors` returned."""
        return cls(**{name: tensors[name] for name in ("mean", "scale", "factors", "noise", "shrinkage")})

    def to(self, device: torch.device | str) -> "GaussianState":
        """Return the same on another device."""
        return type(self).from_tensors({name: one.to(device) for name, one in self.tensors().items()})

    @cached_property
    def covariance(self) -> Float[Tensor, "gene gene"] | None:
        """Covariance of standardised values; None where there are too many genes to keep it."""
        if len(self.mean) > _DENSE:
            return None
        return self.factors @ self.factors.T + torch.diag(self.noise)

    def standardise(
        self, values: Float[Tensor, "sample observed"], observed: Int[Tensor, " observed"]
    ) -> Float[Tensor, "sample observed"]:
        """Return float64 values of the genes ``observed`` in standard deviations from the mean; 0 for constant genes."""
        scale = self.scale[observed]
        safe = torch.where(scale > 0, scale, torch.ones_like(scale))
        return (values.double() - self.mean[observed]) / safe * (scale > 0)


# Fitting -----------------------------------------------------------------------------------------------------------------


def fit_gaussian(
    values: Float[Tensor, "sample gene"],
    *,
    shrinkage: float | str = "likelihood",
    rank: int | None = None,
    sweeps: int = 10,
    seed: int = 0,
) -> GaussianState:
    """Fit mean, scale and shrunk correlation.

    The covariance of standardised values is ``(1 - s) R + s I`` with the correlation R and the shrinkage s. Its conditional mean is
    ridge regression of every other gene on the observed ones with the penalty ``s / (1 - s)`` per sample.

    Parameters
    ----------
    values
        Expression, (sample, gene), on a log scale; NaN where it was not measured. At least 2 samples.
    shrinkage
        In (0, 1]; or how to choose it: ``"likelihood"`` of held-out samples (5 folds), or ``"ledoit_wolf"`` (their formula).
    rank
        Number of factors to keep, >= 1; all by default. What is cut off goes into the noise, so that variances are kept.
    sweeps
        Where values are missing, most rounds of filling them in by their conditional means and fitting again, >= 1. The
        conditional variances are added to the diagonal; conditional covariances of missing pairs are neglected.
    seed
        Of the folds.

    Raises
    ------
    DataError
        Too few samples, a gene or a sample without any value, infinite values, or no gene that varies.
    """
    check_range(sweeps, name="sweeps", low=1, integer=True)
    if rank is not None:
        check_range(rank, name="rank", low=1, integer=True)
    if isinstance(shrinkage, str):
        check_choice(shrinkage, CHOICES, name="shrinkage")
    else:
        check_range(shrinkage, name="shrinkage", low=0, high=1, open_low=True)
    values = values.detach().double()
    known = _check(values)
    mean = torch.where(known, values, 0.0).sum(0) / known.sum(0)
    centred = torch.where(known, values - mean, 0.0)
    scale = (centred.square().sum(0) / known.sum(0)).sqrt()
    # What rounding leaves of a constant gene is no variance.
    scale = torch.where(scale > 1e-7 * mean.abs().clamp(min=1e-30), scale, torch.zeros_like(scale))
    if not bool((scale > 0).any()):
        raise DataError("no gene varies over the samples", expected="at least one gene that does")
    z = centred / torch.where(scale > 0, scale, torch.ones_like(scale)) * (scale > 0)
    rest = torch.zeros_like(mean)
    if not bool(known.all()):
        first = shrinkage if not isinstance(shrinkage, str) else 0.1
        z, rest, shift, stretch = _fill(z, known, first, sweeps)
        mean, scale = mean + scale * shift, scale * stretch
    if isinstance(shrinkage, str):
        shrinkage = ledoit_wolf(z) if shrinkage == "ledoit_wolf" else _by_likelihood(z, known, rest, seed)
    factors, noise = _shrink(z, rest, shrinkage, rank)
    return GaussianState(mean, scale, factors, noise, torch.tensor(shrinkage, dtype=torch.float64))


def _check(values: Tensor) -> Tensor:
    known = ~values.isnan()
    if bool(values.isinf().any()):
        raise DataError("the values are not finite", got=f"{int(values.isinf().sum())} infinite values")
    if len(values) < 2:
        raise DataError("too few samples for a covariance", expected="at least 2", got=len(values))
    for axis, name in ((0, "genes"), (1, "samples")):
        empty = int((~known.any(dim=axis)).sum())
        if empty:
            raise DataError(f"{empty} {name} have no measured value", fix=f"Leave these {name} out.")
    return known


def _shrink(z: Tensor, rest: Tensor, shrinkage: float, rank: int | None) -> tuple[Tensor, Tensor]:
    """Return factors and noise of ``(1 - s) (Z'Z / n + diag(rest)) + s I``; constant genes get a noise of 1."""
    loadings = _principal(z)
    kept = loadings if rank is None else loadings[:, :rank]
    factors = (1 - shrinkage) ** 0.5 * kept
    cut = loadings.square().sum(1) - kept.square().sum(1)
    noise = shrinkage + (1 - shrinkage) * (rest + cut).clamp(min=0.0)
    return factors, torch.where(z.any(dim=0), noise, torch.ones_like(noise)).clamp(min=1e-8)


def _principal(z: Tensor) -> Tensor:
    """Return L (gene, factor) with ``L L' = Z'Z / n``: eigenvectors by their standard deviations, largest first."""
    n, p = z.shape
    if n <= p:
        values, vectors = torch.linalg.eigh(z @ z.T / n)
        vectors = z.T @ vectors / n**0.5
    else:
        values, vectors = torch.linalg.eigh(z.T @ z / n)
        vectors = vectors * values.clamp(min=0.0).sqrt()
    keep = values > values[-1] * 1e-10
    loadings = vectors[:, keep].flip(1)
    # Eigenvectors have no sign of their own; the largest entry is made positive.
    largest = loadings.gather(0, loadings.abs().argmax(dim=0, keepdim=True))
    return (loadings * torch.where(largest < 0, -1.0, 1.0)).contiguous()


def ledoit_wolf(z: Float[Tensor, "sample gene"]) -> float:
    """Return the shrinkage of Ledoit and Wolf (2004) for centred values (sample, gene), at least 1e-4.

    Sums over pairs of genes are taken over pairs of samples instead, so that no gene-by-gene matrix is made.
    """
    z = z.double()
    n, p = z.shape
    trace = float(z.square().sum() / n)
    squares = float((z @ z.T / n).square().sum())  # of the entries of the covariance
    fourth = float(z.square().sum(1).square().sum()) / n
    distance = (squares - trace**2 / p) / p
    spread = min((fourth - squares) / (p * n), distance)
    return min(max(spread / distance if distance > 0 else 1.0, 1e-4), 1.0)


def _by_likelihood(z: Tensor, known: Tensor, rest: Tensor, seed: int, folds: int = 5) -> float:
    n = len(z)
    folds = min(folds, n)
    fold = torch.from_numpy(stream(seed, "gaussian folds").permutation(n)) % folds
    total = torch.zeros(len(GRID), dtype=torch.float64)
    score = _likelihoods if bool(known.all()) else _observed_likelihoods
    for i in range(folds):
        train, test = z[fold != i], z[fold == i]
        shift = train.mean(0)
        spread = (train - shift).square().mean(0).sqrt()
        usable = spread > 1e-6
        spread = torch.where(usable, spread, torch.ones_like(spread))
        train, test = (train - shift) / spread * usable, (test - shift) / spread * usable
        total += score(train, test, known[fold == i], rest)
    return GRID[int(total.argmax())]


def _likelihoods(train: Tensor, test: Tensor, known: Tensor, rest: Tensor) -> Tensor:
    """Log-likelihood of complete ``test`` samples for every shrinkage of the grid, from one decomposition."""
    p = train.shape[1]
    loadings = _principal(train)
    variances = loadings.square().sum(0)
    inside = (test @ (loadings / variances.sqrt())).square()
    outside = (test.square().sum(1) - inside.sum(1)).clamp(min=0.0)
    found = []
    for s in GRID:
        along = (1 - s) * variances + s
        quadratic = (inside / along).sum(1) + outside / s
        determinant = along.log().sum() + (p - len(along)) * torch.tensor(s, dtype=torch.float64).log()
        found.append(-0.5 * (quadratic + determinant).sum())
    return torch.stack(found)


def _observed_likelihoods(train: Tensor, test: Tensor, known: Tensor, rest: Tensor) -> Tensor:
    """The same where values are missing: only those that were measured count, of at most 100 samples."""
    zero, one = torch.zeros_like(rest), torch.ones_like(rest)
    found = []
    for s in GRID:
        factors, noise = _shrink(train, rest, s, _SWEEP_FACTORS)
        state = GaussianState(zero, one, factors, noise, torch.tensor(s, dtype=torch.float64))
        values = torch.where(known, test, torch.nan)[:_JUDGED]
        found.append(log_likelihood(state, values))
    return torch.stack(found)


def _fill(z: Tensor, known: Tensor, shrinkage: float, sweeps: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Fill missing standardised values by their conditional means, over and over.

    Returns the filled values (standardised again), the share of each gene's variance that is conditional variance, and by how much
    its mean and scale moved.
    """
    shift, stretch = torch.zeros_like(z[0]), torch.ones_like(z[0])
    filled, extra = torch.where(known, z, 0.0), torch.zeros_like(z[0])
    for _ in range(sweeps):
        centre = filled.mean(0)
        total = ((filled - centre).square().mean(0) + extra).sqrt()
        total = torch.where(total > 1e-6, total, torch.ones_like(total))
        shift, stretch = shift + stretch * centre, stretch * total
        filled, rest = (filled - centre) / total, extra / total.square()
        factors, noise = _shrink(filled, rest, shrinkage, _SWEEP_FACTORS)
        zero, one = torch.zeros_like(shift), torch.ones_like(shift)
        state = GaussianState(zero, one, factors, noise, torch.tensor(shrinkage, dtype=torch.float64))
        mean, variance = restore(state, torch.where(known, filled, torch.nan))
        change = (mean - filled).square().mean().sqrt()
        filled, extra = mean, torch.where(known, 0.0, variance).mean(0)
        if change < 1e-3:
            break
    centre = filled.mean(0)
    total = ((filled - centre).square().mean(0) + extra).sqrt()
    total = torch.where(total > 1e-6, total, torch.ones_like(total))
    return (filled - centre) / total, extra / total.square(), shift + stretch * centre, stretch * total


# Using -------------------------------------------------------------------------------------------------------------------


def condition(
    state: GaussianState,
    values: Float[Tensor, "sample observed"],
    observed: Int[Tensor, " observed"],
    targets: Int[Tensor, " target"] | None = None,
    *,
    variance: bool = True,
) -> tuple[Float[Tensor, "sample target"], Float[Tensor, " target"] | None]:
    """Return mean and variance of genes given observed ones, for samples that share what was observed.

    Parameters
    ----------
    state
        A fitted Gaussian.
    values
        (sample, observed), without NaN, on the scale of the fit.
    observed
        Positions of the observed genes; none are allowed, and give the mean.
    targets
        Positions of the wanted genes; all by default. One that is itself observed is restored as if it were measured again.
    variance
        Whether to compute the variance, which depends on what was observed and not on the values.

    Returns
    -------
    Mean, float64 (sample, target), and variance, float64 (target,), on the scale of the fit.
    """
    mean, covariance_half = _posterior(state, state.standardise(values, observed), observed, variance=variance)
    where = slice(None) if targets is None else targets
    factors, scale = state.factors[where], state.scale[where]
    restored = state.mean[where] + scale * (mean @ factors.T)
    if covariance_half is None:
        return restored, None
    return restored, scale.square() * (state.noise[where] + _squares(state, factors, observed, covariance_half))


def posterior_factors(
    state: GaussianState, values: Float[Tensor, "sample observed"], observed: Int[Tensor, " observed"]
) -> Float[Tensor, "sample factor"]:
    """Return the mean of the factors given observed genes, float64 (sample, factor)."""
    return _posterior(state, state.standardise(values, observed), observed, variance=False)[0]


def restore(
    state: GaussianState, values: Float[Tensor, "sample gene"], *, variance: bool = True
) -> tuple[Float[Tensor, "sample gene"], Float[Tensor, "sample gene"]]:
    """Fill in the NaN of samples, each with gaps of its own; samples with the same gaps are treated together.

    Returns
    -------
    Values with gaps filled, float64 (sample, gene), and variances, which are 0 where a value was measured (0 everywhere if
    ``variance`` is off).
    """
    restored, spread = values.double().clone(), torch.zeros(values.shape, dtype=torch.float64, device=values.device)
    for rows, observed in patterns(~values.isnan()):
        gaps = torch.nonzero(values[rows[0]].isnan()).squeeze(1)
        if not len(gaps):
            continue
        mean, around = condition(state, values[rows][:, observed], observed, gaps, variance=variance)
        restored[rows[:, None], gaps] = mean
        if around is not None:
            spread[rows[:, None], gaps] = around
    return restored, spread


def log_likelihood(state: GaussianState, values: Float[Tensor, "sample gene"]) -> Float[Tensor, ""]:
    """Return the sum over samples of the log density of their measured (not NaN) standardised values."""
    total = torch.zeros((), dtype=torch.float64)
    for rows, observed in patterns(~values.isnan()):
        z = state.standardise(values[rows][:, observed], observed)
        factors, noise = state.factors[observed], state.noise[observed]
        # |F F' + D| = |D| |I + F' D^-1 F|, and its inverse by the identity of Woodbury.
        inner = _inner(factors, noise)
        root = torch.linalg.cholesky(inner)
        projected = torch.linalg.solve_triangular(root, ((z / noise) @ factors).T, upper=False)
        quadratic = (z.square() / noise).sum() - projected.square().sum()
        determinant = noise.log().sum() + 2 * root.diagonal().log().sum()
        constant = len(observed) * torch.log(torch.tensor(2 * torch.pi, dtype=torch.float64))
        total = total - 0.5 * (quadratic + len(rows) * (determinant + constant))
    return total


def patterns(known: Bool[Tensor, "sample gene"]) -> Iterator[tuple[Int[Tensor, " row"], Int[Tensor, " observed"]]]:
    """Yield samples that share what was observed: their rows, and the positions of the observed genes."""
    found: dict[bytes, list[int]] = {}
    for row, one in enumerate(known.cpu().numpy()):
        found.setdefault(one.tobytes(), []).append(row)
    for rows in found.values():
        yield torch.tensor(rows, device=known.device), torch.nonzero(known[rows[0]]).squeeze(1)


def _posterior(
    state: GaussianState, z: Tensor, observed: Tensor, *, variance: bool
) -> tuple[Tensor, tuple[bool, Tensor] | None]:
    """Mean of the factors, and a root of what was solved: of the observed genes' covariance (True), or of the factors'."""
    factors, noise = state.factors[observed], state.noise[observed]
    direct = len(observed) <= state.factors.shape[1]
    if direct:
        dense = state.covariance
        if dense is None:
            solved = factors @ factors.T + torch.diag(noise)
        else:
            solved = dense[observed[:, None], observed]
        root = torch.linalg.cholesky(solved)
        mean = torch.cholesky_solve(z.T, root).T @ factors
    else:
        root = torch.linalg.cholesky(_inner(factors, noise))
        mean = torch.cholesky_solve(((z / noise) @ factors).T, root).T
    return mean, (direct, root) if variance else None


def _inner(factors: Tensor, noise: Tensor) -> Tensor:
    return torch.eye(factors.shape[1], dtype=torch.float64, device=factors.device) + factors.T @ (
        factors / noise[:, None]
    )


def _squares(state: GaussianState, targets: Tensor, observed: Tensor, solved: tuple[bool, Tensor]) -> Tensor:
    """Variance of the targets' share that comes from the factors."""
    direct, root = solved
    if direct:
        explained = torch.linalg.solve_triangular(root, state.factors[observed] @ targets.T, upper=False)
        return (targets.square().sum(1) - explained.square().sum(0)).clamp(min=0.0)
    return torch.linalg.solve_triangular(root, targets.T, upper=False).square().sum(0)
