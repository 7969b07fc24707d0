"""What the penalty acts on, how strong it is, and what patients look like that a model has not seen."""

from dataclasses import dataclass

import torch
from torch import Tensor

from expressor.core.errors import DataError
from expressor.data.profiles import REACH
from expressor.nn.cox import PartialLikelihood, fit_cox
from expressor.systems.penalised_cox import equations
from expressor.systems.penalised_cox.path import alpha_grid, fit_path

RIDGE_GRID = tuple(float(10 ** (3.5 - 0.5 * i)) for i in range(14))


@dataclass(frozen=True, eq=False)
class Cohort:
    """Expression and outcome: ``values`` float64 (patient, gene), ``time``, ``event``, and ``strata`` as integers or None."""

    values: Tensor
    time: Tensor
    event: Tensor
    strata: Tensor | None

    def take(self, rows: Tensor) -> "Cohort":
        """Return some of the patients."""
        strata = None if self.strata is None else self.strata[rows]
        return Cohort(self.values[rows], self.time[rows], self.event[rows], strata)

    def likelihood(self, ties: str) -> PartialLikelihood:
        """Return their partial likelihood."""
        return PartialLikelihood(self.time, self.event, strata=self.strata, ties=ties)


@dataclass(frozen=True)
class Options:
    """The estimator's parameters that a fit needs; they are explained there."""

    penalty: str
    components: int
    scaling: str
    variable_genes: int | None
    l1_ratio: float
    n_alphas: int
    alpha_ratio: float
    ties: str


@dataclass(frozen=True, eq=False)
class Design:
    """From expression to the features that are penalised; learnt from training patients alone.

    ``kept``: positions of the genes. ``mean``, ``scale``: of them. ``loadings`` (gene, dim), or None where genes are features.
    """

    kept: Tensor
    mean: Tensor
    scale: Tensor
    loadings: Tensor | None

    def features(self, values: Tensor) -> Tensor:
        """Return float64 (patient, dim)."""
        z = ((values[:, self.kept] - self.mean) / self.scale).clamp(-REACH, REACH)
        return z if self.loadings is None else z @ self.loadings

    def gene_coefficients(self, gamma: Tensor) -> Tensor:
        """Return log hazard ratios per standard deviation of each kept gene."""
        return gamma if self.loadings is None else equations.gene_coefficients(self.loadings, gamma)


def learn_design(values: Tensor, options: Options) -> Design:
    """Choose and standardise genes; take principal components for the ridge."""
    mean, scale = values.mean(0), values.std(0, correction=0)
    varies = scale > 1e-6 * mean.abs().clamp(min=1e-6)
    n_wanted = int(varies.sum()) if options.variable_genes is None else min(options.variable_genes, int(varies.sum()))
    if not n_wanted:
        raise DataError("no gene varies over the patients", expected="at least one gene that does")
    score = torch.where(varies, scale, -torch.inf)
    kept = torch.argsort(score, descending=True, stable=True)[:n_wanted].sort().values
    mean, scale = mean[kept], scale[kept]
    if options.penalty == "elastic_net":
        return Design(kept, mean, scale, None)
    z = ((values[:, kept] - mean) / scale).clamp(-REACH, REACH)
    n, p = z.shape
    variances, vectors = torch.linalg.eigh(z @ z.T / n if n <= p else z.T @ z / n)
    most = min(options.components, int((variances > variances[-1] * 1e-8).sum()))
    variances, vectors = variances.flip(0)[:most], vectors.flip(1)[:, :most]
    loadings = z.T @ vectors / (n * variances).sqrt() if n <= p else vectors
    largest = loadings.gather(0, loadings.abs().argmax(dim=0, keepdim=True))
    loadings = loadings * torch.where(largest < 0, -1.0, 1.0)
    # Penalties then mean the same whatever the number of genes.
    unit = variances.sqrt() if options.scaling == "unit" else variances[0].sqrt()
    return Design(kept, mean, scale, loadings / unit)


def solve(x: Tensor, cohort: Cohort, alphas: list[float], options: Options) -> Tensor:
    """Return coefficients for each of the falling ``alphas``, (alpha, dim)."""
    likelihood = cohort.likelihood(options.ties)
    if options.penalty == "elastic_net":
        return fit_path(x, likelihood, alphas, options.l1_ratio)
    found, start = [], None
    for alpha in alphas:
        fit = fit_cox(
            x, cohort.time, cohort.event, ridge=alpha * likelihood.n_events, strata=cohort.strata, ties=options.ties,
            start=start,
        )  # fmt: skip
        start = fit.coefficients
        found.append(start)
    return torch.stack(found)


@dataclass(frozen=True, eq=False)
class Choice:
    """Penalties tried, what held-out patients say of them, and out-of-fold log risks for each."""

    alphas: list[float]
    gain: Tensor
    sizes: Tensor
    risks: Tensor

    @property
    def best(self) -> int:
        """Position of the penalty with the largest cross-validated likelihood."""
        return int(self.gain.argmax())


def cross_validate(cohort: Cohort, alphas: list[float], fold: Tensor, options: Options) -> Choice:
    """Fit without each fold, for every penalty, everything that is learnt being learnt again."""
    n_folds = int(fold.max()) + 1
    gains, sizes = torch.zeros(n_folds, len(alphas), dtype=torch.float64), torch.zeros(n_folds, len(alphas))
    risks = torch.zeros(len(alphas), len(fold), dtype=torch.float64)
    whole = cohort.likelihood(options.ties)
    for k in range(n_folds):
        kept, out = torch.nonzero(fold != k).squeeze(1), torch.nonzero(fold == k).squeeze(1)
        train = cohort.take(kept)
        if not bool(train.event.any()):
            raise DataError(f"all {int(cohort.event.sum())} events fall into one fold", expected="events in two folds or more",
                            fix="Give more patients with an event, or a fixed alpha.")  # fmt: skip
        design = learn_design(train.values, options)
        beta = solve(design.features(train.values), train, alphas, options)
        eta = design.features(cohort.values) @ beta.T
        part = train.likelihood(options.ties)
        zero = torch.zeros(len(fold), dtype=torch.float64)
        nothing = part.loss(zero[kept]) - whole.loss(zero)
        for i in range(len(alphas)):
            gains[k, i] = part.loss(eta[kept, i]) - whole.loss(eta[:, i]) - nothing
        risks[:, out] = eta[out].T
        sizes[k] = (beta != 0).sum(1)
    zero = torch.zeros(n_folds, dtype=torch.float64)
    gain = torch.stack([equations.cross_validated_likelihood(column, zero) for column in gains.T]) / whole.n_events
    return Choice(alphas, gain, sizes.mean(0), risks)


def first_alphas(cohort: Cohort, options: Options) -> list[float]:
    """Return the penalties to try, falling."""
    if options.penalty == "ridge":
        return list(RIDGE_GRID)
    x = learn_design(cohort.values, options).features(cohort.values)
    likelihood = cohort.likelihood(options.ties)
    return alpha_grid(x, likelihood, options.l1_ratio, n=options.n_alphas, ratio=options.alpha_ratio)
