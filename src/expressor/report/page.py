"""What the page's script reads: sections with their pictures, genes with their packed values, colours."""

import math
from typing import Any

import anndata
import numpy as np

from expressor.data import keys
from expressor.report import colours, payload
from expressor.report.pictures import as_jpeg_uri, drawn_diameter, picture, spot_pitch
from expressor.report.run import Run, layer_values, section_names

VALUE_BUDGET = 4_500_000
GRID_BUDGET = 1_500_000
PICTURE_BUDGET = 2_400_000


def page_data(run: Run) -> dict[str, Any]:
    """Return everything that the page's script reads."""
    order = run.gene_table.index.tolist()
    predicted, measured = run.predicted(genes=order), run.values("measured", genes=order)
    layers = {"predicted": predicted} | ({} if measured is None else {"measured": measured})
    bounds = payload.intervals(predicted, run.values("lower", genes=order), run.values("upper", genes=order))
    rows = np.concatenate([run.spots_of(section) for section in run.sections])
    packed = payload.pack({name: one[rows] for name, one in (layers | bounds).items()}, order, budget=VALUE_BUDGET)
    here = run.correlation_here
    kinds = [*(["measured"] if measured is not None else ["tissue"]), "predicted", *(["width"] if bounds else [])]
    data: dict[str, Any] = {
        "unit": run.unit,
        "kinds": [*kinds, *(["error"] if measured is not None else [])],
        "stops": {
            "measured": colours.stops(colours.VALUE_MAP),
            "predicted": colours.stops(colours.VALUE_MAP),
            "width": colours.stops(colours.WIDTH_MAP),
            "error": colours.stops(colours.ERROR_MAP),
        },
        "packing": {"bits": packed.bits, "layers": packed.layers},
        "spots": len(rows),
        "sections": _sections(run),
        "genes": [
            {"name": gene, "index": position, "here": _plain(here[gene]),
             **{name: _plain(row[name]) for name in run.gene_table.columns},
             "packed": packed.genes.get(gene), "dense": None}
            for position, (gene, row) in enumerate(zip(order, run.gene_table.to_dict("records")))
        ],
    }  # fmt: skip
    if run.grid is not None:
        _add_grid(run.grid, data, [gene for gene in order if gene in packed.genes])
    return data


def _sections(run: Run) -> list[dict[str, Any]]:
    shown = {section: picture(run.predictions, section) for section in run.sections}
    pictured = sum(one.pixels is not None for one in shown.values())
    places = np.asarray(run.predictions.obsm[keys.SPATIAL], dtype=float)
    sections, first = [], 0
    for section, one in shown.items():
        rows = run.spots_of(section)
        mine = places[rows, :2]
        sections.append(
            {
                "name": section, "first": first, "box": one.box, "umPerPx": one.um_per_px, "diameter": one.spot_diameter,
                "drawn": drawn_diameter(one.spot_diameter, mine), "pitch": max(spot_pitch(mine), one.spot_diameter),
                "image": None if one.pixels is None else as_jpeg_uri(one.pixels, budget=PICTURE_BUDGET // pictured),
                "x": payload.pack_floats(mine[:, 0]), "y": payload.pack_floats(mine[:, 1]), "grid": None,
                "ids": [str(name) for name in run.predictions.obs_names[rows]],
            }
        )  # fmt: skip
        first += len(rows)
    return sections


def _add_grid(grid: anndata.AnnData, data: dict[str, Any], genes: list[str]) -> None:
    """Add the dense map to ``data``, in the order of the page's sections."""
    names = section_names(grid)
    places = np.asarray(grid.obsm[keys.SPATIAL], dtype=float)
    rows_of = [np.flatnonzero(names == section["name"]) for section in data["sections"]]
    rows = np.concatenate(rows_of)
    if rows.size == 0:
        return
    predicted = layer_values(grid, "predicted", genes=genes)
    if predicted is None:
        return
    bounds = payload.intervals(
        predicted, layer_values(grid, "lower", genes=genes), layer_values(grid, "upper", genes=genes)
    )
    layers = {name: one[rows] for name, one in ({"predicted": predicted} | bounds).items()}
    packed = payload.pack(layers, genes, budget=GRID_BUDGET)
    data["densePacking"] = {"bits": packed.bits, "layers": packed.layers}
    data["points"] = len(rows)
    first = 0
    for section, mine in zip(data["sections"], rows_of):
        if len(mine):
            x, y = places[mine, 0], places[mine, 1]
            section["grid"] = {
                "x": payload.pack_floats(x), "y": payload.pack_floats(y), "first": first, "spacing": spot_pitch(places[mine, :2]),
            }  # fmt: skip
        first += len(mine)
    for gene in data["genes"]:
        gene["dense"] = packed.genes.get(gene["name"])


def _plain(value: object) -> object:
    """Return a number or verdict as JSON can hold it, numbers to six significant digits."""
    if value is None or isinstance(value, bool):
        return value
    number = float(value)  # type: ignore[arg-type]
    return float(f"{number:.6g}") if math.isfinite(number) else None
