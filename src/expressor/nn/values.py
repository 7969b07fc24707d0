"""From a number to a vector: learnt vectors of bins, or a small network; and a vector of its own for a value that is missing."""

from typing import Protocol

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from expressor.core.errors import DataError


class ValueEncoder(Protocol):
    """What both encoders can do."""

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
