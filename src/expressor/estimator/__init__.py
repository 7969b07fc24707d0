"""What every system is: the estimator protocol, its roles, saving and loading, provenance, and the public conformance suite."""

import importlib
from typing import Any

_NAMES = {
    "Clusters": "roles",
    "Encodes": "roles",
    "Estimator": "base",
    "Imputes": "roles",
    "Infers": "roles",
    "Maps": "roles",
    "NotFittedError": "errors",
    "Predicts": "roles",
    "State": "base",
    "Survives": "roles",
    "check_system": "conformance",
    "image_features": "images",
    "load": "base",
}


def __getattr__(name: str) -> Any:
    if name in _NAMES:
        return getattr(importlib.import_module(f"expressor.estimator.{_NAMES[name]}"), name)
    raise AttributeError(f"module 'expressor.estimator' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(_NAMES)
