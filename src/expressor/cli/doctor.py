"""``expressor doctor``."""

import importlib.util
import os
from collections.abc import Sequence

from expressor.cli.terminal import console, parse, show_table
from expressor.core.optional import EXTRAS


def doctor() -> None:
    """Tell versions, the machine, which extras are installed, and where data and caches are looked for."""
    import torch  # noqa: F401  (so that the environment tells threads and accelerator)

    from expressor.datasets.fetch import cache_folder
    from expressor.estimator.provenance import environment

    found = environment()
    versions = found.pop("versions")
    show_table("versions", ["package", "version"], list(versions.items()))
    show_table("\nmachine", ["what", "value"], list(found.items()))
    rows = []
    for extra, modules in EXTRAS.items():
        missing = [module for module in modules if importlib.util.find_spec(module) is None]
        remedy = f'pip install "expressor[{extra}]"' if missing else ""
        rows.append((extra, "missing " + ", ".join(missing) if missing else "installed", remedy))
    show_table("\nextras", ["extra", "state", "to install"], rows)
    data = os.environ.get("EXPRESSOR_DATA")
    show_table("\nfolders", ["what", "where"], [("cache", cache_folder()), ("EXPRESSOR_DATA", data or "not set")])
    console.print("")


def main(words: Sequence[str]) -> None:
    """Run the verb."""
    parse(doctor, words, prog="expressor doctor")
