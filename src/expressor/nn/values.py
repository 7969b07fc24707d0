"""From a number to a vector: learnt vectors of bins, small networks, waves; and a vector of its own for a value that is missing."""

import math
from typing import Protocol

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn
from torch.nn import functional as F

from expressor.core.errors import DataError, check_range


class ValueEncoder(Protocol):
    """What every encoder of values can do."""

    def __call__(
        self, values: Float[Tensor, "sample token"], missing: Bool[Tensor, "sample token"]
    ) -> Float[Tensor, "sample token dim"]:
        """Return the vector of each value, or that of a missing one."""
        ...


class BinnedValues(nn.Module):
    """A table of vectors, one a bin of the value's range; row 0 stands for a missing value.

    Parameters
    ----------
    edges
        Inner edges of the bins, rising, (edge,); there is one bin more than edges.
    dim
        Length of the vectors.
    """

    def __init__(self, edges: Float[Tensor, " edge"], dim: int) -> None:
        super().__init__()
        if len(edges) < 1 or bool((edges.diff() <= 0).any()):
            raise DataError("the edges of value bins do not rise", expected="at least one edge, each above the last")
        self.edges: Tensor
        self.register_buffer("edges", edges.float())
        self.table = nn.Embedding(len(edges) + 2, dim)

    def levels(self, values: Float[Tensor, "sample token"], missing: Bool[Tensor, "sample token"]) -> Tensor:
        """Return the row of the table of each value, int64 (sample, token): 0 where missing, else 1 and up."""
        return torch.where(missing, 0, torch.bucketize(values, self.edges, right=True) + 1)

    def forward(
        self, values: Float[Tensor, "sample token"], missing: Bool[Tensor, "sample token"]
    ) -> Float[Tensor, "sample token dim"]:
        """Return the vector of each value's bin."""
        return self.table(self.levels(values, missing))


class ContinuousValues(nn.Module):
    """A network with one hidden layer from the value to a vector, and a learnt vector for a missing value.

    Parameters
    ----------
    dim
        Length of the vectors.
    hidden
        Units of the hidden layer.
    """

    def __init__(self, dim: int, hidden: int = 32) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(1, hidden), nn.GELU(), nn.Linear(hidden, dim))
        self.missing = nn.Parameter(torch.zeros(dim))

    def forward(
        self, values: Float[Tensor, "sample token"], missing: Bool[Tensor, "sample token"]
    ) -> Float[Tensor, "sample token dim"]:
        """Return the vector of each value."""
        return torch.where(missing[..., None], self.missing, self.layers(values[..., None]))


class RectifiedValues(nn.Module):
    """Two layers with leaky rectifiers from the value to a vector; optionally a table for what is no number.

    Parameters
    ----------
    dim
        Length of the vectors.
    hidden
        Units of the hidden layer.
    table
        Rows of the table of hidden vectors: 0, where a missing value counts as 0; 1 for a missing value; 2 for a missing value and
        for a value of exactly 0.
    """

    def __init__(self, dim: int, hidden: int = 128, *, table: int = 2) -> None:
        super().__init__()
        check_range(table, name="table", low=0, high=2, integer=True)
        self.first, self.second = nn.Linear(1, hidden), nn.Linear(hidden, dim)
        self.table = nn.Embedding(table, hidden) if table else None

    def forward(
        self, values: Float[Tensor, "sample token"], missing: Bool[Tensor, "sample token"]
    ) -> Float[Tensor, "sample token dim"]:
        """Return the vector of each value."""
        values = torch.where(missing, 0.0, values)
        inside = F.leaky_relu(self.first(values[..., None]))
        if self.table is None:
            return F.leaky_relu(self.second(inside))
        rows, special = _special(values, missing, self.table.num_embeddings)
        inside = torch.where(special[..., None], self.table(rows), inside)
        return self.second(F.leaky_relu(inside))


class WaveValues(nn.Module):
    """Sines and cosines of the value at many frequencies, then a linear layer without bias; a table for what is no number.

    Parameters
    ----------
    dim
        Length of the vectors.
    frequencies
        Number of frequencies, >= 1.
    scale
        Frequencies are 2 pi ``scale`` and its doublings where they are fixed, and normal with that spread where they are learnt.
    trainable
        Whether frequencies are learnt.
    zero
        Whether a value of exactly 0 has a vector of its own.
    centres, slopes
        Sigmoids of the value, sigma(slope * value - centre), as further features; as many of one as of the other.
    """

    def __init__(
        self,
        dim: int,
        frequencies: int = 48,
        *,
        scale: float = 1.5,
        trainable: bool = True,
        zero: bool = True,
        centres: tuple[float, ...] = (),
        slopes: tuple[float, ...] = (),
    ) -> None:
        super().__init__()
        check_range(frequencies, name="frequencies", low=1, integer=True)
        if len(centres) != len(slopes):
            raise DataError("centres and slopes of sigmoids differ in number", expected=len(centres), got=len(slopes))
        first = 2 * math.pi * scale
        self.basis: Tensor
        self.centres: Tensor
        self.slopes: Tensor
        if trainable:
            self.basis = nn.Parameter(first * torch.randn(frequencies))
        else:
            self.register_buffer("basis", first * 2.0 ** torch.arange(frequencies))
        self.register_buffer("centres", torch.tensor(centres))
        self.register_buffer("slopes", torch.tensor(slopes))
        self.table = nn.Embedding(2 if zero else 1, dim)
        self.out = nn.Linear(2 * frequencies + len(centres), dim, bias=False)

    def forward(
        self, values: Float[Tensor, "sample token"], missing: Bool[Tensor, "sample token"]
    ) -> Float[Tensor, "sample token dim"]:
        """Return the vector of each value."""
        values = torch.where(missing, 0.0, values)
        angle = values[..., None] * self.basis
        steps = torch.sigmoid(values[..., None] * self.slopes - self.centres)
        found = self.out(torch.cat([angle.sin(), angle.cos(), steps], dim=-1))
        rows, special = _special(values, missing, self.table.num_embeddings)
        return torch.where(special[..., None], self.table(rows), found)


def _special(values: Tensor, missing: Tensor, rows: int) -> tuple[Tensor, Tensor]:
    """Return the row of a table, 0 where missing and 1 elsewhere, and where that row stands for the value."""
    special = missing | (values == 0) if rows == 2 else missing
    return torch.where(missing, 0, rows - 1), special
