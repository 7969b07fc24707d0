"""Pretraining: random panels, restored from what is left of them, by what the network adds to the closed form."""

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float, Int
from torch import Tensor

from expressor.core.rng import stream
from expressor.nn.gaussian import restore
from expressor.systems.gexbert import equations
from expressor.systems.gexbert.network import RestorationNetwork
from expressor.systems.gexbert.skip import CrossFit, LinearSkip, log_size
from expressor.train import loop
from expressor.train.plan import TrainPlan

JUDGED_SIZES = (16, 64, 256, 1024)
"""Panel sizes at which the network is judged on held-out patients, as far as there are so many genes."""

_JUDGED_PANELS = 2
_JUDGED_TARGETS = 128
_JUDGED_SAMPLES = 256
_UNKNOWN_PIPELINE = 0.1  # share of training batches in which no pipeline is known, so that row 0 is learnt


@dataclass(frozen=True, kw_only=True)
class Options:
    """What a training step draws.

    Attributes
    ----------
    smallest, largest
        Range of panel sizes, drawn evenly on a log scale.
    targets
        Genes restored in a step.
    tokens
        Most gene tokens; of larger panels the network sees the genes that tell most.
    hidden
        Share of the tokens whose value is replaced by the missing vector, in [0, 1).
    visible_weight
        Weight of restoring values that are visible.
    scores
        Principal components of which the sample token knows the expected score.
    steps
        Panels an epoch.
    """

    smallest: int
    largest: int
    targets: int
    tokens: int
    hidden: float
    visible_weight: float
    scores: int
    steps: int


@dataclass(frozen=True, eq=False)
class Material:
    """What the network is trained and judged on.

    Attributes
    ----------
    values
        float64 (sample, gene) on the scale of the fit, NaN where not measured; ``filled`` without gaps.
    skips
        One or more closed forms; ``rows[k]`` are the samples that ``skips[k]`` never saw. Empty without a linear skip.
    pipeline
        Code of each sample's pipeline, or None.
    """

    values: Float[Tensor, "sample gene"]
    filled: Float[Tensor, "sample gene"]
    skips: tuple[LinearSkip, ...]
    rows: tuple[Tensor, ...]
    pipeline: Int[Tensor, " sample"] | None

    @classmethod
    def of(cls, values: Tensor, cross: CrossFit, pipeline: Tensor | None) -> "Material":
        """Return the material of samples with the skips that never saw them."""
        rows = tuple(torch.nonzero(cross.fold == k).squeeze(1) for k in range(len(cross.parts)))
        return cls(values, cross.filled, cross.parts, rows, pipeline)


@dataclass(frozen=True, eq=False)
class View:
    """Samples that share a panel, as the network takes them, and what the closed form says of the targets."""

    genes: Int[Tensor, " token"]
    z: Float[Tensor, "sample token"]
    missing: Tensor
    scores: Float[Tensor, "sample factor"] | None
    pipeline: Int[Tensor, " sample"] | None

    def batch(self) -> dict[str, Tensor]:
        """Return the view as named tensors."""
        found = {one.name: getattr(self, one.name) for one in dataclasses.fields(self)}
        return {name: value for name, value in found.items() if value is not None}


def look(
    skip: LinearSkip,
    values: Float[Tensor, "sample observed"],
    observed: Int[Tensor, " observed"],
    *,
    options: Options,
    linear: bool,
    masked: Tensor | None = None,
    pipeline: Tensor | None = None,
) -> View:
    """Return how the network sees samples of one panel; ``masked`` genes are tokens without their value."""
    shown = informative(skip, observed, options.tokens)
    z = skip.bounded(values[:, shown], observed[shown]).float()
    genes, missing = observed[shown], torch.zeros_like(z, dtype=torch.bool)
    if masked is not None and len(masked):
        genes = torch.cat([genes, masked])
        blank = torch.zeros(len(z), len(masked))
        z, missing = torch.cat([z, blank], dim=1), torch.cat([missing, torch.ones_like(blank, dtype=torch.bool)], dim=1)
    scores = None
    if linear and options.scores:
        size = torch.full((len(z), 1), log_size(len(observed), len(skip.state.mean)))
        scores = torch.cat([skip.scores(values, observed).float(), size], dim=1)
    return View(genes, z, missing, scores, pipeline)


