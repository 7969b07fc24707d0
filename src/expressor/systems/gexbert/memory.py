"""A memory of training patients: what the closed form missed in patients like this one.

Kernel ridge regression of the leave-one-out residuals of the linear skip on the panel. Both have closed forms for every panel, so
that nothing is trained; what must be kept are the training profiles themselves.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from expressor.core.rng import stream
from expressor.systems.gexbert import equations
from expressor.systems.gexbert.skip import LinearSkip

KERNELS = ((0.5, 1.0), (0.5, 3.0), (1.0, 1.0), (1.0, 3.0))
"""Width of the kernel, in root mean square differences a gene; penalty. Held-out patients choose."""


@dataclass(frozen=True, eq=False)
class Memory:
    """Profiles of training patients.

    Attributes
    ----------
    z
        float32 (patient, gene), in standard deviations from the training mean, gaps filled.
    """

    z: Float[Tensor, "patient gene"]

    @classmethod
    def of(cls, skip: LinearSkip, filled: Tensor, most: int, seed: int) -> "Memory":
        """Return the memory of at most ``most`` of the samples ``filled``, (sample, gene) without gaps."""
        rows = torch.arange(len(filled))
        if len(rows) > most:
            chosen = stream(seed, "memory").permutation(len(filled))[:most]
            rows = torch.sort(torch.from_numpy(chosen)).values
        every = torch.arange(filled.shape[1])
        return cls(skip.standardise(filled[rows], every).float())

    def recall(
        self,
        z: Float[Tensor, "sample observed"],
        observed: Int[Tensor, " observed"],
        targets: Int[Tensor, " target"],
        *,
        shrinkage: float,
        kernels: Sequence[tuple[float, float]],
    ) -> list[Float[Tensor, "sample target"]]:
        """Return what the memory adds to the closed form, in standard deviations, for each kernel.

        Parameters
        ----------
        z
            Standardised values of the panel.
        observed, targets
            Positions of the panel's genes and of the wanted ones.
        shrinkage
            That of the closed form for this panel.
        kernels
            Some of :data:`KERNELS`.
        """
        panel, wanted = self.z[:, observed].double(), self.z[:, targets].double()
        penalty = shrinkage / (1 - shrinkage) * len(panel)
        residual = equations.left_out_residual(panel, wanted, penalty)
        found = []
        for width, ridge in kernels:
            within = equations.patient_kernel(panel, panel, width)
            across = equations.patient_kernel(z.double(), panel, width)
            root = torch.linalg.cholesky(within + ridge * torch.eye(len(panel), dtype=torch.float64))
            found.append(torch.cholesky_solve(across.T, root).T @ residual)
        return found
