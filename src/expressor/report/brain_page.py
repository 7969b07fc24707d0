"""The report of a map of the brain: one HTML file without scripts, its figures inside and as files beside it."""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from anndata import AnnData

from expressor.core.errors import DataError, GeneError, check_range, nearest_names
from expressor.data import keys
from expressor.data.brainspace import SPACE, Grid, brain_grid, check_places
from expressor.data.fields import fingerprint, read
from expressor.data.parcels import Parcellation
from expressor.data.regions import to_parcels
from expressor.estimator.roles import Maps
from expressor.report import colours, figures, summary
from expressor.report.drawn_page import Drawing, inline, write_drawings, write_page
from expressor.report.tables import metric_rows

GENES = 4
"""Genes that are drawn when none are named."""


def write_map_report(
    model: Any,
    data: Any,
    out: str | Path,
    *,
    genes: Sequence[str] | None = None,
    atlas: Parcellation | None = None,
    resolution: int = 3,
    files: bool = True,
) -> Path:
    """Draw a fitted map of the brain beside samples, judge it on them, and write it all as one HTML file.

    Parameters
    ----------
    model
        A fitted system that maps (``Maps``), of samples in MNI152.
    data
        Samples to show and to judge by: AnnData with ``obsm["mni"]``, or the path of an h5ad. On the samples of the fit the numbers
        flatter, and the page says so.
    out
        The HTML file.
    genes
        Genes to draw; the first four of the model by default.
    atlas
        A parcellation: the map is shown beside its means per parcel and those of the samples.
    resolution
        Side of a voxel of the pictures in mm, 1 to 10.
    files
        Write PNG and SVG figures into the folder ``figures`` beside the HTML file, too.

    Returns
    -------
    Path of the HTML file.

    Raises
    ------
    DataError
        The model does not map, or not a brain in MNI152; samples have no places; the file cannot be written.
    GeneError
        A gene is not in the model.
    """
    if not isinstance(model, Maps):
        raise DataError(f"{type(model).__name__} makes no maps", expected="a model that does, such as BrainINR")
    space = getattr(model, "space_", SPACE)
    if space != SPACE:
        raise DataError("pictures are of a brain in MNI152", got=repr(space))
    check_range(resolution, name="resolution", low=1, high=10, integer=True)
    adata = read(data)
    if keys.MNI not in adata.obsm:
        raise DataError(f"obsm has no {keys.MNI!r}", fix="Put x, y, z of each sample there, in mm of MNI152.")
    check_places(adata.obsm[keys.MNI], where=f"rows of obsm[{keys.MNI!r}]")
    chosen = _genes(model, genes)
    path = Path(out)
    grid = brain_grid(resolution=resolution)
    drawn = {gene: _drawings(model, adata, gene, i, grid, atlas) for i, gene in enumerate(chosen)}
    everywhere = [_distance_drawing(model, grid)] if hasattr(model, "distance") else []
    _write(path, model, adata, drawn, everywhere)
    if files:
        write_drawings([*(one for each in drawn.values() for one in each), *everywhere], path.parent / "figures")
    return path


def _genes(model: Any, genes: Sequence[str] | None) -> list[str]:
    known = list(model.genes_in_)
    for one in genes or ():
        if one not in known:
            raise GeneError(f"gene {one!r} is not in the model", nearest=nearest_names(one, known))
    return list(genes) if genes else known[:GENES]


def _drawings(model: Any, adata: AnnData, gene: str, nth: int, grid: Grid, atlas: Parcellation | None) -> list[Drawing]:
    points = grid.points()
    values = np.asarray(model.at(points, [gene]), dtype=float)[:, 0]
    unit = str(getattr(model, "unit_", ""))
    limits = colours.value_range(values)
    made: list[Drawing] = [
        (f"slices_{nth}", f"{gene}: the map. White lines are the border of white matter.",
         figures.brain_slices(values, grid, unit=unit, limits=limits)),
        (f"glass_{nth}", f"{gene}, seen through the brain: on each line of sight the value furthest from the median.",
         figures.glass_brain(values, grid, unit=unit, limits=limits)),
    ]  # fmt: skip
    if gene in adata.var_names:
        column: Any = adata[:, gene].X
        measured = np.asarray(column.toarray() if hasattr(column, "toarray") else column, dtype=float).ravel()
        made.append((f"samples_{nth}", f"{gene} as measured, on the map's scale: {summary.count(len(measured), 'sample')}.",
                     figures.sample_markers(adata.obsm[keys.MNI], measured, unit=unit, limits=limits)))  # fmt: skip
    spread = _uncertainty(model, points, gene)
    if spread is not None:
        made.append((f"uncertainty_{nth}", f"{gene}: half the width of the interval that holds 68 % of new measurements.",
                     figures.brain_slices(spread, grid, unit=unit, kind="uncertainty")))  # fmt: skip
    if atlas is not None:
        maps = {"map": values, **_per_parcel(values, adata, gene, points, atlas)}
        words = "the map, its means per parcel" + (", and means of the samples" if len(maps) > 2 else "")
        drawing = figures.brain_triple(maps, grid, unit=unit, limits=limits)
        made.append((f"parcels_{nth}", f"{gene}: {words}.", drawing))
    return made


