"""A small training with everything that draws or keeps state: dropout, batch normalisation, shuffled batches, an outer variable."""

from pathlib import Path
from typing import Any

import torch
from torch import nn

from expressor.core.rng import stream
from expressor.train import Outcome, Training, TrainPlan, run
from expressor.train.loop import seeded

N, DIM = 60, 5


class Outer:
    """Counts its openings and keeps what it drew, as an outer variable with an optimiser of its own would."""

    def __init__(self) -> None:
        self.value = torch.zeros(2)

    def state_dict(self) -> dict[str, Any]:
        return {"value": self.value}

    def load_state_dict(self, state: dict[str, Any], /) -> None:
        self.value = state["value"]

    def open(self, epoch: int) -> dict[str, float]:
        self.value = self.value + torch.rand(2)
        return {"outer": float(self.value.sum())}


def network(seed: int = 0) -> nn.Module:
    with seeded(seed, "init"):
        return nn.Sequential(nn.Linear(DIM, 16), nn.BatchNorm1d(16), nn.ReLU(), nn.Dropout(0.5), nn.Linear(16, 1))


def data() -> tuple[torch.Tensor, torch.Tensor]:
    generator = stream(0, "data")
    x = generator.standard_normal((N, DIM)).astype("float32")
    y = x @ generator.standard_normal((DIM, 1)).astype("float32")
    return torch.from_numpy(x), torch.from_numpy(y)


def make(*, seed: int = 0, batch_size: int = 10, **changes: Any) -> Training:
    """Return the training; each rank takes every ``world``-th observation of an epoch's order."""
    x, y = data()
    outer = Outer()

    def batches(epoch: int, rank: int, world: int) -> list[dict[str, torch.Tensor]]:
        order = torch.from_numpy(stream(seed, "batches", epoch).permutation(N)[rank::world])
        return [{"x": x[part], "y": y[part]} for part in order.split(batch_size)]

    def loss(module: nn.Module, batch: Any) -> dict[str, torch.Tensor]:
        error = (module(batch["x"]) - batch["y"]).square().mean()
        return {"loss": error, "doubled": 2 * error}

    def validate(module: nn.Module) -> dict[str, float]:
        return {"score": -float((module(x) - y).square().mean())}

    settings: dict[str, Any] = {
        "module": network(seed), "batches": batches, "loss": loss, "before_epoch": outer.open, "validate": validate,
        "monitor": "score", "extra": {"outer": outer},
    }  # fmt: skip
    return Training(**settings | changes)


def train(plan: TrainPlan, *, resume: Path | None = None, seed: int = 0, **changes: Any) -> tuple[Training, Outcome]:
    training = make(seed=seed, **changes)
    return training, run(training, plan, seed=seed, resume=resume, identity="toy")


def weights(training: Training) -> dict[str, torch.Tensor]:
    return {name: one.detach().clone() for name, one in training.module.state_dict().items()}
