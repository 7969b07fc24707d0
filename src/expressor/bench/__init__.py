"""The benchmark: tasks with named, hashed protocols; controls; a runner that resumes; tables with intervals.

A task asks for a role, never for a class: every system whose card plays the role on the task's kind of input takes part.
"""

import importlib
from typing import Any

_HOMES = {
    "Claim": "claims",
    "Method": "task",
    "Protocol": "task",
    "Task": "task",
    "find_task": "task",
    "run": "runner",
    "table": "tables",
    "task_names": "task",
}
__all__ = list(_HOMES)


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'expressor.bench' has no attribute {name!r}")
    return getattr(importlib.import_module(f"expressor.bench.{_HOMES[name]}"), name)


def __dir__() -> list[str]:
    return sorted(_HOMES)
