"""A small histology task on simulated tissue, whose features are precomputed."""

from dataclasses import replace

import pytest

from expressor.bench.task import Method
from expressor.bench.tasks.histology import TASK, Histology


class SmallHistology(Histology):
    """The task with few controls, to be quick; nothing else is changed."""

    protocols = {
        name: replace(TASK.protocols["simulated"], name=name, split=split, judging={"permutations": 49, "draws": 60})
        for name, split in (
            ("sections", {"kind": "leave-one-out", "key": "section", "apart": ("section", "obs_names")}),
            ("patients", {"kind": "hold-out", "key": "patient", "values": ["P1"], "apart": ("patient", "obs_names")}),
            ("spots", {"kind": "random-spots", "folds": 3, "seed": 0, "apart": ("obs_names",)}),
        )
    }

    def controls(self, protocol):
        return tuple(one for one in super().controls(protocol) if one.name in ("mean", "library", "ridge"))

    def systems(self, protocol) -> tuple[Method, ...]:
        return ()


@pytest.fixture(scope="session")
def small():
    return SmallHistology()


@pytest.fixture(scope="session")
def protocol(small):
    return small.protocol("sections")


@pytest.fixture(scope="session")
def data(small, protocol):
    return small.load(protocol)


@pytest.fixture(scope="session")
def folds(small, protocol, data):
    return small.folds(protocol, data)
