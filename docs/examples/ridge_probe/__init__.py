"""Ridge regression from image features to expression: the example of the guide "Adding a system"."""

from typing import Any


def __getattr__(name: str) -> Any:
    # Lazy, so that listing systems imports none of them.
    if name == "RidgeProbe":
        from ridge_probe.estimator import RidgeProbe

        return RidgeProbe
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
