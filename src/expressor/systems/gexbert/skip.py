"""The closed-form restoration that the network starts from: a shrinkage Gaussian whose shrinkage follows the size of the panel."""

import dataclasses
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from expressor.core.rng import stream
from expressor.nn.gaussian import GaussianState, condition, fit_gaussian, patterns, posterior_factors, restore

PENALTIES = (0.03, 0.06, 0.1, 0.17, 0.3, 0.5, 0.9, 1.5, 2.5, 4.0)
"""Ridge penalties among which held-out error chooses, for each size of panel."""

_SIZES = (8, 16, 32, 64, 128, 256, 512, 1024, 2048)
_PANELS = 2  # random panels a size and fold
_TARGETS = 512  # genes on which a penalty is judged
_START = 0.1  # shrinkage of the stored factors; any value in (0, 1) gives the others exactly


def with_shrinkage(state: GaussianState, shrinkage: float) -> GaussianState:
    """Return the Gaussian of the same data with another shrinkage."""
    was = float(state.shrinkage)
    rest = ((state.noise - was) / (1 - was)).clamp(min=0.0)
    return GaussianState(
        state.mean, state.scale, state.factors * ((1 - shrinkage) / (1 - was)) ** 0.5,
        shrinkage + (1 - shrinkage) * rest, torch.tensor(shrinkage, dtype=torch.float64),
    )  # fmt: skip


@dataclass(frozen=True, eq=False)
class LinearSkip:
    """A Gaussian with one shrinkage for each size of panel.

    Attributes
    ----------
    state
        The Gaussian; its own shrinkage is never used.
    sizes, penalties
        Panel sizes, rising, and the ridge penalty chosen at each. A panel takes that of the nearest size on a log scale.
    """

    state: GaussianState
    sizes: tuple[int, ...]
    penalties: tuple[float, ...]
    _made: dict[float, GaussianState] = dataclasses.field(default_factory=dict, init=False, repr=False)

    def shrinkage_at(self, size: int) -> float:
        """Return the shrinkage for a panel of ``size`` genes (equation I7)."""
        from expressor.systems.gexbert.equations import panel_shrinkage

        return panel_shrinkage(size, torch.tensor(self.sizes), torch.tensor(self.penalties))

    def state_at(self, size: int) -> GaussianState:
        """Return the Gaussian for a panel of ``size`` genes."""
        shrinkage = self.shrinkage_at(size)
        if shrinkage not in self._made:
            self._made[shrinkage] = with_shrinkage(self.state, shrinkage)
        return self._made[shrinkage]

    def standardise(self, values: Tensor, observed: Int[Tensor, " observed"]) -> Tensor:
        """Return values of the genes ``observed`` in standard deviations from the training mean."""
        return self.state.standardise(values, observed)

    def condition(
        self,
        values: Float[Tensor, "sample observed"],
        observed: Int[Tensor, " observed"],
        targets: Int[Tensor, " target"],
        *,
        variance: bool = False,
    ) -> tuple[Tensor, Tensor | None]:
        """Return means and variances of the targets on the scale of the values."""
        return condition(self.state_at(len(observed)), values, observed, targets, variance=variance)

    def scores(
        self, values: Float[Tensor, "sample observed"], observed: Int[Tensor, " observed"], n: int
    ) -> Float[Tensor, "sample factor"]:
        """Return the expected scores on the first ``n`` principal components given the panel, in units of the first's spread."""
        state = self.state_at(len(observed))
        factors = posterior_factors(state, values, observed)[:, :n]
        return factors * self.weights(n)

    def weights(self, n: int) -> Float[Tensor, " factor"]:
        """Return the spread of the first ``n`` components relative to that of the first."""
        spread = self.state.factors[:, :n].square().sum(0).sqrt()
        return spread / spread[0]

    def score_map(self, observed: Int[Tensor, " observed"], n: int) -> Float[Tensor, "observed factor"]:
        """Return the matrix that takes standardised values of the panel to :meth:`scores`; they are linear in them."""
        scale = self.state.scale[observed]
        unit = self.state.mean[observed] + torch.diag(scale)
        return self.scores(unit, observed, n)


