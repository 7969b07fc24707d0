"""Fine-tuning: the network is trained on to tell classes or risks, starting from what the frozen head says."""

import copy
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from expressor.core.rng import stream
from expressor.nn.cox import cox_loss
from expressor.systems.gexbert.network import RestorationNetwork
from expressor.systems.gexbert.restorer import Restorer
from expressor.systems.gexbert.training import View
from expressor.train import loop
from expressor.train.plan import TrainPlan

_SURE = 1.0  # standard errors over patients by which held-out patients must gain


class TunedNetwork(nn.Module):
    """A copy of the network with one linear head; what it adds to the frozen head's output is 0 before training.

    Parameters
    ----------
    network
        The pretrained network; it is copied.
    outputs
        Number of outputs: classes, or 1 for a risk.
    """

    def __init__(self, network: RestorationNetwork, outputs: int) -> None:
        super().__init__()
        self.network = copy.deepcopy(network)
        self.head = nn.Linear(network.dim, outputs)
        nn.init.zeros_(self.head.weight)
        nn.init.zeros_(self.head.bias)

    def forward(
        self, genes: Tensor, z: Tensor, missing: Tensor, scores: Tensor | None = None, pipeline: Tensor | None = None
    ) -> Float[Tensor, "sample output"]:
        """Return what is added to the frozen head's outputs."""
        network = self.network
        return self.head(network.represent(network.encode(network.tokens(genes, z, missing, scores, pipeline))))

    def on(self, view: View) -> Float[Tensor, "sample output"]:
        """Return the same for samples as :func:`expressor.systems.gexbert.training.look` gives them."""
        return self(view.genes, view.z, view.missing, view.scores, view.pipeline)


@dataclass(frozen=True, eq=False)
class Task:
    """What is learnt.

    Attributes
    ----------
    base
        Output of the frozen head, (sample, output), from values of a panel: ``(values, observed, pipeline) -> Tensor``.
    targets
        Named tensors, one row a sample.
    loss
        ``(output, targets) -> scalar``.
    whole
        Whether a batch must hold all samples, as risk sets demand.
    """

    base: Callable[[Tensor, Tensor, Tensor | None], Tensor]
    targets: Mapping[str, Tensor]
    loss: Callable[[Tensor, Mapping[str, Tensor]], Tensor]
    whole: bool

    def take(self, rows: Tensor) -> dict[str, Tensor]:
        """Return the targets of some samples."""
        return {name: one[rows] for name, one in self.targets.items()}


def class_loss(output: Tensor, targets: Mapping[str, Tensor]) -> Tensor:
    """Return the cross-entropy."""
    return F.cross_entropy(output, targets["label"])


def risk_loss(output: Tensor, targets: Mapping[str, Tensor]) -> Tensor:
    """Return the negative log partial likelihood an event; 0 where none is in the batch."""
    return cox_loss(
        output[:, 0], targets["time"], targets["event"], strata=targets.get("strata"), no_event="zero"
    ).float()


