"""A linear layer whose weights live on the edges of a bipartite graph alone: what is not joined has no weight, not a zero.

Weights, gradients and the optimiser's moments are vectors over edges. No matrix of outputs by inputs is ever made: 26,000 edges
between 20,000 and 20,000 genes take 0.1 MB where a dense layer takes 1.6 GB.
"""

from collections.abc import Iterator
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from expressor.core.errors import DataError, check_choice, check_range

LOST = ("learned", "mean")
_EDGES_AT_ONCE = 4096


class _EdgeProduct(torch.autograd.Function):
    """y[:, row] += w * x[:, column] over edges; keeps x and w alone, and gathers anew on the way back."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, rows: Tensor, columns: Tensor, n_rows: int) -> Tensor:
        ctx.save_for_backward(x, weight, rows, columns)
        y = x.new_zeros(len(x), n_rows)
        for part in _parts(len(rows)):
            y.index_add_(1, rows[part], x.index_select(1, columns[part]).mul_(weight[part]))
        return y

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, Tensor | None, None, None, None]:
        x, weight, rows, columns = ctx.saved_tensors
        to_weight = torch.empty_like(weight) if ctx.needs_input_grad[1] else None
        to_x = torch.zeros_like(x) if ctx.needs_input_grad[0] else None
        for part in _parts(len(rows)):
            from_above = gradients[0].index_select(1, rows[part])
            if to_weight is not None:
                to_weight[part] = x.index_select(1, columns[part]).mul_(from_above).sum(0)
            if to_x is not None:
                to_x.index_add_(1, columns[part], from_above.mul_(weight[part]))
        return to_x, to_weight, None, None, None


def _parts(n: int) -> Iterator[slice]:
    """Edges in parts: what is gathered for them is (obs, edge), and would be the largest thing in memory."""
    for start in range(0, n, _EDGES_AT_ONCE):
        yield slice(start, start + _EDGES_AT_ONCE)


def multiply_edges(
    x: Float[Tensor, "obs column"],
    weight: Float[Tensor, " edge"],
    rows: Int[Tensor, " edge"],
    columns: Int[Tensor, " edge"],
    n_rows: int,
) -> Float[Tensor, "obs row"]:
    """Return x W^T for the sparse matrix W whose entry (``rows[e]``, ``columns[e]``) is ``weight[e]``; differentiable in both.

    Parameters
    ----------
    x
        Inputs.
    weight, rows, columns
        The edges, each pair once, in any order.
    n_rows
        Number of outputs.
    """
    return _EdgeProduct.apply(x, weight, rows, columns, n_rows)  # type: ignore[no-any-return]


class MaskedLinear(nn.Module):
    """y = (W * M) x + b, where M is the biadjacency matrix of a graph between outputs (rows) and inputs (columns).

    Parameters
    ----------
    rows, columns
        Output and input of each edge, int64 (edge,), no pair twice.
    shape
        Number of outputs and of inputs.
    confidence
        M on the edges, > 0, (edge,); 1 where not given. An edge of low confidence starts smaller and moves less.
    offset
        b at the start, (row,); 0 where not given. An output without an edge is this and nothing else.
    lost
        What outputs without an edge give: ``"learned"``, a constant that is trained, or ``"mean"``, the offset as it was given.
    non_negative
        Keep every weight at 0 or above, by projection after each step.
    pull, l1
        Strengths of the pull of the weights to their start and of the penalty on absolute weights, >= 0; see :meth:`penalty`.
    frozen
        Train nothing: the layer averages.

    Attributes
    ----------
    weight
        Parameter (edge,). It starts so that each output is the mean of its inputs, weighted by confidence.
    bias
        Parameter (row,).
    """

    rows: Tensor
    columns: Tensor
    confidence: Tensor
    start: Tensor
    joined: Tensor

    def __init__(
        self,
        rows: Int[Tensor, " edge"],
        columns: Int[Tensor, " edge"],
        shape: tuple[int, int],
        *,
        confidence: Float[Tensor, " edge"] | None = None,
        offset: Float[Tensor, " row"] | None = None,
        lost: str = "learned",
        non_negative: bool = False,
        pull: float = 0.0,
        l1: float = 0.0,
        frozen: bool = False,
    ) -> None:
        super().__init__()
        check_choice(lost, LOST, name="lost")
        check_range(pull, name="pull", low=0)
        check_range(l1, name="l1", low=0)
        _check_edges(rows, columns, shape, confidence)
        self.shape, self.lost, self.non_negative, self.pull, self.l1 = shape, lost, non_negative, pull, l1
        confidence = torch.ones(len(rows)) if confidence is None else confidence
        total = torch.zeros(shape[0], dtype=confidence.dtype).index_add_(0, rows, confidence)
        self.register_buffer("rows", rows.clone())
        self.register_buffer("columns", columns.clone())
        self.register_buffer("confidence", confidence.clone())
        self.register_buffer("start", 1.0 / total[rows])
        self.weight = nn.Parameter(self.start.clone(), requires_grad=not frozen)
        offset = torch.zeros(shape[0], dtype=confidence.dtype) if offset is None else offset
        self.bias = nn.Parameter(offset.clone(), requires_grad=not frozen)
        self.register_buffer("joined", total > 0)

    def rescale(self, factor: Float[Tensor, " row"], offset: Float[Tensor, " row"]) -> None:
        """Multiply the weights of each output by ``factor``, and set the offset: another start, from which penalties count too."""
        with torch.no_grad():
            self.start.mul_(factor[self.rows])
            self.weight.copy_(self.start)
            self.bias.copy_(offset)

    def edge_weights(self) -> Float[Tensor, " edge"]:
        """Return W * M on the edges."""
        weight = self.weight.clamp(min=0.0) if self.non_negative else self.weight
        return weight * self.confidence

    def forward(self, x: Float[Tensor, "obs column"]) -> Float[Tensor, "obs row"]:
        """Return the outputs."""
        if self.non_negative and self.training:
            # Projected before the gradient is taken: a weight below 0 would have none, and stay there for good.
            with torch.no_grad():
                self.weight.clamp_(min=0.0)
        weight = self.weight * self.confidence if self.training else self.edge_weights()
        bias = self.bias if self.lost == "learned" else torch.where(self.joined, self.bias, self.bias.detach())
        return multiply_edges(x, weight, self.rows, self.columns, self.shape[0]).add_(bias)

    def penalty(self) -> Float[Tensor, ""]:
        """Return ``pull * sum((w - start)^2) + l1 * sum(|w|)`` over the edges, to be added to the loss."""
        total = self.weight.new_zeros(())
        if self.pull:
            total = total + self.pull * (self.weight - self.start).square().sum()
        if self.l1:
            total = total + self.l1 * self.weight.abs().sum()
        return total


def _check_edges(rows: Tensor, columns: Tensor, shape: tuple[int, int], confidence: Tensor | None) -> None:
    if not len(rows) or len(rows) != len(columns):
        raise DataError("a masked layer needs edges", expected="as many rows as columns, at least 1",
                        got=f"{len(rows)} and {len(columns)}")  # fmt: skip
    for name, index, size in (("row", rows, shape[0]), ("column", columns, shape[1])):
        low, high = int(index.min()), int(index.max())
        if low < 0 or high >= size:
            raise DataError(
                f"a {name} of an edge is out of range", expected=f"0 to {size - 1}", got=low if low < 0 else high
            )
    if len(torch.unique(rows * shape[1] + columns)) != len(rows):
        raise DataError("a pair of row and column stands in two edges", expected="each pair once")
    if confidence is not None and not bool((confidence > 0).all()):
        raise DataError("an edge has no confidence", expected="numbers above 0", got=float(confidence.min()))
