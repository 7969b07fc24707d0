"""A shrinkage Gaussian over genes: restores any genes from any others in closed form."""

from typing import Any


def __getattr__(name: str) -> Any:
    # Lazy, so that listing systems imports no torch.
    if name == "ConditionalGaussian":
        from expressor.systems.conditional_gaussian.estimator import ConditionalGaussian

        return ConditionalGaussian
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return ["ConditionalGaussian"]