def fit_skip(values: Float[Tensor, "sample gene"], *, seed: int, folds: int) -> tuple[LinearSkip, "CrossFit"]:
    """Fit the Gaussian, choose its shrinkages, and fit it again without each fold.

    Parameters
    ----------
    values
        float64, NaN where not measured.
    seed
        Of folds and panels.
    folds
        Number of folds, >= 2; not more than there are samples.

    Returns
    -------
    The skip of all samples, and the skips of the folds, from which a sample is restored by a Gaussian that never saw it.
    """
    n, n_genes = values.shape
    folds = max(2, min(folds, n // 2))
    fold = torch.from_numpy(stream(seed, "skip/folds").permutation(n) % folds)
    states = [fit_gaussian(values[fold != k], shrinkage=_START, seed=seed) for k in range(folds)]
    filled = values.clone()
    for k, state in enumerate(states):
        rows = torch.nonzero(fold == k).squeeze(1)
        if bool(values[rows].isnan().any()):
            filled[rows] = restore(state, values[rows], variance=False)[0]
    sizes = tuple(one for one in _SIZES if one < n_genes) or (max(1, n_genes // 2),)
    errors = np.zeros((len(sizes), len(PENALTIES)))
    for i, size in enumerate(sizes):
        for k, state in enumerate(states):
            rows = torch.nonzero(fold == k).squeeze(1)[:256]
            for panel in range(_PANELS):
                order = torch.from_numpy(stream(seed, "skip/panels", i, k, panel).permutation(n_genes))
                observed, targets = order[:size], order[size : size + _TARGETS]
                errors[i] += _errors(state, filled[rows], values[rows], observed, targets)
    penalties = tuple(PENALTIES[int(one)] for one in errors.argmin(axis=1))
    skip = LinearSkip(fit_gaussian(values, shrinkage=_START, seed=seed), sizes, penalties)
    parts = tuple(LinearSkip(state, sizes, penalties) for state in states)
    return skip, CrossFit(parts, fold, filled)


def _errors(state: GaussianState, filled: Tensor, values: Tensor, observed: Tensor, targets: Tensor) -> np.ndarray:
    """Summed squared error in standard deviations at every penalty."""
    was = float(state.shrinkage)
    factors = state.factors / (1 - was) ** 0.5
    rest = ((state.noise - was) / (1 - was)).clamp(min=0.0)
    z, truth = state.standardise(filled[:, observed], observed), state.standardise(values[:, targets], targets)
    known = ~truth.isnan()
    # All penalties from one decomposition: of the panel's covariance, or of what the factors leave of it.
    if len(observed) <= factors.shape[1]:
        own = factors[observed] @ factors[observed].T + torch.diag(rest[observed])
        spread, axes = torch.linalg.eigh(own)
        left, right = z @ axes, axes.T @ factors[observed] @ factors[targets].T
    else:
        spread, axes = torch.linalg.eigh(factors[observed].T @ factors[observed])
        left, right = z @ factors[observed] @ axes, axes.T @ factors[targets].T
    found = []
    for penalty in PENALTIES:
        error = (left / (spread + penalty)) @ right - torch.nan_to_num(truth)
        found.append(float(error[known].square().sum()))
    return np.array(found)


@dataclass(frozen=True, eq=False)
class CrossFit:
    """Skips that each left one fold of the samples out.

    Attributes
    ----------
    parts
        One a fold.
    fold
        int64 (sample,): the fold in which a sample was left out.
    filled
        float64 (sample, gene): the values, gaps filled by a Gaussian that never saw the sample.
    """

    parts: tuple[LinearSkip, ...]
    fold: Int[Tensor, " sample"]
    filled: Float[Tensor, "sample gene"]


def by_pattern(
    values: Float[Tensor, "sample gene"],
) -> Iterator[tuple[Int[Tensor, " row"], Int[Tensor, " observed"], Int[Tensor, " gap"]]]:
    """Yield samples that share what was observed: rows, observed genes, and gaps."""
    known = ~values.isnan()
    for rows, observed in patterns(known):
        yield rows, observed, torch.nonzero(~known[rows[0]]).squeeze(1)


def log_size(size: int, n_genes: int) -> float:
    """Return how large a panel is, between 0 (no gene) and 1 (all), on a log scale."""
    return math.log1p(size) / math.log1p(n_genes)


Restorer = Callable[[Tensor, Tensor, Tensor], Tensor]
