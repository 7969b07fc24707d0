"""Choosing the best k of a ranked list so that k can be learnt by gradient: a soft step over ranks."""

import math

import torch
from jaxtyping import Float, Int
from torch import Tensor

from expressor.core.errors import DataError, check_range


def relaxed_top_k(
    rank: Float[Tensor, " gene"], threshold: Float[Tensor, ""], *, temperature: float
) -> Float[Tensor, " gene"]:
    """Return soft memberships of the top of a ranking, ``sigmoid((threshold - rank) / temperature)``.

    Parameters
    ----------
    rank
        Position of each gene, best first, in the unit of ``threshold`` (for instance scaled to [0, 1]).
    threshold
        Where the soft step stands; weights are 1/2 there. Any real number; differentiable.
    temperature
        Width of the step, > 0, in the unit of the ranks. Towards 0 the weights become those of :func:`hard_top_k`.

    Returns
    -------
    Weights in [0, 1], falling with rank.
    """
    check_range(temperature, name="temperature", low=0, open_low=True)
    return torch.sigmoid((threshold - rank) / temperature)


def hard_top_k(position: Int[Tensor, " gene"], k: int) -> Float[Tensor, " gene"]:
    """Return 1 for the ``k`` genes of the first positions (0, 1, ...) and 0 for the others."""
    check_range(k, name="k", low=0, high=position.numel(), integer=True)
    return (position < k).to(torch.get_default_dtype())


def threshold_range(temperature: float, *, floor: float = 1e-3) -> tuple[float, float]:
    """Return the thresholds at which the weights of *all* ranks in [0, 1] are below ``floor``, and above ``1 - floor``.

    A threshold that is kept inside this range can switch off every gene, or none, and never drifts so far that the
    gradient is lost for good.

    Parameters
    ----------
    temperature
        Width of the soft step, > 0, for ranks scaled to [0, 1].
    floor
        Weight below which a gene counts as left out, in (0, 1/2).
    """
    check_range(temperature, name="temperature", low=0, open_low=True)
    check_range(floor, name="floor", low=0, high=0.5, open_low=True, open_high=True)
    # One thousandth of a temperature further, so that rounding cannot leave the best gene at the floor itself.
    reach = temperature * (math.log((1 - floor) / floor) + 1e-3)
    return -reach, 1.0 + reach


def count_active(weight: Float[Tensor, " gene"], *, floor: float = 1e-3) -> int:
    """Return how many leading weights of a ranking are at least ``floor``: the heads that must be computed.

    Parameters
    ----------
    weight
        Weights in order of rank; they must not rise.
    floor
        In (0, 1).

    Raises
    ------
    DataError
        The weights rise somewhere, so that those above the floor are not the leading ones.
    """
    check_range(floor, name="floor", low=0, high=1, open_low=True, open_high=True)
    kept = weight.detach() >= floor
    n_kept = int(kept.sum())
    if not bool(kept[:n_kept].all()):
        raise DataError("the weights are not in order of rank", expected="weights that never rise")
    return n_kept
