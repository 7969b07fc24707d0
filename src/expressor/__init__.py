"""Gene expression that was not, or could not be, measured: one API over published systems, judged honestly.

Importing the package is cheap: rooms, systems and datasets are loaded when they are first used.
"""

import importlib
from typing import Any

__version__ = "0.1.0.dev0"

_ROOMS = (
    "bench",
    "core",
    "data",
    "datasets",
    "encoders",
    "estimator",
    "genes",
    "metrics",
    "nn",
    "report",
    "systems",
    "train",
)
_NAMES = {
    "DataError": "core.errors",
    "ExpressorError": "core.errors",
    "FormatError": "core.errors",
    "GeneError": "core.errors",
    "MissingExtra": "core.errors",
    "NotFittedError": "estimator",
    "TrainPlan": "train",
    "load": "estimator",
}


def __getattr__(name: str) -> Any:
    if name in _ROOMS:
        return importlib.import_module(f"expressor.{name}")
    if name in _NAMES:
        return getattr(importlib.import_module(f"expressor.{_NAMES[name]}"), name)
    if not name.startswith("_"):
        from expressor.core import registry

        for card in registry.systems().values():
            if card.estimator == name:
                return registry.load(card.name)
    raise AttributeError(f"module 'expressor' has no attribute {name!r}")


def __dir__() -> list[str]:
    from expressor.core import registry

    return sorted([*_ROOMS, *_NAMES, *(card.estimator for card in registry.systems().values()), "__version__"])