def _uncertainty(model: Any, points: np.ndarray, gene: str) -> np.ndarray | None:
    """Return how uncertain a map is, (point,); None where the model does not know."""
    if not hasattr(model, "uncertainty"):
        return None
    try:
        return np.asarray(model.uncertainty(points, [gene]), dtype=float)[:, 0]
    except DataError:  # nothing was held out of the fit
        return None


def _per_parcel(
    values: np.ndarray, adata: AnnData, gene: str, points: np.ndarray, atlas: Parcellation
) -> dict[str, np.ndarray]:
    parcel = atlas.at(points)
    row = np.searchsorted(np.sort(atlas.table.index), parcel)
    count = np.bincount(row[parcel > 0], minlength=len(atlas.table))
    total = np.bincount(row[parcel > 0], weights=values[parcel > 0], minlength=len(atlas.table))
    mean = np.divide(total, count, out=np.full(len(count), np.nan), where=count > 0)
    found = {"map per parcel": np.where(parcel > 0, mean[np.minimum(row, len(mean) - 1)], np.nan)}
    if gene in adata.var_names and keys.DONOR in adata.obs:
        known = keys.HEMISPHERE in adata.obs and keys.PART in adata.obs
        regions = to_parcels(adata[:, [gene]].copy(), atlas, constrain=known)
        order = np.argsort(atlas.table.index.to_numpy())
        measured = np.asarray(regions.X, dtype=float)[order, 0]
        found["samples per parcel"] = np.where(parcel > 0, measured[np.minimum(row, len(mean) - 1)], np.nan)
    return found


def _distance_drawing(model: Any, grid: Grid) -> Drawing:
    away = np.asarray(model.distance(grid.points()), dtype=float)
    middle, far = np.percentile(away, [50, 95])
    return (
        "distance",
        f"Distance to the nearest sample of the fit: half of the brain is within {middle:.0f} mm of one, 5 % is more than "
        f"{far:.0f} mm away.",
        figures.brain_slices(away, grid, unit="mm", kind="distance"),
    )


def _write(path: Path, model: Any, adata: AnnData, drawn: dict[str, list[Drawing]], everywhere: list[Drawing]) -> None:
    in_sample = fingerprint(adata) == model.data_fingerprint_
    known = sorted(set(map(str, adata.var_names)) & set(model.genes_in_))
    evaluation = metric_rows(model.evaluate(adata)) if len(known) == len(model.genes_in_) else []
    title = f"{len(model.genes_in_):,} genes over the brain, {type(model).__name__}"
    write_page(
        path, "brain.html.j2", title=title, heading=title,
        opening=_opening(model, evaluation, in_sample),
        facts=[
            ("Model", f"{type(model).__name__}: {model.card().title}"), ("Genes", f"{len(model.genes_in_):,}"),
            ("Donors of the fit", ", ".join(getattr(model, "donors_", ())) or "not stated"),
            ("Samples shown", f"{adata.n_obs:,}"), ("Same samples as the fit", "yes" if in_sample else "no"),
            ("Unit", str(getattr(model, "unit_", "not stated"))),
        ],
        genes=[(gene, inline(one)) for gene, one in drawn.items()], everywhere=inline(everywhere),
        evaluation=evaluation, resampled="blocks of space",
        methods=model.describe(), environment=model.environment_, parameters=model._parameters(),
    )  # fmt: skip


def _opening(model: Any, evaluation: list[dict[str, Any]], in_sample: bool) -> list[str]:
    said = []
    if in_sample:
        said.append("The map was fitted on these very samples. Every number below flatters it: judge it on others.")
    values = {one["title"]: one["value"] for one in evaluation}
    if math.isfinite(values.get("R2", math.nan)):
        said.append(
            f"The map explains {100 * values['R2']:.0f} % of the variance of a gene over {'these' if in_sample else 'new'} "
            "samples, as a mean over genes."
        )
    said.append(
        f"Expression of {summary.count(len(model.genes_in_), 'gene')} at every place of the brain, interpolated from samples. "
        "Between samples it is an estimate: see how far the next one is, and how wide the intervals are, before a value is used."
    )
    return said
