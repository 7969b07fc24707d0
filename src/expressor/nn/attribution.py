"""Which inputs an output depends on: integrated gradients, and attention rolled out over layers."""

from collections.abc import Callable, Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from expressor.core.errors import DataError, check_range


def integrated_gradients(
    function: Callable[[Tensor], Tensor],
    inputs: Float[Tensor, "sample token"],
    baseline: Float[Tensor, "sample token"],
    *,
    steps: int = 32,
) -> Float[Tensor, "sample token"]:
    """Return each input's share of ``function(inputs) - function(baseline)`` (Sundararajan et al. 2017).

    Parameters
    ----------
    function
        Maps (sample, token) to one number a sample, (sample,); a sample's number must depend on its own row alone.
    inputs, baseline
        End and start of the straight path along which gradients are averaged.
    steps
        Points of the midpoint rule, >= 1. The shares of a sample add up to the difference of the function as it grows.
    """
    check_range(steps, name="steps", low=1, integer=True)
    difference = inputs - baseline
    total = torch.zeros_like(inputs)
    for i in range(steps):
        place = (baseline + (i + 0.5) / steps * difference).detach().requires_grad_(True)
        (gradient,) = torch.autograd.grad(function(place).sum(), place)
        total += gradient
    return difference * total / steps


def attention_rollout(
    layers: Sequence[Float[Tensor, "sample head token token"]],
) -> Float[Tensor, "sample token token"]:
    """Return how much of each token's output came from each input token, following attention through all layers.

    The heads of a layer are averaged and mixed with the residual connection in equal parts; layers are multiplied (Abnar and
    Zuidema 2020). Rows add up to 1.

    Parameters
    ----------
    layers
        Attention weights of each layer, first layer first; at least one.
    """
    if not layers:
        raise DataError("there are no attention layers to roll out", expected="at least one")
    tokens = layers[0].shape[-1]
    eye = torch.eye(tokens, dtype=layers[0].dtype, device=layers[0].device)
    rolled = eye.expand(len(layers[0]), tokens, tokens)
    for one in layers:
        rolled = (0.5 * one.mean(dim=1) + 0.5 * eye) @ rolled
    return rolled
