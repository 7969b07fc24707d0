"""The correlation loss as it is computed: measured values prepared once a batch, predictions of no spot and gene ever made.

A linear head turns Pearson's r of a gene into products of its few weights with moments of the factors: with z the factors,
centred in a slide, and t the measured values, centred and of unit length there, ``r = w'(Z't) / sqrt(w'(Z'Z)w)``. So a step
costs (factor, gene) and not (spot, gene) numbers, which is most of the time where there are thousands of auxiliary genes.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from expressor.core.errors import DataError
from expressor.systems.agl.equations import EPS

_TINY = 1e-24


def prepare(measured: Tensor, member: Tensor) -> dict[str, Tensor]:
    """Return the measured values of a batch as the losses need them.

    Parameters
    ----------
    measured
        (spot, gene).
    member
        (slide, spot), 1 where a spot is of a slide.

    Returns
    -------
    ``unit``: (spot, gene), centred and of unit length in each slide, 0 where a gene does not vary. ``share``: (slide, gene),
    what each slide counts for a gene; adds up to 1, or to 0 for a gene that varies nowhere. ``member``: without slides of fewer
    than three spots.

    Raises
    ------
    DataError
        No slide has three spots.
    """
    member = member[member.sum(1) > 2]
    if not len(member):
        raise DataError("no slide has enough spots in a mini-batch", expected="at least 3 spots of a slide",
                        fix="Raise plan.batch_size.")  # fmt: skip
    mean = (member @ measured) / member.sum(1, keepdim=True)
    # Spots of slides that were left out stay as they are; membership 0 takes them out of every sum.
    unit = measured - member.T @ mean
    square = member @ (unit * unit)
    varies = square > 1e-10 * (member @ (measured * measured))
    unit = unit * (member.T @ torch.where(varies, square.clamp_min(_TINY).rsqrt(), 0.0))
    share = varies.to(measured.dtype)
    return {"unit": unit, "share": share / share.sum(0).clamp_min(1), "member": member}


@dataclass(frozen=True)
class Heads:
    """What a network gives for a batch: factors (spot, factor), weight (gene, factor), bias (gene,)."""

    factors: Tensor
    weight: Tensor
    bias: Tensor


def slide_losses(heads: Heads, prepared: Mapping[str, Tensor]) -> Tensor:
    """Return the loss of equation I2 of each gene that has a head, (gene,)."""
    n_genes, member = len(heads.weight), prepared["member"]
    unit, share = prepared["unit"][:, :n_genes], prepared["share"][:, :n_genes]
    mean = (member @ heads.factors) / member.sum(1, keepdim=True)
    z = heads.factors - member.T @ mean
    if heads.factors.shape[1] < len(heads.factors):
        inside = (member[:, :, None] * z).transpose(1, 2)  # (slide, factor, spot)
        product = ((inside @ unit) * heads.weight.T).sum(1)
        square = ((heads.weight @ (inside @ z)) * heads.weight).sum(2)
    else:
        predicted = z @ heads.weight.T
        product, square = member @ (predicted * unit), member @ (predicted * predicted)
    r = product / (square.clamp_min(_TINY).sqrt() + EPS)
    return 1 - (share * r).sum(0)
