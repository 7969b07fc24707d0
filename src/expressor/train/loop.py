"""The training loop: epochs of steps, validation, early stopping, checkpoints; the same for every system with a network.

A system describes its training by a :class:`Training` and calls :func:`run`. What a step draws at random depends on
(seed, phase, epoch, step, rank) alone, so a resumed run makes the bits of an uninterrupted one.
"""

import copy
import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, Protocol

import torch
from torch import Tensor, nn

from expressor.core.errors import DataError, FormatError
from expressor.core.log import logger
from expressor.core.rng import child_seed
from expressor.train.checkpoint import read_checkpoint, sweep, write_checkpoint
from expressor.train.plan import TrainPlan

Batch = Mapping[str, Tensor]


class Stateful(Protocol):
    """Anything beside the network that a checkpoint must hold, such as an outer variable and its optimiser."""

    def state_dict(self) -> dict[str, Any]:
        """Return everything that is needed to go on, as nested dictionaries of tensors and plain values."""
        ...

    def load_state_dict(self, state: dict[str, Any], /) -> Any:
        """Take up what :meth:`state_dict` gave."""
        ...


@dataclass(kw_only=True)
class Training:
    """What to train and how, in the system's own words.

    Attributes
    ----------
    module
        The network.
    batches
        ``(epoch, rank, world) -> sequence of batches``, a pure function; each batch maps names to tensors.
    loss
        ``(module, batch) -> {"loss": scalar, ...}``; further scalars are recorded.
    optimizer
        ``parameters -> optimiser``; by default AdamW with the plan's step size and decay.
    before_epoch
        Called with the epoch before its steps, for an outer update; returns values to record.
    validate
        Called with the network in evaluation mode after each epoch; returns values to record.
    monitor, direction
        Name among the validation's values that decides about early stopping and the best epoch, and whether ``"max"`` or
        ``"min"`` is better.
    extra
        Further stateful parts, by name, to be checkpointed along.
    leaves_parts_out
        Whether the loss of a batch may leave parameters alone, such as the vector of hidden genes where none is hidden; several
        processes then look for them in each step.
    """

    module: nn.Module
    batches: Callable[[int, int, int], Sequence[Batch]]
    loss: Callable[[nn.Module, Batch], Mapping[str, Tensor]]
    optimizer: Callable[[Any], torch.optim.Optimizer] | None = None
    before_epoch: Callable[[int], Mapping[str, float]] | None = None
    validate: Callable[[nn.Module], Mapping[str, float]] | None = None
    monitor: str | None = None
    direction: Literal["max", "min"] = "max"
    extra: Mapping[str, Stateful] = field(default_factory=dict)
    leaves_parts_out: bool = False


@dataclass
class Outcome:
    """What a run did.

    Attributes
    ----------
    records
        One dictionary an epoch: epoch (from 1), steps so far, mean loss, recorded values, seconds.
    epochs, steps
        Epochs completed and steps taken.
    best_epoch
        Epoch (from 1) whose weights the module now has; the last one where nothing is monitored.
    """

    records: list[dict[str, float]]
    epochs: int
    steps: int
    best_epoch: int


@contextmanager
def seeded(seed: int, purpose: str, *position: int) -> Iterator[None]:
    """Draw torch's random numbers from a named stream inside the block; the caller's generators stay untouched."""
    # Generators are set directly: torch.manual_seed also formats a stack trace, which costs more than a small training step.
    generators = [torch.default_generator]
    if torch.cuda.is_available():
        torch.cuda.init()
        generators += torch.cuda.default_generators
    kept = [one.get_state() for one in generators]
    for one in generators:
        one.manual_seed(child_seed(seed, purpose, *position) % 2**63)
    try:
        yield
    finally:
        for one, state in zip(generators, kept):
            one.set_state(state)


