"""What a run looks like: figures (one function each), the single-file HTML report, methods text, model cards.

Everything here reads a run folder (see :mod:`expressor.report.run`) or plain tables; nothing is fitted or evaluated here.
"""

import importlib
from typing import Any

from expressor.core.optional import need

_NAMES = {
    "Run": "run",
    "CohortRun": "cohort",
    "read_cohort_run": "cohort",
    "read_run": "run",
    "write_cluster_report": "cluster_page",
    "write_cohort_report": "cohort_page",
    "write_cohort_run": "cohort",
    "write_map_report": "brain_page",
    "write_report": "html",
    "write_figures": "gallery",
    "write_run": "writing",
    "methods_text": "methods",
    "references": "methods",
    "model_card": "modelcard",
    "write_model_card": "modelcard",
}
_MODULES = (
    "brain_page",
    "cluster_page",
    "cohort",
    "cohort_page",
    "figures",
    "html",
    "methods",
    "modelcard",
    "run",
    "writing",
)
_DRAWING = ("brain_page", "cluster_page", "cohort_page", "figures", "gallery", "html")

__all__ = [
    "CohortRun",
    "Run",
    "methods_text",
    "model_card",
    "read_cohort_run",
    "read_run",
    "references",
    "write_cluster_report",
    "write_cohort_report",
    "write_cohort_run",
    "write_figures",
    "write_map_report",
    "write_model_card",
    "write_report",
    "write_run",
]


def __getattr__(name: str) -> Any:
    if _NAMES.get(name, name) in _DRAWING:
        for module in ("matplotlib", "jinja2"):
            need(module, extra="report", purpose="draw figures and write reports")
    if name in _NAMES:
        return getattr(importlib.import_module(f"expressor.report.{_NAMES[name]}"), name)
    if name in _MODULES:
        return importlib.import_module(f"expressor.report.{name}")
    raise AttributeError(f"module 'expressor.report' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*_NAMES, *_MODULES])
