"""The training phases: one network on some spots, with any weighting of the auxiliary genes."""

import hashlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from expressor.core.rng import stream
from expressor.metrics.genewise import pearson, summarise
from expressor.systems.agl.inputs import FeatureScaler, LazyBatches, Targets, augment
from expressor.systems.agl.losses import Heads, prepare, slide_losses
from expressor.systems.agl.network import SharedNetwork
from expressor.systems.agl.weighting import Weighting
from expressor.train.loop import Outcome, Training, run, seeded
from expressor.train.plan import TrainPlan

_CHUNK = 512
_RUN = 8


@dataclass(frozen=True)
class Settings:
    """What all phases have in common.

    Attributes
    ----------
    plan
        Lengths, step size, machine.
    seed
        The estimator's.
    dropout
        Share of the features left out in a step.
    bilevel_batch
        Spots of a batch of the outer step.
    build
        ``(dim of the input, number of genes) -> network``.
    """

    plan: TrainPlan
    seed: int
    dropout: float
    bilevel_batch: int
    build: Callable[[int, int], SharedNetwork]


@dataclass(frozen=True)
class Tissue:
    """Spots to train on and to be held out.

    Attributes
    ----------
    inputs
        float32 (spot, feature), or uint8 patches (spot, px, px, 3).
    targets
        Their expression.
    section
        int64 (spot,), the section's number.
    """

    inputs: np.ndarray
    targets: Targets
    section: np.ndarray

    @property
    def has_patches(self) -> bool:
        """Whether the inputs are pixels."""
        return self.inputs.ndim == 4


@dataclass
class Member:
    """A trained network that predicts the primary genes, each standardised over the spots it was trained on.

    Attributes
    ----------
    network
        With the heads of the primary genes only.
    scaler
        Of the features; ``None`` for patches.
    """

    network: SharedNetwork
    scaler: FeatureScaler | None

    def predict(self, inputs: np.ndarray) -> np.ndarray:
        """Return float64 (spot, primary)."""
        prepared = inputs if self.scaler is None else self.scaler(inputs)
        return _predict(self.network, prepared, self.network.head.out_features).astype(np.float64)


def average(members: list[Member], inputs: np.ndarray) -> np.ndarray:
    """Return the mean prediction of an ensemble, float64 (spot, primary)."""
    return np.mean([one.predict(inputs) for one in members], axis=0)


def _no_rows() -> np.ndarray:
    return np.empty(0, dtype=np.int64)


@dataclass(frozen=True)
class Phase:
    """One training run.

    Attributes
    ----------
    name
        Names its random streams and its checkpoint.
    fit
        Rows it trains on.
    epochs
        Most epochs.
    weighting
        ``network -> weighting``.
    n_genes
        Number of heads.
    scaler
        Of the features, learnt on the fit rows; ``None`` for patches.
    select, stop
        Rows of the outer loss, and rows whose score stops the run and chooses its best epoch. Both or none of them.
    """

    name: str
    fit: np.ndarray
    epochs: int
    weighting: Callable[[SharedNetwork], Weighting]
    n_genes: int
    scaler: FeatureScaler | None = None
    select: np.ndarray = field(default_factory=_no_rows)
    stop: np.ndarray = field(default_factory=_no_rows)

    @property
    def is_watched(self) -> bool:
        """Whether there are spots to select and stop on."""
        return len(self.select) > 0 and len(self.stop) > 0


@dataclass
class Trained:
    """What a phase gives: the member, the weighting as it ended at the best epoch's end of run, and the records."""

    member: Member
    weighting: Weighting
    outcome: Outcome


def train(
    tissue: Tissue,
    phase: Phase,
    settings: Settings,
    *,
    resume: Path | None = None,
    on_epoch: Callable[[dict[str, float]], None] | None = None,
) -> Trained:
    """Run one phase.

    Raises
    ------
    DataError
        As :func:`expressor.train.loop.run` does, or where mini-batches are too small for a correlation.
    """
    runner = _Runner(tissue, phase, settings)
    plan = TrainPlan(**settings.plan.get_params(deep=False) | {"epochs": phase.epochs})
    if not phase.is_watched:
        plan.set_params(patience=None)
    outcome = run(
        runner.training(), plan, seed=settings.seed, phase=phase.name, resume=resume,
        identity=runner.identity(), on_epoch=on_epoch,
    )  # fmt: skip
    return Trained(runner.member(), runner.weighting, outcome)


