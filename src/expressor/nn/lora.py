"""Fine-tuning by small additions: linear layers stay as they are, and a product of two thin matrices is learnt beside each."""

import math
from collections.abc import Iterable

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from expressor.core.errors import DataError, check_range


class LowRankLinear(nn.Module):
    """A frozen linear layer plus a learnt product of two thin matrices: W x + b + (alpha / rank) B A x (Hu et al. 2022).

    B starts at zero, so that nothing changes before training.

    Parameters
    ----------
    layer
        The layer; its weights no longer learn.
    rank
        Rows of A, >= 1.
    alpha
        Strength of the addition, > 0.
    """

    def __init__(self, layer: nn.Linear, rank: int, alpha: float) -> None:
        super().__init__()
        check_range(rank, name="rank", low=1, integer=True)
        check_range(alpha, name="alpha", low=0, open_low=True)
        self.layer = layer.requires_grad_(False)
        self.down = nn.Parameter(torch.empty(rank, layer.in_features))
        self.up = nn.Parameter(torch.zeros(layer.out_features, rank))
        self.strength = alpha / rank
        nn.init.kaiming_uniform_(self.down, a=math.sqrt(5))

    def forward(self, inputs: Float[Tensor, "*cell dim"]) -> Float[Tensor, "*cell output"]:
        """Return the layer's output with the addition."""
        return self.layer(inputs) + self.strength * F.linear(F.linear(inputs, self.down), self.up)

    def merged(self) -> nn.Linear:
        """Return one linear layer that gives the same; it learns as any other does."""
        layer = self.layer.requires_grad_(True)
        with torch.no_grad():
            layer.weight += self.strength * self.up @ self.down
        return layer


def add_low_rank(module: nn.Module, names: Iterable[str], *, rank: int = 16, alpha: float = 32.0) -> list[str]:
    """Freeze ``module`` in place but for low-rank additions beside its linear layers of these names.

    Parameters
    ----------
    module
        Any network.
    names
        Last parts of the names of linear layers, such as ``"query"``.
    rank, alpha
        See :class:`LowRankLinear`.

    Returns
    -------
    Full names of the layers that were changed.

    Raises
    ------
    DataError
        No linear layer has such a name.
    """
    wanted = set(names)
    module.requires_grad_(False)
    found = [
        name for name, one in module.named_modules() if isinstance(one, nn.Linear) and name.split(".")[-1] in wanted
    ]
    if not found:
        raise DataError("no linear layer to adapt", expected=f"one named {', '.join(sorted(wanted))}",
                        fix="Name layers of this network.")  # fmt: skip
    for name in found:
        parent, _, last = name.rpartition(".")
        setattr(module.get_submodule(parent), last, LowRankLinear(module.get_submodule(name), rank, alpha))  # type: ignore[arg-type]
    return found


def merge_low_rank(module: nn.Module) -> None:
    """Fold every low-rank addition of ``module`` into its layer, in place; the network gives the same and is as it was built."""
    for name in [name for name, one in module.named_modules() if isinstance(one, LowRankLinear)]:
        parent, _, last = name.rpartition(".")
        setattr(module.get_submodule(parent), last, module.get_submodule(name).merged())  # type: ignore[operator]
    module.requires_grad_(True)
