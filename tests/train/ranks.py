"""What each of several processes runs: ``torchrun --nproc-per-node 2 ranks.py FOLDER``; results are written by rank.

torch's CPU build may abort in the interpreter's shutdown after the work is done, so a worker ends with ``os._exit``; a failure
of the work itself still shows, because then the results are missing.
"""

import os
import sys
from pathlib import Path
from typing import Any

import torch
import torch.distributed
from safetensors.torch import save_file
from torch import nn

sys.path.insert(0, str(Path(__file__).parent))

from toy import train, weights

from expressor.train import Outcome, Training, TrainPlan


def state(name: str, training: Training, outcome: Outcome) -> dict[str, torch.Tensor]:
    scores = torch.tensor([one["score"] for one in outcome.records], dtype=torch.float64)
    found = weights(training) | {"outer": training.extra["outer"].state_dict()["value"], "scores": scores}
    return {f"{name}/{key}": value for key, value in found.items()}


def main() -> None:
    folder, rank = Path(sys.argv[1]), os.environ["RANK"]
    torch.set_num_threads(1)
    plan = TrainPlan(epochs=4, patience=None, device="cpu", lr=0.01)
    found = {}

    def line() -> nn.Module:
        torch.manual_seed(0)
        return nn.Linear(5, 1)

    training, outcome = train(plan, module=line(), batch_size=10)
    found |= {f"line/{name}": one for name, one in weights(training).items()}
    found["line/steps"] = torch.tensor(outcome.steps)

    # Processes that see different scores must agree on when to stop, or they wait for each other for ever.
    scores = iter([3.0, 2.0, 1.0, 0.0] if rank == "0" else [0.0, 1.0, 2.0, 3.0])
    _, outcome = train(plan.set_params(patience=1), validate=lambda _: {"score": next(scores)})
    found["stopped/epochs"] = torch.tensor(outcome.epochs)
    plan.set_params(patience=None)

    drawn: list[torch.Tensor] = []

    def draw(module: nn.Module, batch: Any) -> dict[str, torch.Tensor]:
        drawn.append(torch.rand(3))
        return {"loss": module(batch["x"]).mean()}

    train(plan.set_params(max_steps=1), loss=draw)
    found["drawn/step"] = drawn[0]
    plan.set_params(max_steps=None)

    training, outcome = train(plan)
    found |= state("whole", training, outcome)
    train(plan.set_params(max_steps=5), resume=folder / "resume")
    training, outcome = train(plan.set_params(max_steps=None), resume=folder / "resume")
    found |= state("resumed", training, outcome)
    save_file(found, folder / f"rank-{rank}.safetensors")
    torch.distributed.barrier()
    torch.distributed.destroy_process_group()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(0)


if __name__ == "__main__":
    main()