class _Runner:
    """Holds what the callbacks of one phase share."""

    def __init__(self, tissue: Tissue, phase: Phase, settings: Settings) -> None:
        self.tissue, self.phase, self.settings = tissue, phase, settings
        self.inputs = tissue.inputs if phase.scaler is None else phase.scaler(tissue.inputs)
        with seeded(settings.seed, f"{phase.name}/init"):
            self.network = settings.build(self.inputs.shape[1], phase.n_genes)
        self.weighting = phase.weighting(self.network)
        self.optimizer: torch.optim.Optimizer | None = None

    def training(self) -> Training:
        watched = self.phase.is_watched
        return Training(
            module=self.network,
            batches=self.batches,
            loss=self.loss,
            optimizer=self.make_optimizer,
            before_epoch=self.open_epoch,
            validate=self.validate if watched else None,
            monitor="val_pcc" if watched else None,
            extra={"weighting": self.weighting},
        )

    def identity(self) -> str:
        """Hash what the run depends on beside the plan: inputs, rows, genes, and weights that were found before."""
        parts: list[Any] = [self.phase.epochs, self.phase.n_genes, self.tissue.targets.n_genes]
        arrays = [self.inputs, self.phase.fit, self.phase.select, self.phase.stop, self.weighting.weights().numpy()]
        found = hashlib.sha256(repr(parts).encode())
        for one in arrays:
            found.update(np.ascontiguousarray(one).tobytes())
        return found.hexdigest()

    def make_optimizer(self, parameters: Any) -> torch.optim.Optimizer:
        plan = self.settings.plan
        self.optimizer = torch.optim.AdamW(parameters, lr=plan.lr, weight_decay=plan.weight_decay)
        return self.optimizer

    def batches(self, epoch: int, rank: int, world: int) -> LazyBatches:
        order = stream(self.settings.seed, f"{self.phase.name}/batches", epoch).permutation(self.phase.fit)[rank::world]
        n_genes = self.tissue.targets.n_primary + self.weighting.n_active

        def make(position: int, rows: np.ndarray) -> dict[str, Tensor]:
            return self.batch(
                rows, n_genes, stream(self.settings.seed, f"{self.phase.name}/noise", epoch, position, rank)
            )

        return LazyBatches(self.divide(order, self.settings.plan.batch_size), make)

    def divide(self, order: np.ndarray, size: int) -> list[np.ndarray]:
        """Divide shuffled rows into batches in which sections have enough spots for a correlation."""
        return divide_rows(order, self.tissue.section[order], size)

    def batch(self, rows: np.ndarray, n_genes: int, rng: np.random.Generator) -> dict[str, Tensor]:
        """Return inputs with this position's noise, and what the losses need of expression and sections."""
        x = torch.from_numpy(self.inputs[rows])
        if self.tissue.has_patches:
            x = augment(x, rng)
        elif self.settings.dropout > 0:
            keep = rng.random(x.shape, dtype=np.float32) >= self.settings.dropout
            x = x * torch.from_numpy(keep) / (1 - self.settings.dropout)
        section = self.tissue.section[rows]
        member = torch.from_numpy((section == np.unique(section)[:, None]).astype(np.float32))
        return {"x": x, **prepare(self.tissue.targets.dense(rows, n_genes), member)}

    def loss(self, module: nn.Module, batch: Mapping[str, Tensor]) -> dict[str, Tensor]:
        n_primary = self.tissue.targets.n_primary
        losses = slide_losses(Heads(*module(batch["x"], batch["unit"].shape[1])), batch)
        return {"loss": self.weighting.objective(losses, n_primary), "primary_loss": losses[:n_primary].mean().detach()}

    def open_epoch(self, epoch: int) -> dict[str, float]:
        """Take the outer steps of an epoch; like the authors, not before the first one."""
        if epoch > 0 and self.phase.is_watched and self.optimizer is not None:
            self.network.train()
            self.weighting.update(self.pairs(epoch), self.optimizer)
        return self.weighting.record()

    def pairs(self, epoch: int) -> Iterator[tuple[dict[str, Tensor], dict[str, Tensor]]]:
        """Yield a fit batch and a select batch for each outer step; the select batches go round."""
        seed, name, size = self.settings.seed, self.phase.name, self.settings.bilevel_batch
        device = next(self.network.parameters()).device
        fit = self.divide(stream(seed, f"{name}/outer fit", epoch).permutation(self.phase.fit), size)
        select = self.divide(stream(seed, f"{name}/outer select", epoch).permutation(self.phase.select), size)
        n_primary = self.tissue.targets.n_primary
        for position, rows in enumerate(fit):
            rng = stream(seed, f"{name}/outer noise", epoch, position)
            inner = self.batch(rows, n_primary + self.weighting.n_active, rng)
            outer = self.batch(select[position % len(select)], n_primary, rng)
            yield (
                {key: one.to(device) for key, one in inner.items()},
                {key: one.to(device) for key, one in outer.items()},
            )

    def validate(self, module: nn.Module) -> dict[str, float]:
        return {"val_pcc": self.score(self.phase.stop), "select_pcc": self.score(self.phase.select)}

    def score(self, rows: np.ndarray) -> float:
        """Return the mean correlation of the primary genes over sections; -1 where none is defined, which is never best."""
        predicted = _predict(self.network, self.inputs[rows], self.tissue.targets.n_primary)
        found = summarise(pearson(self.tissue.targets.primary(rows), predicted, self.tissue.section[rows])).value
        return found if found == found else -1.0

    def member(self) -> Member:
        """Return the network with its primary heads alone, their output standardised over the fit rows."""
        n_primary = self.tissue.targets.n_primary
        predicted = _predict(self.network, self.inputs[self.phase.fit], n_primary).astype(np.float64)
        mean, spread = predicted.mean(0), predicted.std(0)
        spread = torch.from_numpy(np.where(spread > 0, spread, 1.0))
        head = self.network.head
        weight, bias = head.weight.detach().cpu().double(), head.bias.detach().cpu().double()
        with seeded(self.settings.seed, "unused"):  # a new layer draws its start, which is replaced at once
            network = SharedNetwork(self.network.trunk.cpu(), head.in_features, n_primary)
        with torch.no_grad():
            network.head.weight.copy_(weight[:n_primary] / spread[:, None])
            network.head.bias.copy_((bias[:n_primary] - torch.from_numpy(mean)) / spread)
        return Member(network.eval().requires_grad_(False), self.phase.scaler)


