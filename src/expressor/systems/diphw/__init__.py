"""Random walks on the hypergraph of cells and genes: positions, clusters, and the modules of genes behind them."""

from typing import Any


def __getattr__(name: str) -> Any:
    # Lazy, so that listing systems imports no torch.
    if name == "DIPHW":
        from expressor.systems.diphw.estimator import DIPHW

        return DIPHW
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return ["DIPHW"]