class _Batches(Sequence[Mapping[str, Tensor]]):
    """Panels of labelled samples; a pure function of seed, epoch and step."""

    def __init__(self, restorer: Restorer, task: Task, values: Tensor, pipeline: Tensor | None, panel: Tensor | None,
                 plan: TrainPlan, place: tuple[int, int, int]) -> None:  # fmt: skip
        self.restorer, self.task, self.values, self.pipeline, self.panel = restorer, task, values, pipeline, panel
        self.size = len(values) if task.whole else plan.batch_size
        self.place = place

    def __len__(self) -> int:
        return max(1, -(-len(self.values) // self.size))

    def __iter__(self) -> Iterator[Mapping[str, Tensor]]:
        return (self[i] for i in range(len(self)))

    def __getitem__(self, step: Any) -> Any:
        seed, epoch, rank = self.place
        draw = stream(seed, "tune", epoch, int(step), rank)
        rows = torch.from_numpy(np.sort(draw.permutation(len(self.values))[: self.size]))
        observed, options, n_genes = self.panel, self.restorer.options, self.values.shape[1]
        if observed is None:
            low, high = np.log(min(options.smallest, n_genes)), np.log(n_genes)
            size = round(float(np.exp(draw.uniform(low, high))))
            observed = torch.from_numpy(np.sort(draw.permutation(n_genes)[:size]))
        codes = None if self.pipeline is None else self.pipeline[rows]
        values = self.values[rows][:, observed]
        view = self.restorer.view(values, observed, codes)
        return {**view.batch(), "base": self.task.base(values, observed, codes).float(), **self.task.take(rows)}


def tune(
    network: RestorationNetwork,
    restorer: Restorer,
    *,
    train: tuple[Task, Tensor, Tensor | None],
    held_out: tuple[Task, Tensor, Tensor | None],
    panel: Tensor | None,
    plan: TrainPlan,
    seed: int,
    phase: str,
    resume: Path | None,
    identity: str,
) -> tuple[TunedNetwork | None, pd.DataFrame]:
    """Train on, and return the tuned network if held-out patients surely gain, else None; with one row an epoch.

    Parameters
    ----------
    network
        Pretrained; it is left as it is.
    restorer
        How samples are looked at.
    train, held_out
        Task, gap-free values (sample, gene) and pipeline codes of the patients that train and of those that judge.
    panel
        Positions of the only genes to look at; random panels if None.
    plan, seed, phase, resume, identity
        As for :func:`expressor.train.loop.run`.
    """
    task, values, pipeline = train
    judged, judged_values, judged_pipeline = held_out
    outputs = task.base(values[:1], torch.arange(values.shape[1]), None if pipeline is None else pipeline[:1]).shape[1]
    with loop.seeded(seed, f"{phase}/init"):
        tuned = TunedNetwork(network, outputs)
    shown = panel if panel is not None else torch.arange(values.shape[1])
    view = restorer.view(judged_values[:, shown], shown, judged_pipeline)
    seen = (view.genes, view.z, view.missing, view.scores, view.pipeline)
    base = judged.base(judged_values[:, shown], shown, judged_pipeline).float()

    def validate(module: Any) -> dict[str, float]:
        device = next(module.parameters()).device
        output = base + module(*(None if one is None else one.to(device) for one in seen)).cpu()
        return {
            "val_loss": float(judged.loss(output, judged.targets)),
            "frozen_loss": float(judged.loss(base, judged.targets)),
        }

    def loss(module: Any, batch: Mapping[str, Tensor]) -> dict[str, Tensor]:
        added = module(batch["genes"], batch["z"], batch["missing"], batch.get("scores"), batch.get("pipeline"))
        return {"loss": task.loss(batch["base"] + added, batch)}

    training = loop.Training(
        module=tuned, loss=loss, validate=validate, monitor="val_loss", direction="min",
        batches=lambda epoch, rank, world: _Batches(restorer, task, values, pipeline, panel, plan, (seed, epoch, rank)),
    )  # fmt: skip
    outcome = loop.run(training, plan, seed=seed, phase=phase, resume=resume, identity=identity)
    tuned.cpu().eval()
    history = pd.DataFrame(outcome.records).assign(stage=phase)
    with torch.no_grad():
        better = _gains(judged, base, base + tuned.on(view))
    return (tuned if better else None), history


def _gains(task: Task, before: Tensor, after: Tensor) -> bool:
    """Whether the loss of held-out patients falls by more than a standard error; for risks, by jackknifing patients."""
    n = len(before)
    whole = task.loss(before, task.targets) - task.loss(after, task.targets)
    if n < 3 or not bool(whole > 0):
        return False
    gains = []
    for i in range(n):
        rows = torch.arange(n) != i
        left = task.take(rows)
        gains.append(task.loss(before[rows], left) - task.loss(after[rows], left))
    spread = (torch.stack(gains).var() * (n - 1) ** 2 / n).sqrt()
    return bool(whole > _SURE * spread)
