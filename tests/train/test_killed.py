"""Training that is killed with SIGKILL at random moments and started again ends with the bits of an uninterrupted run."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="killing children takes a POSIX system")


def run_and_kill(folder: Path, kills: int, seed: int) -> None:
    program = Path(__file__).with_name("killing.py")
    done = subprocess.run(
        [sys.executable, str(program), str(folder), str(kills), str(seed)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)
    assert told["killed"] == kills
    assert told["equal"]
    assert all(told["equal"]), told
    assert told["left"] == ["result.safetensors", "train.safetensors"], "nothing of the killed writers is left"
    runs = " ".join(map(str, told["positions"])).split("end")
    for one in runs:
        positions = [int(word) for word in one.split()]
        assert positions == sorted(positions), "what was once saved is not lost"


def test_a_few_kills(tmp_path: Path) -> None:
    run_and_kill(tmp_path, kills=4, seed=0)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(1, 5))
def test_many_kills(tmp_path: Path, seed: int) -> None:
    run_and_kill(tmp_path, kills=150, seed=seed)
