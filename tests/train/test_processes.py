"""Two processes train one model: as one process with batches of twice the size, equal on both, resumable to the bit."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import nn

from expressor.train import TrainPlan

from .toy import train, weights

pytestmark = pytest.mark.skipif(not torch.distributed.is_available(), reason="this torch has no distributed package")


@pytest.fixture(scope="module")
def ranks(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, torch.Tensor]]:
    folder = tmp_path_factory.mktemp("ranks")
    program = Path(__file__).with_name("ranks.py")
    words = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", str(program), str(folder)]
    environment = os.environ | {"GLOO_SOCKET_IFNAME": "lo", "OMP_NUM_THREADS": "1"}
    done = subprocess.run([sys.executable, *words], capture_output=True, text=True, check=False, env=environment,
                          timeout=240)  # fmt: skip
    results = sorted(folder.glob("rank-*.safetensors"))
    assert len(results) == 2, done.stderr[-3000:]
    return [load_file(path) for path in results]


def part(found: dict[str, torch.Tensor], name: str) -> dict[str, torch.Tensor]:
    return {key.partition("/")[2]: value for key, value in found.items() if key.startswith(name)}


def test_both_processes_end_with_the_same_weights(ranks: list[dict[str, torch.Tensor]]) -> None:
    for name in ranks[0]:
        # Each process keeps the batch statistics of what it saw, and drops other units.
        if "running" not in name and not name.startswith("drawn"):
            assert torch.equal(ranks[0][name], ranks[1][name]), name


def test_both_processes_stop_when_the_first_says_so(ranks: list[dict[str, torch.Tensor]]) -> None:
    assert [int(one["stopped/epochs"]) for one in ranks] == [2, 2]


def test_processes_draw_differently_in_a_step(ranks: list[dict[str, torch.Tensor]]) -> None:
    assert not torch.equal(ranks[0]["drawn/step"], ranks[1]["drawn/step"])


def test_two_processes_do_what_one_does_with_twice_the_batch(ranks: list[dict[str, torch.Tensor]]) -> None:
    torch.manual_seed(0)
    training, outcome = train(
        TrainPlan(epochs=4, patience=None, device="cpu", lr=0.01), module=nn.Linear(5, 1), batch_size=20
    )
    found = part(ranks[0], "line")
    assert int(found.pop("steps")) == outcome.steps == 12
    for name, value in weights(training).items():
        torch.testing.assert_close(found[name], value, rtol=1e-5, atol=1e-6)


def test_a_resumed_run_of_two_processes_has_the_bits_of_an_uninterrupted_one(
    ranks: list[dict[str, torch.Tensor]],
) -> None:
    for rank in ranks:
        whole, resumed = part(rank, "whole"), part(rank, "resumed")
        assert whole.keys() == resumed.keys()
        for name in whole:
            assert torch.equal(whole[name], resumed[name]), name
