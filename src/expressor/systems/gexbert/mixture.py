"""How much of the network and of the memory is used, for each size of panel: decided by patients that neither has seen."""

import math
from dataclasses import dataclass

import numpy as np
import torch
from scipy.optimize import lsq_linear
from torch import Tensor

from expressor.systems.gexbert.memory import KERNELS, Memory
from expressor.systems.gexbert.network import RestorationNetwork
from expressor.systems.gexbert.skip import LinearSkip
from expressor.systems.gexbert.training import Judge, JudgedPanel, run_network

_SURE = 1.0  # standard errors over patients by which a part must help


@dataclass(frozen=True)
class Mixture:
    """Shares of the parts that are added to the closed form.

    Attributes
    ----------
    sizes
        Panel sizes, rising. A panel takes what was chosen at the nearest, on a log scale.
    network, memory
        Share of the network's and of the memory's output, >= 0; 0 where held-out patients did not gain.
    kernel
        Place in :data:`expressor.systems.gexbert.memory.KERNELS`.
    gain
        By how much the root mean square error of held-out patients fell, in standard deviations.
    """

    sizes: tuple[int, ...]
    network: tuple[float, ...]
    memory: tuple[float, ...]
    kernel: tuple[int, ...]
    gain: tuple[float, ...]

    def at(self, size: int) -> tuple[float, float, tuple[float, float]]:
        """Return share of the network, share of the memory, and kernel, for a panel of ``size`` genes."""
        place = min(range(len(self.sizes)), key=lambda j: abs(math.log(max(size, 1) / self.sizes[j])))
        return self.network[place], self.memory[place], KERNELS[self.kernel[place]]


def unmixed(sizes: tuple[int, ...], network: float) -> Mixture:
    """Return a mixture in which the network has one share at all sizes and the memory none."""
    n = len(sizes)
    return Mixture(sizes, (network,) * n, (0.0,) * n, (0,) * n, (0.0,) * n)


def choose(judge: Judge, skip: LinearSkip, network: RestorationNetwork | None, memory: Memory | None) -> Mixture:
    """Choose the shares on the held-out patients of ``judge``."""
    sizes = tuple(dict.fromkeys(len(panel.observed) for panel in judge.panels))
    rows = []
    with torch.no_grad():
        for size in sizes:
            panels = [one for one in judge.panels if len(one.observed) == size]
            rows.append(_choose(panels, skip, network, memory))
    shares = list(zip(*rows))
    return Mixture(sizes, *(tuple(one) for one in shares))


def _choose(
    panels: list[JudgedPanel], skip: LinearSkip, network: RestorationNetwork | None, memory: Memory | None
) -> tuple[float, float, int, float]:
    """Return shares of network and memory, the kernel, and the gain, at one size."""
    error = _side_by_side([one.batch["truth"] - one.batch["skip"] for one in panels])
    known = ~error.isnan()
    error = torch.nan_to_num(error)
    added = None if network is None else _side_by_side([run_network(network, one.batch) for one in panels]) * known
    recalled: list[Tensor] = []
    if memory is not None:
        parts = [
            memory.recall(one.z_panel, one.observed, one.batch["targets"],
                          shrinkage=skip.shrinkage_at(len(one.observed)), kernels=KERNELS) for one in panels
        ]  # fmt: skip
        recalled = [_side_by_side([part[k] for part in parts]) * known for k in range(len(KERNELS))]
    kernel = 0
    if recalled:
        kernel = int(np.argmin([_left(error, [added, one])[0] for one in recalled]))
    pair = [added, recalled[kernel] if recalled else None]
    # The smaller model wins unless the larger is surely better: each part must earn its place.
    for drop in (0, 1):
        if pair[drop] is not None and not _surely_better(
            error, pair, [None if i == drop else one for i, one in enumerate(pair)]
        ):
            pair[drop] = None
    _, shares = _left(error, pair)
    before, after = (
        float((one.square().sum() / known.sum()).sqrt()) for one in (error, _residual(error, pair, shares))
    )
    return shares[0], shares[1], kernel, before - after


def _side_by_side(parts: list[Tensor]) -> Tensor:
    return torch.cat([one.double() for one in parts], dim=1)


def _left(error: Tensor, pair: list[Tensor | None]) -> tuple[float, tuple[float, float]]:
    """Return what is left of the squared error, and the shares in [0, 1] that leave least."""
    there = [i for i, one in enumerate(pair) if one is not None and bool((one != 0).any())]
    shares = [0.0, 0.0]
    if there:
        columns = [pair[i] for i in there]
        gram = np.array([[float((a * b).sum()) for b in columns] for a in columns])  # type: ignore[operator]
        cross = np.array([float((a * error).sum()) for a in columns])  # type: ignore[operator]
        root = np.linalg.cholesky(gram + 1e-9 * np.trace(gram) * np.eye(len(there)))
        found = lsq_linear(root.T, np.linalg.solve(root, cross), bounds=(0.0, 1.0)).x
        for i, share in zip(there, found):
            shares[i] = float(share)
    return float(_residual(error, pair, (shares[0], shares[1])).square().sum()), (shares[0], shares[1])


def _residual(error: Tensor, pair: list[Tensor | None], shares: tuple[float, float]) -> Tensor:
    for one, share in zip(pair, shares):
        if one is not None:
            error = error - share * one
    return error


def _surely_better(error: Tensor, larger: list[Tensor | None], smaller: list[Tensor | None]) -> bool:
    left = [_residual(error, pair, _left(error, pair)[1]).square().mean(1) for pair in (larger, smaller)]
    gain = left[1] - left[0]
    if len(gain) < 2:
        return False
    return bool(gain.mean() > _SURE * gain.std() / len(gain) ** 0.5)
