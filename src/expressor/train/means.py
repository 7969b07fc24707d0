"""Mean losses that do not depend on how many processes share a step."""

import torch
from torch import Tensor, distributed


def mean_where(values: Tensor, wanted: Tensor) -> Tensor:
    """Return the mean of the wanted values, 0 where none is wanted; of several processes, their part of the mean of all.

    Gradients are averaged over processes. Had each its own denominator, each would count alike, however little its cells have to
    compare. Here the denominator is the mean over processes, so that the average is the mean over all that they compare, as one
    process would take it.

    Parameters
    ----------
    values
        Any shape.
    wanted
        bool, of the same shape. Where gradients are on, every process must ask in the same order.

    Returns
    -------
    Tensor
        Scalar.
    """
    n = wanted.sum()
    if torch.is_grad_enabled() and distributed.is_available() and distributed.is_initialized():
        n = n.to(torch.float64)
        distributed.all_reduce(n)
        n = n / distributed.get_world_size()
    return torch.where(wanted, values, 0.0).sum() / torch.where(n > 0, n, 1).to(values.dtype)
