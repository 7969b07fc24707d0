"""A program that trains in child processes, kills them at random moments, and lets the last one end.

``python killing.py FOLDER KILLS SEED [SYSTEM]`` prints what happened as JSON. It trains the toy of these tests; for ``stream`` a
network on cells that are read from a file in parts; else it fits a system's preset ``tiny`` on its example data.
Children are forked, so that imports are paid once.
"""

import json
import os
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from lightning_fabric import Fabric  # noqa: F401  (imported before forking)
from safetensors.torch import load_file, save_file

sys.path.insert(0, str(Path(__file__).parent))

from stream_ranks import describe, make_cells
from toy import train, weights

from expressor.data import open_blocks
from expressor.train import TrainPlan, run
from expressor.train.checkpoint import read_checkpoint

Work = Callable[[Path], dict[str, torch.Tensor]]


def train_toy(resume: Path) -> dict[str, torch.Tensor]:
    plan = TrainPlan(epochs=6, patience=None, checkpoint_steps=1, device="cpu", lr=0.01)
    training, outcome = train(plan, resume=resume)
    found = weights(training) | {"outer": training.extra["outer"].state_dict()["value"]}
    found["losses"] = torch.tensor([one["loss"] for one in outcome.records], dtype=torch.float64)
    return found


def streaming(cells: Path) -> Work:
    make_cells().write_h5ad(cells)

    def train_streamed(resume: Path) -> dict[str, torch.Tensor]:
        training = describe(open_blocks(cells), 10)
        plan = TrainPlan(lr=0.05, epochs=8, patience=None, device="cpu", checkpoint_steps=1)
        outcome = run(training, plan, seed=1, resume=resume, identity="streamed")
        losses = torch.tensor([one["loss"] for one in outcome.records], dtype=torch.float64)
        return weights(training) | {"losses": losses}

    return train_streamed


def fitting(system: str) -> Work:
    from expressor.core import registry
    from expressor.datasets.examples import example
    from expressor.estimator.conformance import outputs

    kind: Any = registry.load(system)
    data = example(kind.card().inputs)

    def fit(resume: Path) -> dict[str, torch.Tensor]:
        model = kind.preset("tiny")
        model.plan.set_params(checkpoint_steps=1, device="cpu")
        model.fit(data, resume=resume)
        return {role: numbers(table) for role, table in outputs(model, data).items()}

    return fit


def numbers(table: Any) -> torch.Tensor:
    """Return a table's values; labels as the bytes of their text."""
    values = table.to_numpy()
    if values.dtype == object:
        return torch.frombuffer(bytearray("\n".join(map(str, values.ravel())), "utf-8"), dtype=torch.uint8)
    return torch.from_numpy(values)


def start(work: Work, folder: Path) -> int:
    child = os.fork()
    if child == 0:
        code = 1
        try:
            save_file(work(folder / "resume"), folder / "result.safetensors")
            code = 0
        finally:
            sys.stderr.flush()
            os._exit(code)
    return child


def position(folder: Path) -> int:
    """Return how many steps the checkpoints hold; each must be readable whenever its writer was killed."""
    return sum(read_checkpoint(path)["steps"] for path in folder.glob("resume/*.safetensors"))


def main() -> None:
    folder, kills, seed = Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])
    work = train_toy
    if len(sys.argv) > 4:
        work = streaming(folder / "cells.h5ad") if sys.argv[4] == "stream" else fitting(sys.argv[4])
    torch.set_num_threads(1)
    whole = folder / "whole"
    whole.mkdir()
    started = time.perf_counter()
    if os.waitpid(start(work, whole), 0)[1] != 0:
        raise SystemExit("the uninterrupted run failed")
    seconds = time.perf_counter() - started
    expected = load_file(whole / "result.safetensors")

    generator = np.random.default_rng(seed)
    told: dict[str, Any] = {"killed": 0, "finished": 0, "positions": [], "equal": []}
    while told["killed"] < kills:
        part = folder / f"part-{told['finished']}"
        part.mkdir(exist_ok=True)
        child = start(work, part)
        time.sleep(float(generator.uniform(0.02, 0.6)) * seconds)
        os.kill(child, signal.SIGKILL)
        status = os.waitpid(child, 0)[1]
        if os.WIFSIGNALED(status):
            told["killed"] += 1
            told["positions"].append(position(part))
            if told["killed"] < kills:
                continue
            status = os.waitpid(start(work, part), 0)[1]
        if status != 0:
            raise SystemExit(f"a run failed with status {status}")
        found = load_file(part / "result.safetensors")
        told["equal"].append(all(torch.equal(found[name], expected[name]) for name in expected))
        told["left"] = sorted(path.name for path in (part / "resume").iterdir() if path.name.endswith(".tmp"))
        told["positions"].append("end")
        told["finished"] += 1
    print(json.dumps(told))


if __name__ == "__main__":
    main()
