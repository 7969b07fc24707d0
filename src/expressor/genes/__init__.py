"""Genes: their identifiers, ordered vocabularies, and the scores by which a panel of genes is chosen."""

import importlib
from typing import Any

_HOMES = {
    "Alignment": "vocab",
    "GeneTable": "matching",
    "GeneVocab": "vocab",
    "Match": "matching",
    "check_gene_names": "ids",
    "classify": "ids",
    "coexpression": "panels",
    "detect_namespace": "ids",
    "detection_rate": "panels",
    "dispersion": "panels",
    "hvg_scores": "panels",
    "human_genes": "matching",
    "match_genes": "matching",
    "mean_expression": "panels",
    "moran_i": "panels",
    "rank_genes": "panels",
    "strip_version": "ids",
}

__all__ = sorted(_HOMES)


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(importlib.import_module(f"{__name__}.{_HOMES[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return list(__all__)
