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
from expressor.data.profiles import REACH
from expressor.nn.gaussian import GaussianState, condition, fit_gaussian, patterns, posterior_factors, restore
from expressor.systems.gexbert import equations

PENALTIES = (0.03, 0.06, 0.1, 0.17, 0.3, 0.5, 0.9, 1.5, 2.5, 4.0)
"""Ridge penalties among which held-out error chooses, for each size of panel."""

_SIZES = (8, 16, 32, 64, 128, 256, 512, 1024, 2048)
_PANELS = 2  # random panels a size and fold
_LARGE = 256  # genes of a panel above which one is enough
_JUDGED = 256  # samples a fold on which a penalty is judged
_TARGETS = 512  # genes on which a penalty is judged
_MUCH = 5e8  # multiplications above which a covariance of all genes is kept at hand, if it is not too large

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
    _kept: dict[str, Tensor] = dataclasses.field(default_factory=dict, init=False, repr=False)

    def shrinkage_at(self, size: int) -> float:
        """Return the shrinkage for a panel of ``size`` genes (equation I7)."""
        return equations.panel_shrinkage(size, self.sizes, self.penalties)

    def standardise(self, values: Tensor, observed: Int[Tensor, " observed"]) -> Tensor:
        """Return values of the genes ``observed`` in standard deviations from the training mean."""
        return self.state.standardise(values, observed)

    def bounded(self, values: Tensor, observed: Int[Tensor, " observed"]) -> Tensor:
        """Return the same, cut at 5 standard deviations: what heads and network see.

        A gene that hardly varied in training, and is far away in a new patient, would else decide a risk by itself.
        """
        return self.standardise(values, observed).clamp(-REACH, REACH)

    def condition(
        self,
        values: Float[Tensor, "sample observed"],
        observed: Int[Tensor, " observed"],
        targets: Int[Tensor, " target"],
        *,
        variance: bool = False,
    ) -> tuple[Float[Tensor, "sample target"], Float[Tensor, " target"] | None]:
        """Return means and variances of the targets on the scale of the values; no target may be among the observed genes."""
        state, stretch = self.state, self._stretch(len(observed))
        z = self.standardise(values, observed)
        if len(observed) > state.factors.shape[1]:
            # Fewer factors than genes: solved in the factors.
            return condition(
                with_shrinkage(state, self.shrinkage_at(len(observed))), values, observed, targets, variance=variance
            )
        root = self._root(observed)
        across = stretch * (state.factors[observed] @ state.factors[targets].T)
        mean = torch.cholesky_solve(z.T, root).T @ across
        restored = state.mean[targets] + state.scale[targets] * mean
        if not variance:
            return restored, None
        own = state.factors[targets].square().sum(1) + state.noise[targets]
        left = (
            stretch * own
            + self._lift(len(observed))
            - torch.linalg.solve_triangular(root, across, upper=False).square().sum(0)
        )
        return restored, state.scale[targets].square() * left.clamp_min(1e-12)

    def scores(
        self, values: Float[Tensor, "sample observed"], observed: Int[Tensor, " observed"]
    ) -> Float[Tensor, "sample dim"]:
        """Return the expected scores of the complete profiles given the panel, its values cut at 5 standard deviations."""
        if "projection" not in self._kept:
            self._kept["projection"] = self.state.factors.T @ self.basis
        stretch = self._stretch(len(observed))
        if len(observed) > self.state.factors.shape[1]:
            state = with_shrinkage(self.state, self.shrinkage_at(len(observed)))
            values = state.mean[observed] + state.scale[observed] * self.bounded(values, observed)
            return stretch**0.5 * posterior_factors(state, values, observed) @ self._kept["projection"]
        solved = torch.cholesky_solve(self.bounded(values, observed).T, self._root(observed)).T
        return stretch * solved @ self.state.factors[observed] @ self._kept["projection"]

    def score_map(self, observed: Int[Tensor, " observed"]) -> Float[Tensor, "observed dim"]:
        """Return the matrix that takes standardised values of the panel to :meth:`scores`; they are linear in them."""
        unit = self.state.mean[observed] + torch.diag(self.state.scale[observed])
        return self.scores(unit, observed)

    # The covariance at another shrinkage is that of the stored state, stretched, plus a multiple of the identity.

    def _stretch(self, size: int) -> float:
        return (1 - self.shrinkage_at(size)) / (1 - float(self.state.shrinkage))

    def _lift(self, size: int) -> float:
        return self.shrinkage_at(size) - self._stretch(size) * float(self.state.shrinkage)

    def _root(self, observed: Tensor) -> Tensor:
        """Return the Cholesky root of the covariance of the observed genes."""
        state, size = self.state, len(observed)
        if size**2 * state.factors.shape[1] > _MUCH and state.covariance is not None:
            own = state.covariance[observed[:, None], observed]
        else:
            factors = state.factors[observed]
            own = factors @ factors.T + torch.diag(state.noise[observed])
        return torch.linalg.cholesky(self._stretch(size) * own + self._lift(size) * torch.eye(size, dtype=own.dtype))

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
    values: Float[Tensor, "sample gene"],
    *,
    seed: int,
    folds: int,
    components: int,
    like: LinearSkip | None = None,
    cross: bool = True,
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
    cross
        Whether to fit without each fold; if not, gaps are filled by the Gaussian of all samples, and ``like`` must be given.

    Returns
    -------
    The skip of all samples, and the skips of the folds, from which a sample is restored by a Gaussian that never saw it.
    """
    n = len(values)
    folds = max(2, min(folds, n // 2))
    fold = torch.from_numpy(stream(seed, "skip/folds").permutation(n) % folds)
    parts = range(folds if cross else 0)
    states = [fit_gaussian(values[fold != k], shrinkage=_START, seed=seed) for k in parts]
    whole = fit_gaussian(values, shrinkage=_START, seed=seed)
    filled = values.clone()
    if not cross and bool(values.isnan().any()):
        filled = restore(whole, values, variance=False)[0]
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
    skips = tuple(LinearSkip(state, sizes, penalties, basis) for state in states)
    return LinearSkip(whole, sizes, penalties, basis), CrossFit(skips, fold, filled)


def _choose(
    states: list[GaussianState], fold: Tensor, filled: Tensor, values: Tensor, seed: int
) -> tuple[tuple[int, ...], tuple[float, ...]]:
    """Return panel sizes and the penalty of the least error outside the fold at each."""
    n_genes = values.shape[1]
    sizes = tuple(one for one in _SIZES if one < n_genes) or (max(1, n_genes // 2),)
    errors = np.zeros((len(sizes), len(PENALTIES)))
    for i, size in enumerate(sizes):
        for k, state in enumerate(states):
            # Rows are often sorted by cohort: the first would not stand for all.
            mine = np.flatnonzero((fold == k).numpy())
            rows = torch.from_numpy(stream(seed, "skip/rows", i, k).permutation(mine)[:_JUDGED])
            for panel in range(_PANELS if size <= _LARGE else 1):
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
