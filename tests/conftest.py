"""A system of an outside package, installed for the tests that want it and taken away again."""

import os
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from expressor.core import registry

OUTSIDE = Path(__file__).parent / "conformance" / "outside" / "gene_ridge"


@pytest.fixture(scope="module")
def outside(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Install the package ``gene_ridge`` as pip would: its files, and metadata with an entry point."""
    folder = tmp_path_factory.mktemp("site")
    shutil.copytree(OUTSIDE, folder / "gene_ridge", ignore=shutil.ignore_patterns("__pycache__"))
    metadata = folder / "gene_ridge-1.0.dist-info"
    metadata.mkdir()
    (metadata / "METADATA").write_text("Metadata-Version: 2.1\nName: gene-ridge\nVersion: 1.0\n")
    (metadata / "entry_points.txt").write_text("[expressor.systems]\ngene_ridge = gene_ridge\n")
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(folder)
        # The command line is tried in a process of its own.
        patch.setenv("PYTHONPATH", os.pathsep.join([str(folder), *filter(None, [os.environ.get("PYTHONPATH")])]))
        registry.systems.cache_clear()
        yield folder
    registry.systems.cache_clear()
    for module in [one for one in sys.modules if one.split(".")[0] == "gene_ridge"]:
        del sys.modules[module]


@pytest.fixture
def ridge(outside: Path) -> Any:
    """Return the estimator class of the outside system."""
    return registry.load("gene_ridge")
