"""What the heads see of a sample: its representation, its panel, its restored anchors."""

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from expressor.systems.gexbert.restorer import Restorer
from expressor.systems.gexbert.skip import by_pattern


@dataclass(frozen=True, eq=False)
class Features:
    """Recipe of a head's input.

    Attributes
    ----------
    representation
        Whether :meth:`Restorer.represent` is part of it.
    panel
        Positions of genes whose values are part of it, in standard deviations; restored where they were not measured.
    anchors
        Positions of genes whose restored values are part of it.
    shown
        Positions of the only genes that are looked at; None for all.
    """

    representation: bool
    panel: Int[Tensor, " observed"]
    anchors: Int[Tensor, " target"]
    shown: Tensor | None

    def hide(self, values: Float[Tensor, "sample gene"]) -> Float[Tensor, "sample gene"]:
        """Return the values with NaN where the head may not look."""
        if self.shown is None:
            return values
        left = torch.full_like(values, torch.nan)
        left[:, self.shown] = values[:, self.shown]
        return left

    def of(
        self, restorer: Restorer, values: Float[Tensor, "sample gene"], pipeline: Tensor | None = None
    ) -> Float[Tensor, "sample dim"]:
        """Return the features of samples with any gaps; they must have a value among the genes that are looked at."""
        values = self.hide(values)
        parts = [restorer.represent(values, pipeline).double()] if self.representation else []
        for wanted in (self.panel, self.anchors):
            if len(wanted):
                parts.append(self._standardised(restorer, values, wanted, pipeline))
        return torch.cat(parts, dim=1)

    def _standardised(self, restorer: Restorer, values: Tensor, wanted: Tensor, pipeline: Tensor | None) -> Tensor:
        found = values[:, wanted].clone()
        for rows, observed, _ in by_pattern(values):
            gaps = torch.nonzero(found[rows[0]].isnan()).squeeze(1)
            if len(gaps):
                codes = None if pipeline is None else pipeline[rows]
                found[rows[:, None], gaps] = restorer.panel(values[rows][:, observed], observed, wanted[gaps], codes)[0]
        return restorer.skip.bounded(found, wanted)
