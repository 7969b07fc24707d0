"""GexBERT: a bulk profile restored from part of it; cancer type and survival from few genes."""

from typing import Any


def __getattr__(name: str) -> Any:
    # Lazy, so that listing systems imports no torch.
    if name == "GexBERT":
        from expressor.systems.gexbert.estimator import GexBERT

        return GexBERT
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return ["GexBERT"]
