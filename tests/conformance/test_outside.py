"""A system of another package keeps every promise, with nothing edited in this one: the suite and the registry are enough."""

import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import expressor as ex
from expressor.core import registry
from expressor.estimator.conformance import CHECKS, check_system

OUTSIDE = Path(__file__).parent / "outside" / "gene_ridge"


@pytest.mark.parametrize("check", CHECKS)
def test_the_outside_system_keeps_every_promise(ridge: Any, check: str) -> None:
    CHECKS[check](ridge)


def test_one_call_runs_every_check(ridge: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[tuple[str, Any]] = []
    for name in CHECKS:
        monkeypatch.setitem(CHECKS, name, lambda kind, name=name: seen.append((name, kind)))
    check_system("gene_ridge")
    assert seen == [(name, ridge) for name in CHECKS]


def test_it_is_used_like_the_package_s_own(ridge: Any) -> None:
    assert ex.GeneRidge is ridge
    assert registry.systems()["gene_ridge"].package == "gene_ridge"


def test_a_folder_in_the_package_is_all_that_a_new_system_takes(tmp_path: Path) -> None:
    """In a copy of the package with one more folder, the registry, the command line and the top level know the system."""
    package = Path(ex.__file__).parent
    shutil.copytree(package, tmp_path / "expressor", ignore=shutil.ignore_patterns("__pycache__", "sample"))
    shutil.copytree(OUTSIDE, tmp_path / "expressor/systems/gene_ridge", ignore=shutil.ignore_patterns("__pycache__"))
    environment = os.environ | {"PYTHONPATH": str(tmp_path)}

    def run(*words: str) -> str:
        done = subprocess.run(
            [sys.executable, *words], capture_output=True, text=True, check=False, env=environment, cwd=tmp_path
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    code = "import expressor as ex; print(ex.__file__, ex.GeneRidge.__module__, 'GeneRidge' in dir(ex))"
    assert run("-c", code).split() == [
        str(tmp_path / "expressor/__init__.py"), "expressor.systems.gene_ridge.estimator", "True",
    ]  # fmt: skip
    assert "gene_ridge" in run("-m", "expressor", "systems")
    assert "penalised_squares" in run("-m", "expressor", "equations", "gene_ridge")
