"""The fitted restorer: closed form, network and memory together, for samples with any gaps."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from expressor.core.rng import stream
from expressor.systems.gexbert import equations
from expressor.systems.gexbert.memory import Memory
from expressor.systems.gexbert.mixture import Mixture
from expressor.systems.gexbert.network import RestorationNetwork
from expressor.systems.gexbert.skip import LinearSkip, by_pattern, with_shrinkage
from expressor.systems.gexbert.training import Options, View, look

_ROWS = 256  # samples that the network sees at once
_QUERIES = 2**19  # sample times gene that it restores at once


@dataclass(frozen=True, eq=False)
class Restorer:
    """All that restores and represents samples.

    Attributes
    ----------
    skip
        The closed form; without ``linear`` it only standardises.
    network
        Its share is 0 at sizes where it was of no use; None where it is never used.
    memory
        Training patients, or None.
    mixture
        Shares by panel size.
    """

    skip: LinearSkip
    linear: bool
    network: RestorationNetwork | None
    memory: Memory | None
    mixture: Mixture
    options: Options

    def restore(
        self, values: Float[Tensor, "sample gene"], pipeline: Tensor | None = None, *, variance: bool = False
    ) -> tuple[Float[Tensor, "sample gene"], Float[Tensor, "sample gene"]]:
        """Fill in the NaN of samples, each with gaps of its own.

        Returns
        -------
        Values with gaps filled, float64, and the closed form's standard deviations, 0 where a value was measured (everywhere if
        ``variance`` is off).
        """
        full, spread = values.clone(), torch.zeros_like(values)
        for rows, observed, gaps in by_pattern(values):
            if not len(gaps):
                continue
            codes = None if pipeline is None else pipeline[rows]
            mean, around = self.panel(values[rows][:, observed], observed, gaps, codes, variance=variance)
            full[rows[:, None], gaps] = mean
            if around is not None:
                spread[rows[:, None], gaps] = around.sqrt()
        return full, spread

    def panel(
        self,
        values: Float[Tensor, "sample observed"],
        observed: Int[Tensor, " observed"],
        targets: Int[Tensor, " target"],
        pipeline: Tensor | None = None,
        *,
        variance: bool = False,
    ) -> tuple[Float[Tensor, "sample target"], Tensor | None]:
        """Return restored targets of samples that share a panel, on the scale of the values, and the closed form's variances."""
        state = self.skip.state
        mean, around = self.skip.condition(values, observed, targets, variance=variance)
        if not self.linear:
            mean = state.mean[targets].expand(len(values), -1)
            around = None if around is None else state.scale[targets].square()
        return equations.restoration(
            mean, self._added(values, observed, targets, pipeline) * state.scale[targets]
        ), around

    def _added(self, values: Tensor, observed: Tensor, targets: Tensor, pipeline: Tensor | None) -> Tensor:
        """Return what network and memory add, in standard deviations."""
        by_network, by_memory, kernel = self.mixture.at(len(observed))
        added = torch.zeros(len(values), len(targets), dtype=torch.float64)
        if self.network is not None and by_network:
            added += by_network * self._network(values, observed, targets, pipeline)
        if self.memory is not None and by_memory:
            z = self.skip.standardise(values, observed)
            shrinkage = self.skip.shrinkage_at(len(observed))
            added += by_memory * self.memory.recall(z, observed, targets, shrinkage=shrinkage, kernels=[kernel])[0]
        return added

    def _network(self, values: Tensor, observed: Tensor, targets: Tensor, pipeline: Tensor | None) -> Tensor:
        network = self.network
        found = torch.empty(len(values), len(targets), dtype=torch.float64)
        with torch.no_grad():
            for rows in torch.arange(len(values)).split(_ROWS):
                view = self.view(values[rows], observed, None if pipeline is None else pipeline[rows])
                memory = network.encode(network.tokens(view.genes, view.z, view.missing, view.scores, view.pipeline))  # type: ignore[union-attr]
                for part in torch.arange(len(targets)).split(max(1, _QUERIES // len(rows))):
                    found[rows[:, None], part] = network.decode(memory, targets[part]).double()  # type: ignore[union-attr]
        return found

    def view(self, values: Tensor, observed: Tensor, pipeline: Tensor | None = None) -> View:
        """Return samples of one panel as the network takes them."""
        return look(self.skip, values, observed, options=self.options, linear=self.linear, pipeline=pipeline)

    # Representation -----------------------------------------------------------------------------------------------------

    @property
    def dims(self) -> tuple[int, int]:
        """Number of linear scores and of entries of the network's sample vector in a representation."""
        scores = self.skip.basis.shape[1] if self.linear else 0
        return scores, self.network.dim if self.network is not None else 0

    def represent(
        self, values: Float[Tensor, "sample gene"], pipeline: Tensor | None = None
    ) -> Float[Tensor, "sample dim"]:
        """Return the expected principal scores of each sample given what was measured, and the network's sample vector."""
        found = torch.empty(len(values), sum(self.dims))
        for rows, observed, _ in by_pattern(values):
            codes = None if pipeline is None else pipeline[rows]
            found[rows] = self.represent_panel(values[rows][:, observed], observed, codes)
        return found

    def represent_panel(self, values: Tensor, observed: Tensor, pipeline: Tensor | None = None) -> Tensor:
        """Return the same for samples that share a panel."""
        scores, _ = self.dims
        parts = [self.skip.scores(values, observed).float()] if scores else []
        if self.network is not None:
            with torch.no_grad():
                for_rows = []
                for rows in torch.arange(len(values)).split(_ROWS):
                    view = self.view(values[rows], observed, None if pipeline is None else pipeline[rows])
                    memory = self.network.encode(
                        self.network.tokens(view.genes, view.z, view.missing, view.scores, view.pipeline)
                    )
                    for_rows.append(self.network.represent(memory))
                parts.append(torch.cat(for_rows))
        return torch.cat(parts, dim=1)

    # Draws --------------------------------------------------------------------------------------------------------------

    def unexplained(
        self,
        observed: Int[Tensor, " observed"],
        targets: Int[Tensor, " target"],
        *,
        seed: int,
        place: Sequence[tuple[int, ...]],
    ) -> Float[Tensor, "sample target"]:
        """Return draws of what a panel leaves open of the targets, on the scale of the values: jointly normal, mean 0.

        There is one for each ``place``, the position in the stream of random numbers (number of the draw, name of the sample).
        """
        state = with_shrinkage(self.skip.state, self.skip.shrinkage_at(len(observed)))
        whole = torch.cat([observed, targets])
        streams = [stream(seed, "draws", *one) for one in place]
        n_factors = state.factors.shape[1]
        normal = torch.from_numpy(np.stack([one.standard_normal(n_factors + len(whole)) for one in streams]))
        u = normal[:, :n_factors] @ state.factors[whole].T + normal[:, n_factors:] * state.noise[whole].sqrt()
        u = state.mean[whole] + state.scale[whole] * u
        left, given = u[:, len(observed) :], state.mean[targets].expand(len(u), -1)
        if self.linear:
            given = self.skip.condition(u[:, : len(observed)], observed, targets)[0]
        return equations.draw(torch.zeros_like(left), left, given, 1.0)
