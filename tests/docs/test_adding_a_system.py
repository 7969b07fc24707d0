"""The system of the guide is a real one: registered from outside, it keeps every promise."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
EXAMPLE = ROOT / "docs" / "examples" / "ridge_probe"


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Return an environment in which the example's package is installed, entry point and all."""
    folder = tmp_path_factory.mktemp("site")
    shutil.copytree(EXAMPLE, folder / "ridge_probe", ignore=shutil.ignore_patterns("__pycache__"))
    record = folder / "ridge_probe-0.1.dist-info"
    record.mkdir()
    (record / "METADATA").write_text("Metadata-Version: 2.1\nName: ridge-probe\nVersion: 0.1\n")
    (record / "entry_points.txt").write_text("[expressor.systems]\nridge_probe = ridge_probe\n")
    return os.environ | {"PYTHONPATH": str(folder), "COLUMNS": "200"}


def run(words: list[str], environment: dict[str, str]) -> str:
    done = subprocess.run([sys.executable, *words], capture_output=True, text=True, check=False, env=environment)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-4000:]
    return done.stdout


def test_it_is_listed(installed: dict[str, str]) -> None:
    assert "ridge_probe" in run(["-m", "expressor", "systems"], installed)
    printed = run(["-m", "expressor", "equations", "ridge_probe"], installed)
    assert "test_ridge_is_the_minimum" in printed
    assert "inferred" in printed


def test_it_keeps_every_promise(installed: dict[str, str]) -> None:
    code = "from expressor.estimator import check_system; check_system('ridge_probe')"
    run(["-c", code], installed)


def test_its_own_tests_pass(installed: dict[str, str]) -> None:
    folder = Path(installed["PYTHONPATH"]) / "ridge_probe" / "tests"
    run(["-m", "pytest", "-q", "-p", "no:randomly", "-c", str(ROOT / "pyproject.toml"), "--rootdir", str(folder), str(folder)],
        installed)  # fmt: skip
