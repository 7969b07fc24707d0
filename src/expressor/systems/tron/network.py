"""The conversion layer in front of the source's network, and what it is trained on."""

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn

from expressor.core.rng import stream
from expressor.nn.cox import cox_loss
from expressor.nn.masked_linear import MaskedLinear


class Transfer(nn.Module):
    """y = f(c(x)): conversion, then the source's network.

    The network stays in evaluation mode, also where it is trained along: no dropout, no batch statistics of the few cells.

    Parameters
    ----------
    conversion, network
        The two parts.
    joint
        Whether the network is trained along.
    """

    def __init__(self, conversion: MaskedLinear, network: nn.Module, *, joint: bool) -> None:
        super().__init__()
        self.conversion, self.network = conversion, network.eval()
        for one in network.parameters():
            one.requires_grad_(joint)

    def train(self, mode: bool = True) -> "Transfer":
        """Set the mode of the conversion."""
        self.training = mode
        self.conversion.train(mode)
        return self

    def forward(self, x: Float[Tensor, "obs column"]) -> Float[Tensor, "obs output"]:
        """Return logits, numbers or log risk from expression of the target species."""
        return self.network(self.conversion(x))  # type: ignore[no-any-return]


class Batches:
    """Batches of labelled observations, in an order that epoch and seed decide.

    Parameters
    ----------
    tensors
        By name, all of one length.
    size
        Observations a batch; all at once where it is None.
    seed
        Of the order.
    """

    def __init__(self, tensors: Mapping[str, Tensor], *, size: int | None, seed: int) -> None:
        self.tensors, self.seed = dict(tensors), seed
        self.n = len(next(iter(self.tensors.values())))
        self.size = self.n if size is None else min(size, self.n)

    def __call__(self, epoch: int, rank: int, world: int) -> Sequence[Mapping[str, Tensor]]:
        """Return the batches of an epoch for one process."""
        order = stream(self.seed, "transfer batches", epoch).permutation(self.n)
        parts = np.array_split(order, max(1, self.n // self.size))[rank::world]
        return [{name: one[torch.from_numpy(part)] for name, one in self.tensors.items()} for part in parts]


def transfer_loss(kind: str, output: Tensor, batch: Mapping[str, Tensor]) -> Tensor:
    """Return the loss of a batch: weighted cross-entropy, squared error, or Cox's partial likelihood.

    Parameters
    ----------
    kind
        What the source gives (see :data:`expressor.estimator.expression_models.KINDS`).
    output
        Logits, numbers, or log risk, (obs, output).
    batch
        ``y`` and ``weight`` for classes, ``y`` for numbers, ``time`` and ``event`` for a risk.
    """
    if kind == "classes":
        each = nn.functional.cross_entropy(output, batch["y"], reduction="none")
        return (each * batch["weight"]).sum() / batch["weight"].sum()
    if kind == "values":
        return nn.functional.mse_loss(output, batch["y"])
    return cox_loss(output[:, 0].double(), batch["time"], batch["event"]).float()
