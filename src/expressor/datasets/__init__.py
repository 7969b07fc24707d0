"""Real data with their provenance, tiny examples, and simulators whose truth is known.

Everything comes as AnnData in the package's one layout (:mod:`expressor.data.keys`). The shipped sample needs no download;
larger sets are fetched once, with a checksum, into a cache folder.
"""

import importlib
from typing import Any

_NAMES = {
    "Dataset": "dataset",
    "ahba_coordinates": "brain",
    "ahba_reannotation": "brain",
    "ahba_regions": "brain",
    "ahba_samples": "brain",
    "amygdala": "singlecell",
    "baron_human": "crossspecies",
    "baron_mouse": "crossspecies",
    "breast_cohorts": "bulk",
    "dk_atlas": "brain",
    "doublets": "singlecell",
    "example": "examples",
    "fly_embryo": "brain",
    "golub": "bulk",
    "her2st": "breast",
    "human_mouse_orthologs": "crossspecies",
    "innate_lymphoid": "singlecell",
    "inr_claims": "brain",
    "inr_genes": "brain",
    "join_outcomes": "bulk",
    "kang": "singlecell",
    "mixology": "singlecell",
    "mouse_olfactory_bulb": "bulb",
    "pancreas_3tech": "singlecell",
    "pbmc3k": "singlecell",
    "pbmc68k": "singlecell",
    "pbmc_3tech": "singlecell",
    "simulate_ahba_folder": "ahba",
    "simulate_auxiliaries": "simulate",
    "simulate_bulk": "profiles",
    "simulate_brain": "places",
    "simulate_cells": "cells",
    "simulate_modules": "cells",
    "simulate_species": "species",
    "simulate_tissue": "simulate",
    "survival_cohort": "bulk",
    "tcga13": "bulk",
    "tcga_cdr": "bulk",
    "tcga_coadread": "bulk",
    "tcga_counts7": "bulk",
    "tcga_toil4": "bulk",
}
_SETS = (
    "ahba_regions", "ahba_samples", "amygdala", "baron_human", "baron_mouse", "breast_cohorts", "doublets",
    "fly_embryo", "golub", "her2st", "innate_lymphoid", "kang", "mixology", "mouse_olfactory_bulb",
    "pancreas_3tech", "pbmc3k", "pbmc68k", "pbmc_3tech", "tcga13", "tcga_coadread", "tcga_counts7",
    "tcga_toil4",
)  # fmt: skip
__all__ = sorted([*_NAMES, "names"])


def names() -> tuple[str, ...]:
    """Return the names of the real data sets; each is a function here that gives a :class:`Dataset`.

    ``survival_cohort(name)`` gives more of them.
    """
    return _SETS


def __getattr__(name: str) -> Any:
    if name not in _NAMES:
        raise AttributeError(f"module 'expressor.datasets' has no attribute {name!r}")
    return getattr(importlib.import_module(f"expressor.datasets.{_NAMES[name]}"), name)


def __dir__() -> list[str]:
    return __all__
