"""Training of one network: batches, schedule, early stopping on samples that were held out."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from expressor.core.rng import stream
from expressor.nn.fields import FourierField, Siren
from expressor.systems.brain_inr.equations import squared_loss
from expressor.systems.brain_inr.inputs import Query
from expressor.train import loop
from expressor.train.plan import TrainPlan

SCHEDULES = ("one_cycle", "steps")
_DECAY, _DECAY_STEPS = 0.9, 1000  # of the paper's schedule


@dataclass(frozen=True, eq=False)
class Material:
    """Places with their standard scores.

    Attributes
    ----------
    x, conditions
        float32 (point, 3) and (point, condition).
    z
        float32 (point, gene).
    """

    x: Tensor
    conditions: Tensor
    z: Tensor

    @classmethod
    def of(cls, query: Query, z: np.ndarray) -> "Material":
        """Turn places and scores into tensors."""
        return cls(
            torch.from_numpy(query.scaled), torch.from_numpy(query.conditions), torch.from_numpy(z.astype(np.float32))
        )

    @classmethod
    def join(cls, one: "Material", other: "Material") -> "Material":
        """Return both, one after the other."""
        return cls(*(torch.cat([getattr(one, name), getattr(other, name)]) for name in ("x", "conditions", "z")))

    def __len__(self) -> int:
        return len(self.x)


class _Batches(Sequence[dict[str, Tensor]]):
    """Batches of one epoch, drawn at random; a pure function of seed, phase, epoch and rank."""

    def __init__(
        self, draw: Callable[[np.random.Generator], dict[str, Tensor]], steps: int, key: tuple[Any, ...]
    ) -> None:
        self.draw, self.steps, self.key = draw, steps, key

    def __len__(self) -> int:
        return self.steps

    def __getitem__(self, step: Any) -> Any:
        seed, phase, epoch, rank = self.key
        return self.draw(stream(seed, f"{phase}/batch", epoch, int(step), rank))


def train(
    module: FourierField | Siren,
    material: Material,
    held_out: Material | None,
    *,
    plan: TrainPlan,
    steps: int,
    schedule: str,
    seed: int,
    phase: str,
    resume: Path | None = None,
    identity: str = "",
    gene_inputs: Tensor | None = None,
) -> list[dict[str, Any]]:
    """Train in place and return a record an epoch; the module ends with the weights that were best on ``held_out``.

    Parameters
    ----------
    module
        A :class:`FourierField`, of which a batch is samples with all their genes; or a :class:`Siren`, of which it is pairs of
        sample and gene.
    material, held_out
        What is learnt from, and what decides when to stop; None to go on to the end.
    plan, steps, schedule
        Training settings; steps an epoch; ``"one_cycle"``: the step size rises for three tenths of the epochs and falls to nothing
        by a cosine; ``"steps"``: it is multiplied by .9 every 1,000 steps.
    seed, phase, resume, identity
        See :func:`expressor.train.loop.run`.
    gene_inputs
        Of a :class:`Siren`: (gene, dim).
    """
    draw = (
        _draw_samples(material, plan.batch_size)
        if gene_inputs is None
        else _draw_pairs(material, gene_inputs, plan.batch_size)
    )
    made: list[torch.optim.Optimizer] = []

    def optimizer(parameters: Any) -> torch.optim.Optimizer:
        made.append(torch.optim.AdamW(parameters, lr=plan.lr, weight_decay=plan.weight_decay))
        return made[0]

    def set_rate(epoch: int) -> dict[str, float]:
        rate = plan.lr * rate_share(schedule, epoch, plan.epochs, steps)
        for group in made[0].param_groups:
            group["lr"] = rate
        return {"lr": rate}

    def loss(network: nn.Module, batch: Any) -> dict[str, Tensor]:
        inputs = (batch["x"], batch["conditions"]) if gene_inputs is None else (batch["x"],)
        return {"loss": squared_loss(batch["z"], network(*inputs))}

    def validate(network: nn.Module, judges: Material) -> dict[str, float]:
        return {"held_out_mse": _error(network, judges, gene_inputs)}

    training = loop.Training(
        module=module,
        batches=lambda epoch, rank, world: _Batches(draw, steps, (seed, phase, epoch, rank)),
        loss=loss,
        optimizer=optimizer,
        before_epoch=set_rate,
        validate=partial(validate, judges=held_out) if held_out is not None else None,
        monitor="held_out_mse" if held_out is not None else None,
        direction="min",
    )
    outcome = loop.run(training, plan, seed=seed, phase=phase, resume=resume, identity=identity)
    module.to("cpu")
    return outcome.records


def rate_share(schedule: str, epoch: int, epochs: int, steps: int) -> float:
    """Return the share of the largest step size that is used in an epoch (from 0)."""
    if schedule == "steps":
        return _DECAY ** (epoch * steps // _DECAY_STEPS)
    share = (epoch + 0.5) / epochs
    rise = 0.3
    if share < rise:
        return 0.04 + 0.96 * (1 - math.cos(math.pi * share / rise)) / 2
    return max((1 + math.cos(math.pi * (share - rise) / (1 - rise))) / 2, 1e-4)


def _draw_samples(material: Material, size: int) -> Callable[[np.random.Generator], dict[str, Tensor]]:
    n = len(material)

    def draw(rng: np.random.Generator) -> dict[str, Tensor]:
        rows = torch.from_numpy(rng.choice(n, size=min(size, n), replace=False) if n > size else np.arange(n))
        return {"x": material.x[rows], "conditions": material.conditions[rows], "z": material.z[rows]}

    return draw


def _draw_pairs(material: Material, inputs: Tensor, size: int) -> Callable[[np.random.Generator], dict[str, Tensor]]:
    n, genes = material.z.shape

    def draw(rng: np.random.Generator) -> dict[str, Tensor]:
        pairs = torch.from_numpy(
            rng.choice(n * genes, size=size, replace=False) if n * genes > size else np.arange(n * genes)
        )
        row, gene = pairs // genes, pairs % genes
        x = torch.cat([material.x[row], material.conditions[row], inputs[gene]], dim=1)
        return {"x": x, "z": material.z[row, gene][:, None]}

    return draw


def _error(network: nn.Module, held_out: Material, gene_inputs: Tensor | None) -> float:
    device = next(network.parameters()).device
    x, conditions, z = (one.to(device) for one in (held_out.x, held_out.conditions, held_out.z))
    if gene_inputs is None:
        return float(squared_loss(z, network(x, conditions)))
    total = 0.0
    for g, one in enumerate(gene_inputs.to(device)):
        found = network(torch.cat([x, conditions, one.expand(len(x), -1)], dim=1))
        total += float(squared_loss(z[:, g : g + 1], found))
    return total / len(gene_inputs)
