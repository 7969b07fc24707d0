"""One process with whole batches and two with halves of them: the same loss curve, the same model, rows in their order."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

pytestmark = pytest.mark.skipif(not torch.distributed.is_available(), reason="this torch has no distributed package")


def start(folder: Path, words: list[str], batch_size: int) -> str:
    folder.mkdir()
    command = [sys.executable, *words, str(Path(__file__).with_name("stream_ranks.py")), str(folder), str(batch_size)]
    environment = os.environ | {"GLOO_SOCKET_IFNAME": "lo", "OMP_NUM_THREADS": "1"}
    return subprocess.run(command, capture_output=True, text=True, check=False, env=environment, timeout=240).stderr[
        -3000:
    ]


def test_two_processes_learn_what_one_does(tmp_path: Path) -> None:
    two = start(tmp_path / "two", ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"], 10)
    one = start(tmp_path / "one", [], 20)
    halves = [np.load(path) for path in sorted((tmp_path / "two").glob("rank-*.npz"))]
    assert len(halves) == 2, two
    assert (tmp_path / "one" / "rank-0.npz").exists(), one
    whole = np.load(tmp_path / "one" / "rank-0.npz")
    assert whole["steps"] == 35
    assert whole["curve"][-1] < 0.5 * whole["curve"][0]
    for half in halves:
        assert half["steps"] == 35
        np.testing.assert_allclose(half["curve"], whole["curve"], rtol=1e-4)
        np.testing.assert_allclose(half["weights"], whole["weights"], rtol=1e-3)
        assert half["rows"].tolist() == whole["rows"].tolist() == list(range(150))
