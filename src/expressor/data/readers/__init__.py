"""Readers of the field's formats, each into the one layout of :mod:`expressor.data.keys`."""

import importlib
from typing import Any

_HOMES = {
    "read_hest": "hest",
    "read_legacy_st": "legacy_st",
    "read_spatialdata": "spatialdata",
    "read_visium": "visium",
    "read_visium_hd": "visium_hd",
}

__all__ = sorted(_HOMES)


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(importlib.import_module(f"{__name__}.{_HOMES[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return list(__all__)
