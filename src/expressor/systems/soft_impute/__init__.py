"""Matrix completion with a nuclear-norm penalty, which also restores samples that it was not fitted on."""

from typing import Any


def __getattr__(name: str) -> Any:
    # Lazy, so that listing systems imports no torch.
    if name == "SoftImpute":
        from expressor.systems.soft_impute.estimator import SoftImpute

        return SoftImpute
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return ["SoftImpute"]
