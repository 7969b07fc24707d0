"""Figures: one function each, on given axes or on new ones, each returning what it drew on. No global state is touched.

>>> from expressor.report import figures
>>> ax = figures.gene_map(run, "FABP7", "C3", kind="predicted")
>>> figures.write(ax, "fabp7.svg")
"""

import importlib
from typing import Any

from expressor.core.optional import need

_NAMES = {
    "gene_map": "tissue",
    "overview": "tissue",
    "gene_bars": "genes",
    "k_path": "training",
    "learning": "training",
    "calibration": "reliability",
    "coverage": "reliability",
    "predicted_against_measured": "scatter",
    "method_comparison": "comparison",
    "paired_differences": "comparison",
    "write": "sheet",
}

__all__ = [
    "calibration",
    "coverage",
    "gene_bars",
    "gene_map",
    "k_path",
    "learning",
    "method_comparison",
    "overview",
    "paired_differences",
    "predicted_against_measured",
    "write",
]


def __getattr__(name: str) -> Any:
    if name in _NAMES:
        need("matplotlib", extra="report", purpose="draw figures")
        return getattr(importlib.import_module(f"expressor.report.figures.{_NAMES[name]}"), name)
    raise AttributeError(f"module 'expressor.report.figures' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(_NAMES)
