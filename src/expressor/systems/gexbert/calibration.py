"""Intervals of restored values: the closed form's standard deviation, stretched to what held-out errors demand."""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from expressor.core.rng import stream
from expressor.systems.gexbert import equations
from expressor.systems.gexbert.restorer import Restorer
from expressor.systems.gexbert.skip import CrossFit

COVERAGES = tuple(round(0.5 + 0.01 * i, 2) for i in range(50)) + (0.995,)
"""Coverages for which a quantile is kept."""

_SHARES = (0.02, 0.1, 0.5)  # of the genes that are shown
_PRIOR = 10.0  # errors' worth of the belief that a gene's own spread needs no stretching
_TARGETS = 1000


@dataclass(frozen=True, eq=False)
class Calibration:
    """How far to stretch.

    Attributes
    ----------
    stretch
        float64 (gene,): of each gene's standard deviation.
    quantiles
        float64 (coverage,): half-widths in stretched standard deviations, for each of ``COVERAGES``.
    """

    stretch: np.ndarray
    quantiles: np.ndarray

    def quantile(self, coverage: float) -> float:
        """Return the half-width, in stretched standard deviations, at ``coverage``; between kept ones that of the next above."""
        place = int(np.searchsorted(COVERAGES, coverage - 1e-9))
        return float(self.quantiles[min(place, len(COVERAGES) - 1)])


def panels(n_genes: int, seed: int, purpose: str, part: int) -> list[tuple[Tensor, Tensor]]:
    """Return a panel and its targets for each share of the genes."""
    found = []
    for i, share in enumerate(_SHARES):
        order = torch.from_numpy(stream(seed, purpose, part, i).permutation(n_genes))
        size = min(max(1, round(share * n_genes)), n_genes - 1)
        found.append((order[:size], order[size:]))
    return found


def stretch_of(cross: CrossFit, values: Tensor, *, seed: int) -> np.ndarray:
    """Return by how much each gene's errors outside the fold exceed the closed form's standard deviation, float64 (gene,)."""
    n_genes = values.shape[1]
    square, number = torch.zeros(n_genes, dtype=torch.float64), torch.zeros(n_genes, dtype=torch.float64)
    for k, skip in enumerate(cross.parts):
        rows = torch.nonzero(cross.fold == k).squeeze(1)
        for observed, targets in panels(n_genes, seed, "stretch", k):
            mean, variance = skip.condition(cross.filled[rows][:, observed], observed, targets, variance=True)
            error = (values[rows][:, targets] - mean).square() / variance.clamp_min(1e-24)  # type: ignore[union-attr]
            # A gene that is constant in the fold's training samples has no standard deviation to stretch.
            error[:, skip.state.scale[targets] == 0] = torch.nan
            square[targets] += torch.nan_to_num(error).sum(0)
            number[targets] += (~error.isnan()).sum(0)
    return ((square + _PRIOR) / (number + _PRIOR)).sqrt().numpy()


def calibrate(
    restorer: Restorer, values: Tensor, pipeline: Tensor | None, *, stretch: np.ndarray, seed: int
) -> Calibration:
    """Return the calibration from ``values`` (sample, gene) of patients that the restorer was not fitted on."""
    n_genes = values.shape[1]
    usable = restorer.skip.state.scale > 0
    rows: list[Tensor] = []
    for observed, targets in panels(n_genes, seed, "calibrate", 0):
        targets = targets[usable[targets]][:_TARGETS]
        known = ~values[:, observed].isnan()
        shown = values.clone()
        hidden = torch.ones(n_genes, dtype=torch.bool)
        hidden[observed] = False
        shown[:, hidden] = torch.nan
        there = known.any(1)
        if not len(targets) or not bool(there.any()):
            continue
        error = torch.full((len(values), len(targets)), torch.nan, dtype=torch.float64)
        codes = None if pipeline is None else pipeline[there]
        full, spread = restorer.restore(shown[there], codes, variance=True)
        stretched = spread[:, targets] * torch.from_numpy(stretch)[targets]
        error[there] = (values[there][:, targets] - full[:, targets]).abs() / stretched
        rows.append(error)
    errors = torch.cat(rows, dim=1)
    return Calibration(stretch, equations.patient_quantile(errors, COVERAGES).numpy())
