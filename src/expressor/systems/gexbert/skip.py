"""The closed-form restoration that the network starts from: a shrinkage Gaussian whose shrinkage follows the size of the panel."""

import dataclasses
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from expressor.core.rng import stream
from expressor.nn.gaussian import GaussianState, condition, fit_gaussian, patterns, posterior_factors, restore
from expressor.systems.gexbert import equations

PENALTIES = (0.03, 0.06, 0.1, 0.17, 0.3, 0.5, 0.9, 1.5, 2.5, 4.0)
"""Ridge penalties among which held-out error chooses, for each size of panel."""

_SIZES = (8, 16, 32, 64, 128, 256, 512, 1024, 2048)
_PANELS = 2  # random panels a size and fold
_JUDGED = 256  # samples a fold on which a penalty is judged
_TARGETS = 512  # genes on which a penalty is judged
_KEPT = 3  # Gaussians of other shrinkages kept at hand; each may hold a covariance
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
    basis
        float64 (gene, factor): directions of the scores, the same for every fold; scores are in units of the first's spread.
    """

    state: GaussianState
    sizes: tuple[int, ...]
    penalties: tuple[float, ...]
    basis: Float[Tensor, "gene factor"]
    _made: dict[float, GaussianState] = dataclasses.field(default_factory=dict, init=False, repr=False)
    _kept: dict[str, Tensor] = dataclasses.field(default_factory=dict, init=False, repr=False)

    def shrinkage_at(self, size: int) -> float:
        """Return the shrinkage for a panel of ``size`` genes (equation I7)."""
        return equations.panel_shrinkage(size, self.sizes, self.penalties)

    def state_at(self, size: int) -> GaussianState:
        """Return the Gaussian for a panel of ``size`` genes."""
        shrinkage = self.shrinkage_at(size)
        if shrinkage not in self._made:
            if len(self._made) >= _KEPT:
                self._made.pop(next(iter(self._made)))
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
        self, values: Float[Tensor, "sample observed"], observed: Int[Tensor, " observed"]
    ) -> Float[Tensor, "sample dim"]:
        """Return the expected scores of the complete profiles given the panel."""
        return posterior_factors(self.state_at(len(observed)), values, observed) @ self._projection(len(observed))

    def score_map(self, observed: Int[Tensor, " observed"]) -> Float[Tensor, "observed dim"]:
        """Return the matrix that takes standardised values of the panel to :meth:`scores`; they are linear in them."""
        unit = self.state.mean[observed] + torch.diag(self.state.scale[observed])
        return self.scores(unit, observed)

    def _projection(self, size: int) -> Float[Tensor, "factor dim"]:
        if "projection" not in self._kept:
            self._kept["projection"] = self.state.factors.T @ self.basis
        was, now = float(self.state.shrinkage), self.shrinkage_at(size)
        return self._kept["projection"] * ((1 - now) / (1 - was)) ** 0.5

    def tensors(self) -> dict[str, Tensor]:
        """Return the tensors by name; :meth:`from_tensors` is the way back."""
        return {**self.state.tensors(), "basis": self.basis}

    @classmethod
    def from_tensors(
        cls, tensors: Mapping[str, Tensor], sizes: Sequence[int], penalties: Sequence[float]
    ) -> "LinearSkip":
        """Rebuild from what :meth:`tensors` returned."""
        return cls(GaussianState.from_tensors(tensors), tuple(sizes), tuple(penalties), tensors["basis"])


def fit_skip(
    values: Float[Tensor, "sample gene"], *, seed: int, folds: int, components: int, like: LinearSkip | None = None
) -> tuple[LinearSkip, "CrossFit"]:
    """Fit the Gaussian, choose its shrinkages, and fit it again without each fold.

    Parameters
    ----------
    values
        float64, NaN where not measured.
    seed
        Of folds and panels.
    folds
        Number of folds, >= 2; not more than half the samples.
    components
        Most directions of the scores, >= 1.
    like
        A skip of other samples whose shrinkages and directions are taken over.

    Returns
    -------
    The skip of all samples, and the skips of the folds, from which a sample is restored by a Gaussian that never saw it.
    """
    n = len(values)
    folds = max(2, min(folds, n // 2))
    fold = torch.from_numpy(stream(seed, "skip/folds").permutation(n) % folds)
    states = [fit_gaussian(values[fold != k], shrinkage=_START, seed=seed) for k in range(folds)]
    whole = fit_gaussian(values, shrinkage=_START, seed=seed)
    filled = values.clone()
    for k, state in enumerate(states):
        rows = torch.nonzero(fold == k).squeeze(1)
        if bool(values[rows].isnan().any()):
            filled[rows] = restore(state, values[rows], variance=False)[0]
    if like is None:
        sizes, penalties = _choose(states, fold, filled, values, seed)
        leading = whole.factors[:, :components]
        spread = leading.square().sum(0).sqrt()
        # Directions of unit length, and scores in units of the first component's spread.
        basis = leading / spread / spread[0]
    else:
        sizes, penalties, basis = like.sizes, like.penalties, like.basis
    parts = tuple(LinearSkip(state, sizes, penalties, basis) for state in states)
    return LinearSkip(whole, sizes, penalties, basis), CrossFit(parts, fold, filled)


def _choose(
    states: list[GaussianState], fold: Tensor, filled: Tensor, values: Tensor, seed: int
) -> tuple[tuple[int, ...], tuple[float, ...]]:
    """Return panel sizes and the penalty of the least error outside the fold at each."""
    n_genes = values.shape[1]
    sizes = tuple(one for one in _SIZES if one < n_genes) or (max(1, n_genes // 2),)
    errors = np.zeros((len(sizes), len(PENALTIES)))
    for i, size in enumerate(sizes):
        for k, state in enumerate(states):
            rows = torch.nonzero(fold == k).squeeze(1)[:_JUDGED]
            for panel in range(_PANELS):
                order = torch.from_numpy(stream(seed, "skip/panels", i, k, panel).permutation(n_genes))
                observed, targets = order[:size], order[size : size + _TARGETS]
                errors[i] += _errors(state, filled[rows], values[rows], observed, targets)
    return sizes, tuple(PENALTIES[int(one)] for one in errors.argmin(axis=1))


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
) -> Iterator[tuple[Int[Tensor, " row"], Int[Tensor, " observed"], Int[Tensor, " target"]]]:
    """Yield samples that share what was observed: rows, observed genes, and gaps."""
    known = ~values.isnan()
    for rows, observed in patterns(known):
        yield rows, observed, torch.nonzero(~known[rows[0]]).squeeze(1)


def log_size(size: int, n_genes: int) -> float:
    """Return how large a panel is, between 0 (no gene) and 1 (all), on a log scale."""
    return math.log1p(size) / math.log1p(n_genes)
