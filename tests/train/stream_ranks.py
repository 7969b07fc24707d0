"""What one or two processes run: ``python stream_ranks.py FOLDER BATCH_SIZE``; the loss curve and gathered rows are written.

torch's CPU build may abort in the interpreter's shutdown after the work is done, so a worker ends with ``os._exit``; a failure
of the work itself still shows, because then the results are missing.
"""

import os
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
import torch.distributed
from anndata import AnnData
from scipy import sparse

from expressor.data import Blocks, Stream, Tokeniser, in_order, open_blocks
from expressor.train import Training, TrainPlan, run
from expressor.train.gather import gather_rows
from expressor.train.loop import make_fabric
from expressor.train.means import mean_where


def make_cells() -> AnnData:
    rng = np.random.default_rng(0)
    counts = rng.poisson(rng.gamma(0.5, 2.0, (150, 30)))
    return AnnData(sparse.csr_matrix(counts.astype(np.float32)), obs=pd.DataFrame(index=[f"c{i}" for i in range(150)]),
                   var=pd.DataFrame(index=[f"GENE{i}" for i in range(30)]))  # fmt: skip


class Network(torch.nn.Module):
    """The mean of gene vectors times values, read out by a linear layer."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.genes, self.head = torch.nn.Embedding(31, 8), torch.nn.Linear(8, 1)
        self.idle = torch.nn.Parameter(torch.zeros(3))  # no loss reaches it, as with a head of another objective

    def forward(self, genes: torch.Tensor, values: torch.Tensor) -> torch.Tensor:
        return self.head((self.genes(genes + 1) * values[..., None]).mean(dim=1))[:, 0]


def describe(blocks: Blocks, batch_size: int) -> Training:
    """Return a training on streamed cells that are thinned and shuffled."""
    tokeniser = Tokeniser(max_length=12, dropout=0.2, read_depth="rda", threshold=0)
    stream = Stream(blocks, batch_size=batch_size, seed=5, chunk=8, buffer=6)

    class Epoch:
        def __init__(self, epoch: int, rank: int, world: int) -> None:
            self.cells = stream.batches(epoch, rank, world)

        def __len__(self) -> int:
            return len(self.cells)

        def __getitem__(self, step: int) -> dict[str, torch.Tensor]:
            cells = self.cells[step]
            tokens = tokeniser(cells.matrix, cells.library_size, rng=cells.seeds)
            # Padded alike whatever the share, so that a mean over places is the same.
            genes, values = np.full((len(cells), 12), -1), np.zeros((len(cells), 12), dtype=np.float32)
            genes[:, : tokens.genes.shape[1]], values[:, : tokens.genes.shape[1]] = tokens.genes, tokens.values
            wanted = torch.from_numpy(np.log(cells.library_size))
            return {"genes": torch.from_numpy(genes), "values": torch.from_numpy(values), "wanted": wanted}

    def loss(module: torch.nn.Module, batch: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        squares = (module(batch["genes"], batch["values"]) - batch["wanted"]) ** 2
        # Of more or fewer cells of each share, so that a share's own mean would not do.
        return {"loss": mean_where(squares, batch["wanted"] > 3.4)}

    return Training(module=Network(), batches=Epoch, loss=loss, leaves_parts_out=True)  # type: ignore[arg-type]


def main() -> None:
    torch.set_num_threads(1)
    blocks = open_blocks(make_cells())
    training = describe(blocks, int(sys.argv[2]))
    plan = TrainPlan(lr=0.05, epochs=5, patience=None, device="cpu")
    outcome = run(training, plan, seed=1)
    network: Any = training.module
    fabric = make_fabric(plan)
    parts = in_order(blocks, batch_size=7, rank=fabric.global_rank, world=fabric.world_size)
    rows = gather_rows(fabric, torch.from_numpy(np.concatenate([one.rows for one in parts])))
    np.savez(Path(sys.argv[1]) / f"rank-{fabric.global_rank}.npz", rows=rows.numpy(), steps=outcome.steps,
             curve=[one["loss"] for one in outcome.records], weights=network.head.weight.detach().numpy())  # fmt: skip
    if fabric.world_size > 1:
        torch.distributed.barrier()
        torch.distributed.destroy_process_group()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(0)


if __name__ == "__main__":
    main()
