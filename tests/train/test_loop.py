"""The training loop against a loop written out by hand, and what it promises about stopping, selecting and resuming."""

import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from expressor.core.errors import DataError, FormatError
from expressor.train import Training, TrainPlan, run
from expressor.train.checkpoint import read_checkpoint, write_checkpoint
from expressor.train.loop import seeded

from .toy import data, make, network, train, weights


def plan(**changes: Any) -> TrainPlan:
    return TrainPlan(**{"epochs": 3, "patience": None, "device": "cpu", "lr": 0.01} | changes)


def same(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


def test_it_is_the_loop_one_would_write() -> None:
    """No dropout here, so a plain loop of AdamW steps with clipping must give the same bits."""
    x, y = data()
    torch.manual_seed(0)
    module = nn.Linear(5, 1)
    by_hand = nn.Linear(5, 1)
    by_hand.load_state_dict(module.state_dict())
    parts = [slice(0, 20), slice(20, 40), slice(40, 60)]

    def loss(network: nn.Module, batch: Any) -> dict[str, torch.Tensor]:
        return {"loss": (network(batch["x"]) - batch["y"]).square().mean()}

    training = Training(module=module, batches=lambda *_: [{"x": x[one], "y": y[one]} for one in parts], loss=loss)
    outcome = run(training, plan(weight_decay=0.1, clip_norm=0.5), seed=0)

    optimizer = torch.optim.AdamW(by_hand.parameters(), lr=0.01, weight_decay=0.1)
    means = []
    for _ in range(3):
        losses = []
        for one in parts:
            optimizer.zero_grad()
            value = (by_hand(x[one]) - y[one]).square().mean()
            value.backward()
            nn.utils.clip_grad_norm_(by_hand.parameters(), 0.5)
            optimizer.step()
            losses.append(value.item())
        means.append(sum(losses) / 3)
    assert same(module.state_dict(), by_hand.state_dict())
    assert [one["loss"] for one in outcome.records] == means
    assert [one["epoch"] for one in outcome.records] == [1, 2, 3]
    assert [one["steps"] for one in outcome.records] == [3, 6, 9]
    assert (outcome.epochs, outcome.steps, outcome.best_epoch) == (3, 9, 3)


def test_records_hold_every_value_of_step_opening_and_validation() -> None:
    _, outcome = train(plan())
    for record in outcome.records:
        assert set(record) == {"epoch", "steps", "outer", "loss", "doubled", "score", "seconds"}
        assert record["doubled"] == pytest.approx(2 * record["loss"])
    assert np.all(np.diff([one["seconds"] for one in outcome.records]) > 0)


def scripted(scores: list[float], direction: str, patience: int | None, epochs: int = 20) -> tuple[Any, list[Any]]:
    """Train with given validation scores; also return the weights after each epoch."""
    seen: list[Any] = []

    def validate(module: nn.Module) -> dict[str, float]:
        seen.append({name: one.clone() for name, one in module.state_dict().items()})
        return {"score": scores[len(seen) - 1]}

    training = make(validate=validate, direction=direction)
    outcome = run(training, plan(epochs=epochs, patience=patience), seed=0)
    return (training, outcome), seen


@pytest.mark.parametrize(
    ("scores", "direction", "patience", "epochs", "best"),
    [
        ([1, 3, 2, 2.5, 9], "max", 2, 4, 2),
        ([3, 1, 2, 2.5, 0], "min", 2, 4, 2),
        ([1, 2, 3, 4, 5], "min", 3, 4, 1),
        ([1, 1, 1, 1], "max", 2, 3, 1),  # equal is not better
        ([float("nan"), 1, float("nan"), float("nan"), 2], "max", 2, 4, 2),
        ([2, float("nan"), 3, 0, 0], "max", 2, 5, 3),
        ([float("nan"), 5, 4, 3, 6], "min", 5, 5, 4),
        ([float("nan")] * 5, "max", 1, 5, 5),  # never defined: the last weights are as good as any
    ],
)
def test_early_stopping_follows_the_direction_and_restores_the_best(
    scores: list[float], direction: str, patience: int, epochs: int, best: int
) -> None:
    (training, outcome), seen = scripted(scores, direction, patience, epochs=5)
    assert (outcome.epochs, outcome.best_epoch) == (epochs, best)
    assert same(weights(training), seen[best - 1])
    assert not same(weights(training), seen[epochs - 1]) or best == epochs


def test_without_patience_all_epochs_run_and_the_best_is_still_restored() -> None:
    (training, outcome), seen = scripted([1, 5, 1, 1, 1], "max", None, epochs=5)
    assert (outcome.epochs, outcome.best_epoch) == (5, 2)
    assert same(weights(training), seen[1])


def test_validation_runs_in_evaluation_mode_without_gradients_and_steps_in_training_mode() -> None:
    modes: list[tuple[str, bool, bool]] = []

    def validate(module: nn.Module) -> dict[str, float]:
        modes.append(("validate", module.training, torch.is_grad_enabled()))
        return {"score": 0.0}

    def loss(module: nn.Module, batch: Any) -> dict[str, torch.Tensor]:
        modes.append(("step", module.training, torch.is_grad_enabled()))
        return {"loss": module(batch["x"]).mean()}

    run(make(validate=validate, loss=loss), plan(epochs=2), seed=0)
    assert set(modes) == {("validate", False, False), ("step", True, True)}


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_a_loss_that_is_not_finite_stops_with_where_and_what_to_do(bad: float) -> None:
    steps = []

    def loss(module: nn.Module, batch: Any) -> dict[str, torch.Tensor]:
        steps.append(1)
        return {"loss": module(batch["x"]).mean() * (bad if len(steps) == 9 else 1.0)}

    training = make(loss=loss)
    with pytest.raises(DataError) as caught:
        run(training, plan(), seed=0, phase="inner")
    text = str(caught.value)
    assert text.startswith("the loss of phase 'inner' is not finite at epoch 2, step 3; got ")
    assert text.endswith("Lower plan.lr, set plan.clip_norm, or check the inputs for extreme values.")
    assert all(one.isfinite().all() for one in training.module.state_dict().values()), "the bad step is not taken"


def test_no_batches_is_an_error() -> None:
    with pytest.raises(DataError, match="phase 'train' has no batch to train on. Lower plan.batch_size."):
        run(make(batches=lambda *_: []), plan(), seed=0)


@pytest.mark.parametrize("steps", [1, 6, 7, 18, 40])
def test_max_steps_bounds_the_steps_whatever_the_epoch(steps: int) -> None:
    _, outcome = train(plan(max_steps=steps))
    assert outcome.steps == min(steps, 18)
    assert outcome.epochs == outcome.steps // 6


def test_the_global_generators_are_neither_read_nor_moved() -> None:
    def states() -> tuple[Any, ...]:
        return random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state().tolist()  # type: ignore[index, call-overload]  # noqa: NPY002

    before = states()
    first = weights(train(plan())[0])
    assert states() == before
    torch.manual_seed(99)
    np.random.seed(99)  # noqa: NPY002, TID251 (a user's seed must not matter)
    assert same(first, weights(train(plan())[0]))


def test_what_a_step_draws_depends_on_seed_phase_epoch_and_step() -> None:
    def draws(seed: int, phase: str) -> list[tuple[float, ...]]:
        found = []

        def loss(module: nn.Module, batch: Any) -> dict[str, torch.Tensor]:
            found.append(tuple(torch.rand(3).tolist()))
            return {"loss": module(batch["x"]).mean()}

        run(make(loss=loss, before_epoch=lambda _: found.append(tuple(torch.rand(3).tolist())) or {}), plan(), seed=seed,
            phase=phase)  # fmt: skip
        return found

    first = draws(0, "a")
    assert draws(0, "a") == first
    everything = first + draws(1, "a") + draws(0, "b")
    assert len(everything) == 3 * (18 + 3)
    assert len(set(everything)) == len(everything)


def test_another_seed_gives_another_run() -> None:
    assert not same(weights(train(plan(), seed=1)[0]), weights(train(plan(), seed=2)[0]))


@pytest.mark.parametrize("first", [1, 5, 6, 11, 12, 17])
@pytest.mark.parametrize("every", [1, 4])
def test_a_resumed_run_has_the_bits_of_an_uninterrupted_one(tmp_path: Path, first: int, every: int) -> None:
    whole, whole_outcome = train(plan())
    train(plan(max_steps=first, checkpoint_steps=every), resume=tmp_path)
    resumed, outcome = train(plan(checkpoint_steps=every), resume=tmp_path)
    assert same(weights(whole), weights(resumed))
    assert torch.equal(whole.extra["outer"].state_dict()["value"], resumed.extra["outer"].state_dict()["value"])

    def told(records: list[dict[str, float]]) -> list[dict[str, float]]:
        return [{name: value for name, value in one.items() if name != "seconds"} for one in records]

    assert told(outcome.records) == told(whole_outcome.records)
    assert outcome.best_epoch == whole_outcome.best_epoch


def test_a_run_that_crashed_goes_on_from_its_last_checkpoint(tmp_path: Path) -> None:
    whole = weights(train(plan())[0])
    training = make()
    steps: list[int] = []
    original = training.loss

    def loss(module: nn.Module, batch: Any) -> Any:
        steps.append(1)
        if len(steps) == 12:
            raise KeyboardInterrupt
        return original(module, batch)

    training.loss = loss
    with pytest.raises(KeyboardInterrupt):
        run(training, plan(checkpoint_steps=5), seed=0, resume=tmp_path, identity="toy")
    counted: list[int] = []

    def count(module: nn.Module, batch: Any) -> Any:
        counted.append(1)
        return original(module, batch)

    again = make(loss=count)
    run(again, plan(checkpoint_steps=5), seed=0, resume=tmp_path, identity="toy")
    assert len(counted) == 18 - 10, "at most one interval is run again"
    assert same(whole, weights(again))


def test_a_stopped_run_is_not_run_again(tmp_path: Path) -> None:
    scores = iter([3.0, 2.0, 1.0, 0.0])
    training = make(validate=lambda _: {"score": next(scores)})
    settings = plan(epochs=20, patience=2)
    first = run(training, settings, seed=0, resume=tmp_path)
    again = make(validate=lambda _: pytest.fail("validated again"), loss=lambda *_: pytest.fail("stepped again"))
    second = run(again, settings, seed=0, resume=tmp_path)
    assert (first.epochs, second.epochs, second.best_epoch) == (3, 3, 1)
    assert same(weights(training), weights(again))


def test_phases_have_checkpoints_and_streams_of_their_own(tmp_path: Path) -> None:
    one, two = make(), make()
    run(one, plan(), seed=0, phase="search/0", resume=tmp_path)
    run(two, plan(), seed=0, phase="search/1", resume=tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["search-0.safetensors", "search-1.safetensors"]
    assert not same(weights(one), weights(two))


def test_a_checkpoint_of_another_identity_is_started_anew(tmp_path: Path) -> None:
    run(make(), plan(max_steps=7), seed=0, resume=tmp_path, identity="genes A")
    training = make()
    outcome = run(training, plan(), seed=0, resume=tmp_path, identity="genes B")
    assert outcome.steps == 18
    assert same(weights(training), weights(train(plan())[0]))


def test_a_checkpoint_of_another_network_is_refused_in_words(tmp_path: Path) -> None:
    run(make(), plan(max_steps=7), seed=0, resume=tmp_path)
    with pytest.raises(FormatError) as caught:
        run(make(module=nn.Linear(5, 1)), plan(), seed=0, resume=tmp_path)
    assert "train.safetensors does not fit this network (RuntimeError" in str(caught.value)
    assert str(caught.value).endswith("Delete it to start that phase anew.")


@pytest.mark.parametrize("gone", ["extra", "optimizer", "identity", "records"])
def test_a_checkpoint_that_lacks_a_part_is_refused_in_words(tmp_path: Path, gone: str) -> None:
    run(make(), plan(max_steps=7), seed=0, resume=tmp_path)
    saved = read_checkpoint(tmp_path / "train.safetensors")
    del saved[gone]
    write_checkpoint(tmp_path / "train.safetensors", saved)
    with pytest.raises(FormatError, match=f"does not fit this network .KeyError: '{gone}'"):
        run(make(), plan(), seed=0, resume=tmp_path)


def test_what_killed_writers_left_is_swept(tmp_path: Path) -> None:
    (tmp_path / ".train.safetensors.123.tmp").write_bytes(b"half")
    (tmp_path / "notes.tmp").write_bytes(b"mine")
    run(make(), plan(), seed=0, resume=tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["notes.tmp", "train.safetensors"]


def test_the_callback_sees_each_epoch() -> None:
    seen: list[float] = []
    run(make(), plan(), seed=0, on_epoch=lambda record: seen.append(record["epoch"]))
    assert seen == [1, 2, 3]


def test_frozen_parameters_stay() -> None:
    module = network()
    module[0].weight.requires_grad_(False)
    before = module[0].weight.clone()
    run(make(module=module), plan(weight_decay=0.5), seed=0)
    assert torch.equal(before, module[0].weight)


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has a GPU")
def test_a_missing_gpu_is_told() -> None:
    with pytest.raises(DataError) as caught:
        train(plan(device="cuda"))
    assert str(caught.value) == ('plan.device is "cuda" and no CUDA device is available. Use device="auto" or "cpu".')


@pytest.mark.skipif(torch.backends.mps.is_available(), reason="this machine has Metal")
def test_a_missing_metal_device_is_told() -> None:
    with pytest.raises(DataError, match='plan.device is "mps" and this machine has none. Use device="auto" or "cpu".'):
        train(plan(device="mps"))


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("lr", 0, "plan.lr is out of range; expected a number in (0, inf], got 0"),
        ("weight_decay", -1, "plan.weight_decay is out of range"),
        ("batch_size", 1, "plan.batch_size is out of range; expected an integer in [2, inf], got 1"),
        ("epochs", 1.5, "plan.epochs is not an integer"),
        ("max_steps", 0, "plan.max_steps is out of range"),
        ("patience", 0, "plan.patience is out of range"),
        ("clip_norm", 0.0, "plan.clip_norm is out of range"),
        ("checkpoint_steps", 0, "plan.checkpoint_steps is out of range"),
        ("devices", 0, "plan.devices is out of range"),
        ("device", "gpu", "unknown plan.device 'gpu'; expected one of 'auto', 'cpu', 'cuda', 'mps'"),
        ("precision", "16", "unknown plan.precision '16'"),
    ],
)
def test_settings_out_of_range_are_refused_before_training(name: str, value: Any, message: str) -> None:
    with pytest.raises(DataError) as caught:
        train(plan(**{name: value}))
    assert message in str(caught.value)


@pytest.mark.parametrize("precision", ["bf16-mixed", "64-true"])
def test_other_precisions_train(precision: Any) -> None:
    def loss(module: nn.Module, batch: Any) -> dict[str, torch.Tensor]:
        kind = next(module.parameters()).dtype
        return {"loss": (module(batch["x"].to(kind)) - batch["y"].to(kind)).float().square().mean()}

    training = make(loss=loss, validate=None, monitor=None)
    outcome = run(training, plan(precision=precision, epochs=8), seed=0)
    assert outcome.records[-1]["loss"] < outcome.records[0]["loss"]
    expected = torch.float64 if precision == "64-true" else torch.float32
    assert next(training.module.parameters()).dtype is expected


def test_seeded_blocks_restore_the_generator_and_depend_on_their_name_alone() -> None:
    before = torch.get_rng_state()
    drawn = []
    for name in [("a", 0), ("a", 1), ("b", 0), ("a", 0)]:
        with seeded(3, *name):
            drawn.append(torch.rand(4))
    assert torch.equal(before, torch.get_rng_state())
    assert torch.equal(drawn[0], drawn[3])
    assert not torch.equal(drawn[0], drawn[1])
    assert not torch.equal(drawn[0], drawn[2])
