"""Data: what comes in, checked and in one layout; splits and what is fitted on them; readers of the field's formats; images."""

import importlib
from typing import Any

_HOMES = {
    "SCALES": "fields",
    "expression": "fields",
    "expression_sparse": "fields",
    "fingerprint": "fields",
    "library_size": "fields",
    "read": "fields",
}

__all__ = sorted(_HOMES)


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(importlib.import_module(f"{__name__}.{_HOMES[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return list(__all__)
