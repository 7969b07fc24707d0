"""What several processes computed, put together in the order of the rows."""

from typing import Any

import torch
from torch import Tensor


def gather_rows(fabric: Any, part: Tensor) -> Tensor:
    """Return the rows of all processes, those of process 0 first; the same on every process.

    Parameters
    ----------
    fabric
        As :func:`~expressor.train.loop.make_fabric` returns it.
    part
        Rows of this process, (row, ...). Their number may differ between processes, such as the shares of
        :func:`expressor.data.in_order`.
    """
    if fabric.world_size == 1:
        return part
    sizes = fabric.all_gather(torch.tensor(len(part), device=part.device)).tolist()
    padded = part.new_zeros((max(sizes), *part.shape[1:]))
    padded[: len(part)] = part
    return torch.cat([rows[:size] for rows, size in zip(fabric.all_gather(padded), sizes)])
