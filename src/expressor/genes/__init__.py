"""Genes: their identifiers, ordered vocabularies, orthologs, and the scores by which a panel of genes is chosen."""

import importlib
from typing import Any

_HOMES = {
    "Alignment": "vocab",
    "Bridge": "orthologs",
    "GeneTable": "matching",
    "GeneVocab": "vocab",
    "Match": "matching",
    "Orthologs": "orthologs",
    "check_gene_names": "ids",
    "classify": "ids",
    "coexpression": "panels",
    "detect_namespace": "ids",
    "detection_rate": "panels",
    "dispersion": "panels",
    "hvg_scores": "panels",
    "guess_species": "orthologs",
    "human_genes": "matching",
    "human_mouse": "ortholog_files",
    "match_genes": "matching",
    "mean_expression": "panels",
    "moran_i": "panels",
    "mouse_genes": "ortholog_files",
    "rank_genes": "panels",
    "read_orthologs": "ortholog_files",
    "strip_version": "ids",
}

__all__ = sorted(_HOMES)


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(importlib.import_module(f"{__name__}.{_HOMES[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return list(__all__)
