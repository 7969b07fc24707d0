"""BMFM-RNA: single cells as sets of genes and values; vectors of cells, their types, and expression that was not measured."""

from typing import Any


def __getattr__(name: str) -> Any:
    # Lazy, so that listing systems imports no torch.
    if name == "BMFM":
        from expressor.systems.bmfm.estimator import BMFM

        return BMFM
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return ["BMFM"]
