"""AGL trained by two processes: no gradient is waited for in vain, and both end with the same model."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

pytestmark = pytest.mark.skipif(not torch.distributed.is_available(), reason="this torch has no distributed package")


def test_two_processes_end_with_the_same_model(tmp_path: Path) -> None:
    words = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2",
             str(Path(__file__).with_name("ranks.py")), str(tmp_path)]  # fmt: skip
    environment = os.environ | {"GLOO_SOCKET_IFNAME": "lo", "OMP_NUM_THREADS": "1"}
    done = subprocess.run([sys.executable, *words], capture_output=True, text=True, check=False, env=environment,
                          timeout=240)  # fmt: skip
    results = sorted(tmp_path.glob("rank-*.npz"))
    assert len(results) == 2, done.stderr[-3000:]
    first, second = (np.load(path) for path in results)
    for name in ("dkgsb", "uncertainty"):
        assert np.ptp(first[name], axis=0).min() > 0
        np.testing.assert_array_equal(first[name], second[name])
