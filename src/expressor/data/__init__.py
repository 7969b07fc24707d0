"""Data: what comes in, checked and in one layout; splits and what is fitted on them; readers of the field's formats; images."""

import importlib
from typing import Any

_HOMES = {
    "BULK_SCALES": "units",
    "Blocks": "blocks",
    "CellBatch": "stream",
    "FittedRecipe": "recipes",
    "Grid": "brainspace",
    "HestPatches": "patches",
    "Outcomes": "outcomes",
    "Parcellation": "parcels",
    "PatchSpec": "patches",
    "Patches": "patches",
    "PatientFolds": "cohorts",
    "Recipe": "recipes",
    "SCALES": "fields",
    "Scale": "units",
    "Split": "splits",
    "Stream": "stream",
    "TissueImage": "images",
    "Tokeniser": "tokens",
    "Tokens": "tokens",
    "assign_parcels": "regions",
    "brain_grid": "brainspace",
    "check_apart": "cohorts",
    "check_brain": "brainspace",
    "check_leak": "splits",
    "check_places": "brainspace",
    "check_same_unit": "units",
    "check_spatial": "spatial",
    "check_unit": "units",
    "detect_scale": "units",
    "distance_to_brain": "brainspace",
    "draw_folds": "cohorts",
    "expression": "fields",
    "expression_sparse": "fields",
    "fingerprint": "fields",
    "gene_medians": "medians",
    "fsaverage": "surfaces",
    "grid": "spatial",
    "grid_of": "brainspace",
    "has_outcome": "outcomes",
    "hold_out": "splits",
    "image_path": "spatial",
    "in_order": "stream",
    "leave_one_group_out": "splits",
    "library_size": "fields",
    "match_to": "cohorts",
    "microns_per_pixel": "spatial",
    "open_blocks": "blocks",
    "open_image": "images",
    "random_spots": "splits",
    "read": "fields",
    "read_ahba": "ahba",
    "read_hest": "readers",
    "read_labels": "outcomes",
    "read_legacy_st": "readers",
    "read_outcomes": "outcomes",
    "read_parcellation": "parcels",
    "read_spatialdata": "readers",
    "read_table": "tabular",
    "read_visium": "readers",
    "read_visium_hd": "readers",
    "sections": "spatial",
    "spatial_blocks": "splits",
    "split_from_labels": "splits",
    "spot_diameter_um": "spatial",
    "template": "brainspace",
    "tissue_at": "brainspace",
    "to_log2": "units",
    "to_parcels": "regions",
    "unit_of": "units",
    "volume_at": "volumes",
    "volume_per_parcel": "volumes",
    "whole_cell": "tokens",
    "write_h5ad": "writing",
    "write_maps": "brainspace",
}

__all__ = sorted(_HOMES)


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(importlib.import_module(f"{__name__}.{_HOMES[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return list(__all__)
