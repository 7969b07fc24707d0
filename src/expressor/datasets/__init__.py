"""Real data with their provenance, tiny examples, and simulators whose truth is known.

Everything comes as AnnData in the package's one layout (:mod:`expressor.data.keys`). The shipped sample needs no download;
larger sets are fetched once, with a checksum, into a cache folder.
"""

import importlib
from typing import Any

_NAMES = {
    "Dataset": "dataset",
    "example": "examples",
    "her2st": "breast",
    "mouse_olfactory_bulb": "bulb",
    "simulate_auxiliaries": "simulate",
    "simulate_tissue": "simulate",
}
__all__ = sorted(_NAMES)


def __getattr__(name: str) -> Any:
    if name not in _NAMES:
        raise AttributeError(f"module 'expressor.datasets' has no attribute {name!r}")
    return getattr(importlib.import_module(f"expressor.datasets.{_NAMES[name]}"), name)


def __dir__() -> list[str]:
    return __all__
