"""Non-negative matrix factorisation of expression under a Cox model of its patient factors."""

from typing import Any


def __getattr__(name: str) -> Any:
    # Lazy, so that listing systems imports no torch.
    if name == "CoxNMF":
        from expressor.systems.coxnmf.estimator import CoxNMF

        return CoxNMF
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return ["CoxNMF"]
