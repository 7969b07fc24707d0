"""Expression anywhere in the brain from sparse samples: implicit neural representations and their rivals."""

from typing import Any


def __getattr__(name: str) -> Any:
    # Lazy, so that listing systems imports no torch.
    if name == "BrainINR":
        from expressor.systems.brain_inr.estimator import BrainINR

        return BrainINR
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return ["BrainINR"]
