"""Training that is killed with SIGKILL at random moments and started again ends with the bits of an uninterrupted run."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from expressor.core import registry

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="killing children takes a POSIX system")


def run_and_kill(folder: Path, *words: object) -> None:
    program = Path(__file__).with_name("killing.py")
    done = subprocess.run(
        [sys.executable, str(program), str(folder), *map(str, words)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)
    assert told["killed"] == words[0]
    assert told["equal"]
    assert all(told["equal"]), told
    assert told["left"] == [], "nothing of the killed writers is left"
    for one in " ".join(map(str, told["positions"])).split("end"):
        positions = [int(word) for word in one.split()]
        assert positions == sorted(positions), "what was once saved is not lost"


def test_a_few_kills(tmp_path: Path) -> None:
    run_and_kill(tmp_path, 4, 0)


def test_a_few_kills_while_cells_are_streamed(tmp_path: Path) -> None:
    run_and_kill(tmp_path, 4, 0, "stream")


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(1, 5))
def test_many_kills(tmp_path: Path, seed: int) -> None:
    run_and_kill(tmp_path, 150, seed)


@pytest.mark.parametrize("system", list(registry.systems()))
def test_a_few_kills_of_a_system(tmp_path: Path, system: str) -> None:
    if not hasattr(registry.load(system)(), "plan"):
        pytest.skip("has no training to be killed")
    run_and_kill(tmp_path, 3, 0, system)


@pytest.mark.slow
@pytest.mark.parametrize("system", list(registry.systems()))
def test_many_kills_of_a_system(tmp_path: Path, system: str) -> None:
    if not hasattr(registry.load(system)(), "plan"):
        pytest.skip("has no training to be killed")
    run_and_kill(tmp_path, 60, 1, system)
