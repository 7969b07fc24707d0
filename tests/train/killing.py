"""A program that trains in child processes, kills them at random moments, and lets the last one end.

``python killing.py FOLDER KILLS SEED`` prints what happened as JSON. Children are forked, so that imports are paid once.
"""

import json
import os
import signal
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from lightning_fabric import Fabric  # noqa: F401  (imported before forking)
from safetensors.torch import load_file, save_file

sys.path.insert(0, str(Path(__file__).parent))

from toy import train, weights

from expressor.train import TrainPlan
from expressor.train.checkpoint import read_checkpoint


def work(folder: Path) -> None:
    plan = TrainPlan(epochs=6, patience=None, checkpoint_steps=1, device="cpu", lr=0.01)
    training, outcome = train(plan, resume=folder)
    found = weights(training) | {"outer": training.extra["outer"].state_dict()["value"]}
    found["losses"] = torch.tensor([one["loss"] for one in outcome.records], dtype=torch.float64)
    save_file(found, folder / "result.safetensors")


def start(folder: Path) -> int:
    child = os.fork()
    if child == 0:
        code = 1
        try:
            work(folder)
            code = 0
        finally:
            sys.stderr.flush()
            os._exit(code)
    return child


def main() -> None:
    folder, kills, seed = Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])
    torch.set_num_threads(1)
    whole = folder / "whole"
    whole.mkdir()
    started = time.perf_counter()
    if os.waitpid(start(whole), 0)[1] != 0:
        raise SystemExit("the uninterrupted run failed")
    seconds = time.perf_counter() - started
    expected = load_file(whole / "result.safetensors")

    generator = np.random.default_rng(seed)
    told: dict[str, Any] = {"killed": 0, "finished": 0, "positions": [], "equal": []}
    while told["killed"] < kills:
        part = folder / f"part-{told['finished']}"
        part.mkdir(exist_ok=True)
        child = start(part)
        time.sleep(float(generator.uniform(0.02, 0.6)) * seconds)
        os.kill(child, signal.SIGKILL)
        status = os.waitpid(child, 0)[1]
        if os.WIFSIGNALED(status):
            told["killed"] += 1
            checkpoint = part / "train.safetensors"
            told["positions"].append(read_checkpoint(checkpoint)["steps"] if checkpoint.exists() else 0)
            if told["killed"] < kills:
                continue
            status = os.waitpid(start(part), 0)[1]
        if status != 0:
            raise SystemExit(f"a run failed with status {status}")
        found = load_file(part / "result.safetensors")
        told["equal"].append(all(torch.equal(found[name], expected[name]) for name in expected))
        told["left"] = sorted(path.name for path in part.iterdir())
        told["positions"].append("end")
        told["finished"] += 1
    print(json.dumps(told))


if __name__ == "__main__":
    main()
