"""Where a result came from: versions, machine, parameters, data."""

import os
import platform
import sys
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import expressor
from expressor.core.card import Card

_PACKAGES = ("anndata", "numpy", "pandas", "scikit-learn", "scipy", "torch", "lightning-fabric")


@cache
def _versions() -> dict[str, str]:
    found = {"expressor": expressor.__version__, "python": platform.python_version()}
    for name in _PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = "not installed"
    return found


def environment() -> dict[str, Any]:
    """Return versions of what computes, the kind of machine, its cores, threads and accelerator, as plain values."""
    found: dict[str, Any] = {
        "versions": _versions(),
        "platform": platform.platform(terse=True),
        "machine": platform.machine(),
        "cores": os.cpu_count() or 1,
    }
    torch = sys.modules.get("torch")
    if torch is not None:
        found["threads"] = torch.get_num_threads()
        found["accelerator"] = torch.cuda.get_device_name(0) if torch.cuda.is_available() else "none"
    return found


def provenance(card: Card, parameters: dict[str, Any], fitted: dict[str, Any]) -> dict[str, Any]:
    """Return the record that ``annotate`` writes into ``uns``; nested dictionaries of strings and numbers only.

    Parameters
    ----------
    card
        The system's card.
    parameters
        The estimator's parameters as JSON-ready values.
    fitted
        What identifies the fit: data fingerprint, gene vocabulary hash, numbers of genes.
    """
    import json

    return {
        "system": card.name,
        "paper": f"arXiv:{card.arxiv}" if card.arxiv else card.doi,
        "version": expressor.__version__,
        "parameters": json.dumps(parameters, sort_keys=True),
        **fitted,
    }
