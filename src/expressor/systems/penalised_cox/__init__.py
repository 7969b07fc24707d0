"""Cox regression with a ridge penalty on principal components, or an elastic net on genes."""

from typing import Any


def __getattr__(name: str) -> Any:
    # Lazy, so that listing systems imports no torch.
    if name == "PenalisedCox":
        from expressor.systems.penalised_cox.estimator import PenalisedCox

        return PenalisedCox
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return ["PenalisedCox"]
