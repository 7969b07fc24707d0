"""A model of one species serves another: a layer on the edges of the orthology graph is put in front of it, and learnt."""

from typing import Any


def __getattr__(name: str) -> Any:
    # Lazy, so that listing systems imports no torch.
    if name == "TRON":
        from expressor.systems.tron.estimator import TRON

        return TRON
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return ["TRON"]
