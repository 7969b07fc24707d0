"""What each of two processes runs: ``torchrun --nproc-per-node 2 ranks.py FOLDER``; predictions are written by rank.

torch's CPU build may abort in the interpreter's shutdown after the work is done, so a worker ends with ``os._exit``; a failure
of the work itself still shows, because then the predictions are missing.
"""

import os
import sys
from pathlib import Path

import numpy as np
import torch
import torch.distributed

import expressor as ex


def main() -> None:
    torch.set_num_threads(1)
    data = ex.datasets.example("histology")
    found = {}
    for name in ("dkgsb", "uncertainty"):
        model = ex.AGL.preset("tiny").set_params(auxiliaries=name, plan__device="cpu").fit(data)
        found[name] = model.predict(data).to_numpy()
    np.savez(Path(sys.argv[1]) / f"rank-{os.environ['RANK']}.npz", **found)
    torch.distributed.barrier()
    torch.distributed.destroy_process_group()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(0)


if __name__ == "__main__":
    main()
