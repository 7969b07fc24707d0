"""Figures: one function each, on given axes or on new ones, each returning what it drew on. No global state is touched.

>>> from expressor.report import figures
>>> ax = figures.gene_map(run, "FABP7", "C3", kind="predicted")
>>> figures.write(ax, "fabp7.svg")
"""

import importlib
from typing import Any

from expressor.core.optional import need

_NAMES = {
    "brain_slices": "brain",
    "brain_triple": "brain",
    "cell_map": "clusters",
    "cluster_agreement": "clusters",
    "cluster_counts": "clusters",
    "gene_map": "tissue",
    "glass_brain": "brain",
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
    "gene_correlations": "restoration",
    "gene_families": "families",
    "kaplan_meier_by_risk": "survival",
    "panel_size_curve": "restoration",
    "restored_against_measured": "restoration",
    "sample_markers": "brain",
    "survival_calibration": "survival",
}

__all__ = [
    "brain_slices",
    "brain_triple",
    "calibration",
    "cell_map",
    "cluster_agreement",
    "cluster_counts",
    "coverage",
    "gene_bars",
    "gene_correlations",
    "gene_families",
    "gene_map",
    "glass_brain",
    "k_path",
    "kaplan_meier_by_risk",
    "learning",
    "method_comparison",
    "overview",
    "paired_differences",
    "panel_size_curve",
    "predicted_against_measured",
    "restored_against_measured",
    "sample_markers",
    "survival_calibration",
    "write",
]


def __getattr__(name: str) -> Any:
    if name in _NAMES:
        need("matplotlib", extra="report", purpose="draw figures")
        return getattr(importlib.import_module(f"expressor.report.figures.{_NAMES[name]}"), name)
    raise AttributeError(f"module 'expressor.report.figures' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(_NAMES)