def _predict(network: SharedNetwork, inputs: np.ndarray, n_genes: int) -> np.ndarray:
    device, was_training = network.head.weight.device, network.training
    network.eval()
    with torch.no_grad():
        parts = [
            network.predict(torch.from_numpy(inputs[start : start + _CHUNK]).to(device), n_genes).float().cpu().numpy()
            for start in range(0, len(inputs), _CHUNK)
        ]
    network.train(was_training)
    return np.concatenate(parts) if parts else np.empty((0, n_genes), dtype=np.float32)


def divide_rows(order: np.ndarray, section: np.ndarray, size: int) -> list[np.ndarray]:
    """Divide shuffled rows into batches of about ``size``.

    With few sections the rows are taken as they come. With many, a batch would hold a spot or two of each, and correlations
    inside sections would say nothing; then runs of 8 rows of one section are kept together.

    Parameters
    ----------
    order
        (row,) shuffled rows.
    section
        (row,) the section of each.
    size
        Largest batch; runs that are kept together may exceed it by a few.
    """
    names = np.unique(section)
    if len(names) * _RUN <= size or len(names) == 1:
        return _even(order, size)
    runs = [part for name in names for part in _even_runs(order[section == name])]
    # The runs change places by where their first row stands in the shuffled order.
    place = {int(row): i for i, row in enumerate(order)}
    runs.sort(key=lambda one: place[int(one[0])])
    batches: list[list[np.ndarray]] = [[]]
    for one in runs:
        if batches[-1] and sum(map(len, batches[-1])) + len(one) > max(size, _RUN):
            batches.append([])
        batches[-1].append(one)
    return [np.concatenate(parts) for parts in batches]


def _even_runs(rows: np.ndarray) -> list[np.ndarray]:
    return np.array_split(rows, max(1, len(rows) // _RUN))


def _even(order: np.ndarray, size: int) -> list[np.ndarray]:
    """Divide rows into batches of at most ``size``, as equal as can be: a small rest would make a noisy correlation."""
    return np.array_split(order, max(1, -(-len(order) // size)))
