"""Auxiliary gene learning: target genes predicted from tissue images, with the help of the genes that are not asked for."""

from typing import Any


def __getattr__(name: str) -> Any:
    # Lazy, so that listing systems imports no torch.
    if name == "AGL":
        from expressor.systems.agl.estimator import AGL

        return AGL
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return ["AGL"]
