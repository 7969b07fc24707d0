"""The one training loop: plan, objectives, checkpoints, and the bi-level step. Lightning Fabric lives here alone."""

import importlib
from typing import Any

_NAMES = {
    "Outcome": "loop",
    "TrainPlan": "plan",
    "Training": "loop",
    "run": "loop",
}


def __getattr__(name: str) -> Any:
    if name in _NAMES:
        return getattr(importlib.import_module(f"expressor.train.{_NAMES[name]}"), name)
    raise AttributeError(f"module 'expressor.train' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(_NAMES)
