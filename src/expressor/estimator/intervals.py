"""How wide an interval of a restored value must be: held-out samples show panels of genes, and the rest is restored."""

from collections.abc import Callable

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from expressor.core.rng import stream

COVERAGES = tuple(round(0.5 + 0.01 * i, 2) for i in range(50)) + (0.995,)
"""Coverages for which a quantile is kept."""
SHOWN = (0.05, 0.25, 0.75)
"""Shares of the genes that are shown, one after the other."""
PRIOR = 10.0
"""Errors of size 1 that every gene is credited with."""
_GENES = 2000  # errors of a panel that are looked at for the common quantiles

Restore = Callable[[Tensor, Tensor, Tensor], tuple[Tensor, Tensor]]
"""From values (sample, observed), observed and wanted genes to means (sample, target) and variances (target,), 0 where unknown."""


def gene_inflation(squares: Float[Tensor, " gene"], n: Float[Tensor, " gene"], nu: float) -> Float[Tensor, " gene"]:
    """Return by how much each gene's errors exceed their standard errors.

    Parameters
    ----------
    squares, n
        Summed squared errors, in standard errors, and their number.
    nu
        So many errors of size 1 are added.
    """
    return ((nu + squares) / (nu + n)).sqrt()


def calibrate(
    values: Tensor, fit: Callable[[Tensor], Restore], *, folds: int, seed: int
) -> tuple[np.ndarray, np.ndarray]:
    """Return the inflation of each gene (gene,) and the quantile of each of ``COVERAGES``.

    Parameters
    ----------
    values
        (sample, gene), NaN where nothing was measured.
    fit
        Learns from samples (sample, gene) what restores others; every gene and every sample of them has a value.
    folds
        Into how many parts the samples are divided, >= 2.
    seed
        Of folds and panels.
    """
    n, p = values.shape
    fold = stream(seed, "calibration folds").permutation(n) % folds
    squares, number = torch.zeros(p, dtype=torch.float64), torch.zeros(p, dtype=torch.float64)
    errors: list[tuple[Tensor, Tensor]] = []
    for i in range(folds):
        train, test = values[torch.from_numpy(fold != i)], values[torch.from_numpy(fold == i)]
        seen = torch.nonzero((~train.isnan()).any(0)).squeeze(1)
        restore = fit(train[:, seen][(~train[:, seen].isnan()).any(1)])
        for j, share in enumerate(SHOWN):
            order = torch.from_numpy(stream(seed, "calibration panels", i, j).permutation(len(seen)))
            shown, hidden = order[: max(1, round(share * len(seen)))], order[max(1, round(share * len(seen))) :]
            known = (~test[:, seen[shown]].isnan()).all(1)
            if not len(hidden) or not bool(known.any()):
                continue
            rows = test[known]
            mean, variance = restore(rows[:, seen[shown]], shown, hidden)
            usable = variance > 0
            hidden, mean = hidden[usable], mean[:, usable]
            r = (rows[:, seen[hidden]] - mean) / variance[usable].sqrt()
            squares[seen[hidden]] += r.nan_to_num().square().sum(0)
            number[seen[hidden]] += (~r.isnan()).sum(0)
            errors.append((seen[hidden][:_GENES], r[:, :_GENES]))
    inflation = gene_inflation(squares, number, PRIOR)
    sizes = torch.cat([(r / inflation[genes]).abs().ravel() for genes, r in errors]) if errors else torch.empty(0)
    sizes = sizes[~sizes.isnan()]
    if not len(sizes):
        # No sample shows a whole panel: the normal distribution's own quantiles.
        normal = torch.distributions.Normal(0.0, 1.0)
        return inflation.numpy(), normal.icdf(0.5 + torch.tensor(COVERAGES, dtype=torch.float64) / 2).numpy()
    return inflation.numpy(), np.quantile(sizes.numpy(), COVERAGES)


def quantile_at(quantiles: np.ndarray, coverage: float) -> float:
    """Return the quantile of the next kept coverage at or above ``coverage``."""
    place = int(np.searchsorted(np.asarray(COVERAGES), coverage - 1e-9))
    return float(quantiles[min(place, len(COVERAGES) - 1)])
