"""Settings of a training run, shared by every system that has a network."""

from dataclasses import dataclass
from typing import Literal

from sklearn.base import BaseEstimator

from expressor.core.errors import check_choice, check_range

Precision = Literal["32-true", "bf16-mixed", "16-mixed", "64-true"]


@dataclass(kw_only=True, eq=False, repr=False)
class TrainPlan(BaseEstimator):
    """How to train: lengths, step size, stopping, machine.

    Parameters
    ----------
    lr
        Step size of the optimiser, > 0.
    weight_decay
        Decoupled weight decay, >= 0.
    batch_size
        Observations a step on each process, >= 2.
    epochs
        Most passes over the training data, >= 1.
    max_steps
        Stop after so many steps of each training phase, whatever the epoch. ``None``: no such bound. A later fit with the same
        ``resume`` folder and a larger bound goes on from there.
    patience
        Stop after so many epochs without a better validation score, >= 1. ``None``: never.
    clip_norm
        Largest Euclidean norm of the gradient, > 0. ``None``: not clipped.
    checkpoint_steps
        Steps between checkpoints where ``fit`` is given a ``resume`` folder, >= 1. A killed run loses at most these.
    device
        ``"auto"``, ``"cpu"``, ``"cuda"`` or ``"mps"``.
    devices
        Processes on this machine, >= 1. Under ``torchrun`` or SLURM the launcher's number holds.
    precision
        Arithmetic of forward and backward passes.
    """

    lr: float = 1e-3
    weight_decay: float = 0.0
    batch_size: int = 128
    epochs: int = 100
    max_steps: int | None = None
    patience: int | None = 20
    clip_norm: float | None = None
    checkpoint_steps: int = 200
    device: Literal["auto", "cpu", "cuda", "mps"] = "auto"
    devices: int = 1
    precision: Precision = "32-true"

    def check(self) -> None:
        """Raise :class:`~expressor.core.errors.DataError` where a setting is out of its range."""
        check_range(self.lr, name="plan.lr", low=0, open_low=True)
        check_range(self.weight_decay, name="plan.weight_decay", low=0)
        check_range(self.batch_size, name="plan.batch_size", low=2, integer=True)
        check_range(self.epochs, name="plan.epochs", low=1, integer=True)
        check_range(self.checkpoint_steps, name="plan.checkpoint_steps", low=1, integer=True)
        check_range(self.devices, name="plan.devices", low=1, integer=True)
        for name in ("max_steps", "patience"):
            if getattr(self, name) is not None:
                check_range(getattr(self, name), name=f"plan.{name}", low=1, integer=True)
        if self.clip_norm is not None:
            check_range(self.clip_norm, name="plan.clip_norm", low=0, open_low=True)
        check_choice(self.device, ("auto", "cpu", "cuda", "mps"), name="plan.device")
        check_choice(self.precision, ("32-true", "bf16-mixed", "16-mixed", "64-true"), name="plan.precision")
