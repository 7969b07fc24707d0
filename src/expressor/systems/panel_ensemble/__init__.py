"""Cancer types from 500 chosen genes by the three best of several classifiers, and the genes that speak for each type."""

from typing import Any


def __getattr__(name: str) -> Any:
    # Lazy, so that listing systems imports no scikit-learn.
    if name == "PanelEnsemble":
        from expressor.systems.panel_ensemble.estimator import PanelEnsemble

        return PanelEnsemble
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return ["PanelEnsemble"]