def make_fabric(plan: TrainPlan, *, leaves_parts_out: bool = False) -> Any:
    """Return the Fabric of this plan: one process, several here, or those of the launcher that started this program.

    Parameters
    ----------
    plan
        Says how many processes and which device.
    leaves_parts_out
        As of :class:`Training`.

    Raises
    ------
    DataError
        The plan asks for a device that this machine does not have.
    """
    if plan.device == "cuda" and not torch.cuda.is_available():
        raise DataError('plan.device is "cuda" and no CUDA device is available', fix='Use device="auto" or "cpu".')
    if plan.device == "mps" and not torch.backends.mps.is_available():
        raise DataError('plan.device is "mps" and this machine has none', fix='Use device="auto" or "cpu".')
    from lightning_fabric import Fabric

    # torchrun has started the processes already: say how many, so that Fabric joins instead of starting its own.
    local = int(os.environ.get("LOCAL_WORLD_SIZE", plan.devices))
    nodes = max(1, int(os.environ.get("WORLD_SIZE", local)) // local)
    strategy = "ddp_find_unused_parameters_true" if leaves_parts_out else "ddp"
    fabric = Fabric(
        accelerator="gpu" if plan.device == "cuda" else plan.device,
        devices=local,
        num_nodes=nodes,
        strategy=strategy if local * nodes > 1 else "auto",
        precision=plan.precision,
    )
    if local * nodes > 1:
        fabric.launch()
    return fabric


def run(
    training: Training,
    plan: TrainPlan,
    *,
    seed: int,
    phase: str = "train",
    resume: Path | None = None,
    identity: str = "",
    on_epoch: Callable[[dict[str, float]], None] | None = None,
) -> Outcome:
    """Train ``training.module`` in place and return what happened; the module ends with its best weights.

    Parameters
    ----------
    training, plan
        What to train; for how long and where.
    seed
        The estimator's seed.
    phase
        Name of this run inside a fit; names its random streams and its checkpoint.
    resume
        Folder of checkpoints. What it holds of this phase is continued; finished phases are not run again.
    identity
        What the run depends on beside the plan's length (chosen genes, say). A checkpoint of another identity is started anew.
    on_epoch
        Called with each epoch's record, for progress bars.

    Raises
    ------
    DataError
        The loss is not finite, the device is missing, or a checkpoint cannot be written.
    FormatError
        A checkpoint cannot be read, or is of another network.
    """
    plan.check()
    fabric = make_fabric(plan, leaves_parts_out=training.leaves_parts_out)
    default = torch.optim.AdamW
    parameters = [one for one in training.module.parameters() if one.requires_grad]
    optimizer = (
        training.optimizer(parameters)
        if training.optimizer
        else default(parameters, lr=plan.lr, weight_decay=plan.weight_decay)
    )
    module, optimizer = fabric.setup(training.module, optimizer)
    path = None if resume is None else Path(resume) / f"{phase.replace('/', '-')}.safetensors"
    state = _State(training, optimizer, identity)
    if path is not None and fabric.is_global_zero:
        sweep(path)
    if path is not None and path.exists():
        state.restore(path, fabric.device)
    _run_epochs(state, training, module, optimizer, fabric, plan, seed, phase, path, on_epoch)
    if state.best is not None:
        training.module.load_state_dict(state.best)
    return Outcome(state.records, state.epoch, state.steps, state.best_epoch or state.epoch)


class _State:
    """Where a run stands: all that a checkpoint holds."""

    def __init__(self, training: Training, optimizer: torch.optim.Optimizer, identity: str) -> None:
        self.training, self.optimizer, self.identity = training, optimizer, identity
        self.epoch = self.steps = self.step_in_epoch = self.best_epoch = 0
        self.finished = self.opened = False
        self.records: list[dict[str, float]] = []
        self.sums: dict[str, float] = {}
        self.opening: dict[str, float] = {}
        self.best: dict[str, Tensor] | None = None
        self.best_value: float | None = None
        self.seconds = 0.0

    _COUNTS = (
        "epoch", "steps", "step_in_epoch", "best_epoch", "best_value", "finished", "opened",
        "records", "sums", "opening", "best", "seconds",
    )  # fmt: skip

    def save(self, path: Path) -> None:
        write_checkpoint(
            path,
            {
                "identity": self.identity,
                "module": self.training.module.state_dict(),
                "optimizer": self.optimizer.state_dict(),
                "extra": {name: part.state_dict() for name, part in self.training.extra.items()},
                **{name: getattr(self, name) for name in self._COUNTS},
            },
        )

    def restore(self, path: Path, device: torch.device) -> None:
        saved = read_checkpoint(path)
        try:
            if saved["identity"] != self.identity:
                logger.info("a checkpoint of other settings is started anew")
                return
            self._take_up(saved, device)
        except (LookupError, RuntimeError, TypeError, ValueError) as error:
            raise FormatError(
                f"{path} does not fit this network ({type(error).__name__}: {error})",
                fix="Delete it to start that phase anew.",
            ) from error

    def _take_up(self, saved: dict[str, Any], device: torch.device) -> None:
        self.training.module.load_state_dict(saved["module"])
        self.optimizer.load_state_dict(saved["optimizer"])
        for name, part in self.training.extra.items():
            part.load_state_dict(saved["extra"][name])
        for name in self._COUNTS:
            setattr(self, name, saved[name])
        if self.best is not None:
            self.best = {name: value.to(device) for name, value in self.best.items()}

    def close_epoch(self, n_steps: int, values: Mapping[str, float], seconds: float) -> dict[str, float]:
        """Record the epoch and keep its weights if they are the best so far."""
        self.epoch += 1
        self.seconds += seconds
        record = {"epoch": self.epoch, "steps": self.steps, **self.opening}
        record |= {name: total / n_steps for name, total in self.sums.items()} | dict(values)
        self.records.append(record | {"seconds": self.seconds})
        self.step_in_epoch, self.sums, self.opening, self.opened = 0, {}, {}, False
        monitor = self.training.monitor
        if monitor is not None:
            value = values[monitor]
            sign = 1.0 if self.training.direction == "max" else -1.0
            # A score that is undefined (NaN) is better than none, and never better than one that is defined.
            if self.best_value is None or sign * value > sign * self.best_value:
                self.best_value = value if value == value else None
                self.best_epoch = self.epoch
                self.best = copy.deepcopy(self.training.module.state_dict())
        return self.records[-1]


def _run_epochs(
    state: _State,
    training: Training,
    module: Any,
    optimizer: Any,
    fabric: Any,
    plan: TrainPlan,
    seed: int,
    phase: str,
    path: Path | None,
    on_epoch: Callable[[dict[str, float]], None] | None,
) -> None:
    def save(finished: bool = False) -> None:
        state.finished = finished
        if path is not None and fabric.is_global_zero:
            state.save(path)

    while not state.finished:
        if state.epoch >= plan.epochs or _is_stale(state, plan):
            return save(finished=_is_stale(state, plan))
        if plan.max_steps is not None and state.steps >= plan.max_steps:
            return save()
        started = time.perf_counter()
        epoch = state.epoch
        if training.before_epoch is not None and not state.opened:
            # The same draws on every process: what an outer update decides must not differ between them.
            with seeded(seed, f"{phase}/open", epoch):
                state.opening = dict(training.before_epoch(epoch))
        state.opened = True
        batches = training.batches(epoch, fabric.global_rank, fabric.world_size)
        if not len(batches):
            raise DataError(f"phase {phase!r} has no batch to train on", fix="Lower plan.batch_size.")
        module.train()
        for position in range(state.step_in_epoch, len(batches)):
            if plan.max_steps is not None and state.steps >= plan.max_steps:
                return save()
            with seeded(seed, f"{phase}/step", epoch, position, fabric.global_rank):
                values = _step(training, module, optimizer, fabric, plan, batches[position], phase, state)
            state.steps += 1
            state.step_in_epoch = position + 1
            for name, value in values.items():
                state.sums[name] = state.sums.get(name, 0.0) + value
            if state.steps % plan.checkpoint_steps == 0:
                save()
        module.eval()
        with torch.no_grad():
            validation = dict(training.validate(module)) if training.validate is not None else {}
        if fabric.world_size > 1:
            # Buffers may differ a little between processes; when to stop must not.
            validation = fabric.broadcast(validation)
        record = state.close_epoch(len(batches), validation, time.perf_counter() - started)
        if on_epoch is not None:
            on_epoch(record)


def _is_stale(state: _State, plan: TrainPlan) -> bool:
    monitored = state.training.monitor is not None and plan.patience is not None
    return monitored and state.epoch - state.best_epoch >= plan.patience  # type: ignore[operator]


def _step(
    training: Training,
    module: Any,
    optimizer: Any,
    fabric: Any,
    plan: TrainPlan,
    batch: Batch,
    phase: str,
    state: _State,
) -> dict[str, float]:
    batch = {name: value.to(fabric.device) for name, value in batch.items()}
    optimizer.zero_grad(set_to_none=True)
    losses = training.loss(module, batch)
    if not torch.isfinite(losses["loss"]):
        raise DataError(
            f"the loss of phase {phase!r} is not finite at epoch {state.epoch + 1}, step {state.step_in_epoch + 1}",
            got=losses["loss"].item(),
            fix="Lower plan.lr, set plan.clip_norm, or check the inputs for extreme values.",
        )
    fabric.backward(losses["loss"])
    if plan.clip_norm is not None:
        fabric.clip_gradients(module, optimizer, max_norm=plan.clip_norm)
    optimizer.step()
    return _average(fabric, {name: value.detach() for name, value in losses.items()})


def _average(fabric: Any, values: Mapping[str, Tensor]) -> dict[str, float]:
    """Means over processes, so that every one records the loss of the whole step."""
    if fabric.world_size == 1:
        return {name: float(value) for name, value in values.items()}
    means = fabric.all_reduce(torch.stack([values[name].float() for name in sorted(values)]), reduce_op="mean")
    return dict(zip(sorted(values), means.tolist()))
