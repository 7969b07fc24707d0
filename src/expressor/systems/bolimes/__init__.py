"""Labels from few genes: Boruta keeps what beats its own shadow, LIME ranks it, accuracy decides how many stay."""

from typing import Any


def __getattr__(name: str) -> Any:
    # Lazy, so that listing systems imports no scikit-learn.
    if name == "BOLIMES":
        from expressor.systems.bolimes.estimator import BOLIMES

        return BOLIMES
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return ["BOLIMES"]
