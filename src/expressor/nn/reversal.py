"""Gradient reversal: nothing changes forwards; backwards the gradient is turned round (Ganin and Lempitsky 2015)."""

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor


class _Reversal(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, values: Tensor, strength: float) -> Tensor:
        ctx.strength = strength
        return values.view_as(values)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:  # type: ignore[override]
        return -ctx.strength * gradient, None


def reverse_gradient(values: Float[Tensor, "*cell"], strength: float) -> Float[Tensor, "*cell"]:
    """Return ``values``; the gradient that comes back through them is multiplied by ``-strength``."""
    return _Reversal.apply(values, strength)  # type: ignore[no-any-return]