def informative(skip: LinearSkip, observed: Int[Tensor, " observed"], most: int) -> Int[Tensor, " token"]:
    """Return positions in ``observed`` of at most ``most`` genes: those that share most variance with others."""
    if len(observed) <= most:
        return torch.arange(len(observed))
    leading = skip.state.factors[observed, : min(50, skip.state.factors.shape[1])].square().sum(1)
    return torch.sort(torch.argsort(leading, descending=True, stable=True)[:most]).values


class Panels(Sequence[Mapping[str, Tensor]]):
    """The panels of one epoch; each is a pure function of seed, epoch, step and rank."""

    def __init__(self, material: Material, options: Options, plan: TrainPlan, seed: int, epoch: int, rank: int,
                 linear: bool) -> None:  # fmt: skip
        self.material, self.options, self.plan, self.linear = material, options, plan, linear
        self._place = (seed, epoch, rank)

    def __len__(self) -> int:
        return self.options.steps

    def __iter__(self) -> Iterator[Mapping[str, Tensor]]:
        return (self[i] for i in range(len(self)))

    def __getitem__(self, step: Any) -> Any:
        seed, epoch, rank = self._place
        draw = stream(seed, "panels", epoch, int(step), rank)
        material, options = self.material, self.options
        n_genes = material.values.shape[1]
        part = (epoch * len(self) + int(step)) % len(material.skips)
        skip, mine = material.skips[part], material.rows[part].numpy()
        rows = torch.from_numpy(np.sort(draw.permutation(mine)[: self.plan.batch_size]))
        largest = min(options.largest, n_genes - 1)
        size = round(float(np.exp(draw.uniform(np.log(min(options.smallest, largest)), np.log(largest)))))
        order = torch.from_numpy(draw.permutation(n_genes))
        observed, rest = order[:size], order[size:]
        tokens = min(size, options.tokens)
        masked = rest[: round(options.hidden / (1 - options.hidden) * tokens)]
        hidden = rest[: options.targets]
        visible = observed[: options.targets // 4] if options.visible_weight else observed[:0]
        targets = torch.cat([hidden, visible])
        codes = None
        if material.pipeline is not None:
            codes = material.pipeline[rows] * int(draw.random() >= _UNKNOWN_PIPELINE)
        values = material.filled[rows][:, observed]
        view = look(skip, values, observed, options=options, linear=self.linear, masked=masked, pipeline=codes)
        truth = skip.standardise(material.values[rows][:, targets], targets)
        return {
            **view.batch(),
            "targets": targets,
            "skip": restored(skip, values, observed, targets, linear=self.linear).float(),
            "truth": truth.float(),
            "hidden": (torch.arange(len(targets)) < len(hidden)).expand(len(rows), -1),
        }


def restored(
    skip: LinearSkip, values: Tensor, observed: Tensor, targets: Tensor, *, linear: bool
) -> Float[Tensor, "sample target"]:
    """Return the closed form's restoration in standard deviations; 0, the mean, where it is not used."""
    if not linear:
        return torch.zeros(len(values), len(targets), dtype=torch.float64)
    return skip.standardise(skip.condition(values, observed, targets)[0], targets)


def run_network(module: Any, batch: Mapping[str, Tensor]) -> Tensor:
    """Return what the network adds for the targets of a batch."""
    return module(
        batch["genes"], batch["z"], batch["missing"], batch["targets"], batch.get("scores"), batch.get("pipeline")
    )


@dataclass(frozen=True, eq=False)
class JudgedPanel:
    """One panel: its genes, and the batch of held-out patients; ``z_panel`` are all its values in standard deviations."""

    observed: Int[Tensor, " observed"]
    batch: Mapping[str, Tensor]
    z_panel: Float[Tensor, "sample observed"]


@dataclass(frozen=True, eq=False)
class Judge:
    """Fixed panels of held-out patients on which the network is judged, and stopped."""

    panels: tuple[JudgedPanel, ...]

    @classmethod
    def of(
        cls, skip: LinearSkip, values: Tensor, pipeline: Tensor | None, *, options: Options, linear: bool, seed: int
    ) -> "Judge":
        """Draw the panels; ``values`` are those of the held-out patients, (sample, gene)."""
        n_genes = values.shape[1]
        if len(values) > _JUDGED_SAMPLES:
            rows = torch.from_numpy(np.sort(stream(seed, "judged samples").permutation(len(values))[:_JUDGED_SAMPLES]))
            values, pipeline = values[rows], None if pipeline is None else pipeline[rows]
        filled = restore(skip.state, values, variance=False)[0] if bool(values.isnan().any()) else values
        found = []
        sizes = [one for one in JUDGED_SIZES if one < n_genes] or [max(1, n_genes // 2)]
        for i, size in enumerate(sizes):
            for panel in range(_JUDGED_PANELS):
                order = torch.from_numpy(stream(seed, "judge", i, panel).permutation(n_genes))
                observed, targets = order[:size], order[size : size + _JUDGED_TARGETS]
                view = look(skip, filled[:, observed], observed, options=options, linear=linear, pipeline=pipeline)
                batch = {
                    **view.batch(), "targets": targets,
                    "skip": restored(skip, filled[:, observed], observed, targets, linear=linear).float(),
                    "truth": skip.standardise(values[:, targets], targets).float(),
                }  # fmt: skip
                found.append(JudgedPanel(observed, batch, skip.standardise(filled[:, observed], observed)))
        return cls(tuple(found))

    def validate(self, module: Any) -> dict[str, float]:
        """Return root mean square errors with the network and without it, in standard deviations, averaged over panels."""
        device = next(module.parameters()).device
        with_, without = [], []
        for panel in self.panels:
            moved = {name: one.to(device) for name, one in panel.batch.items()}
            error = moved["truth"] - moved["skip"]
            with_.append(_root_mean_square(error - run_network(module, moved)))
            without.append(_root_mean_square(error))
        return {"val_rmse": float(np.mean(with_)), "skip_rmse": float(np.mean(without))}


def _root_mean_square(error: Tensor) -> float:
    known = ~error.isnan()
    return float(error[known].square().mean().sqrt())


def pretrain(
    network: RestorationNetwork,
    material: Material,
    judge: Judge,
    *,
    options: Options,
    plan: TrainPlan,
    seed: int,
    linear: bool,
    resume: Path | None,
    identity: str,
) -> pd.DataFrame:
    """Train the network in place and return one row an epoch; it ends with the weights that restored held-out patients best."""

    def loss(module: Any, batch: Mapping[str, Tensor]) -> dict[str, Tensor]:
        whole = equations.restoration(batch["skip"], run_network(module, batch))
        args = (batch["truth"], batch["hidden"], options.visible_weight)
        with torch.no_grad():
            without = equations.restoration_loss(batch["skip"], *args)
        return {"loss": equations.restoration_loss(whole, *args), "skip_loss": without}

    training = loop.Training(
        module=network,
        batches=lambda epoch, rank, world: Panels(material, options, plan, seed, epoch, rank, linear),
        loss=loss,
        validate=judge.validate,
        monitor="val_rmse",
        direction="min",
    )
    outcome = loop.run(training, plan, seed=seed, phase="pretrain", resume=resume, identity=identity)
    network.cpu().eval()
    return pd.DataFrame(outcome.records).assign(stage="pretrain")
