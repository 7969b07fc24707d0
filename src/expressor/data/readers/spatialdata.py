"""SpatialData objects and stores: a table that annotates shapes, an image, and the transformations between them."""

import os
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from anndata import AnnData

from expressor.core.errors import DataError, FormatError, nearest_names
from expressor.core.optional import need
from expressor.data import fields, files, keys
from expressor.data.readers.layout import Picture, assemble


def read_spatialdata(
    data: Any,
    *,
    table: str | None = None,
    region: str | None = None,
    image: str | None = None,
    um_per_px: float | None = None,
    coordinate_system: str = "global",
    image_path: str | os.PathLike[str] | None = None,
    section: str | None = None,
    patient: str | None = None,
) -> AnnData:
    """Read one section of a SpatialData object; needs the extra ``spatial``.

    Parameters
    ----------
    data
        A ``spatialdata.SpatialData``, or the path of its zarr store.
    table, region, image
        Names of the table with the counts, of the shapes that it annotates, and of the image; each may be left out where there is
        only one.
    um_per_px
        um per pixel of the image at full resolution. SpatialData has no units that could be relied on.
    coordinate_system
        The system in which shapes and image are aligned.
    image_path
        File of the same pixels as the image's full resolution, from which patches can be cut.
    section, patient
        Names to give; the section's defaults to the region's.

    Returns
    -------
    AnnData
        The layout of :mod:`expressor.data.keys`: centres of the shapes, moved into the image's pixels.

    Raises
    ------
    DataError
        An element is missing or ambiguous, the scale is not given, or positions lie outside the image.
    FormatError
        The store is damaged.
    MissingExtra
        spatialdata is not installed.
    """
    if isinstance(data, str | os.PathLike):
        path = files.find(data, what="SpatialData store")
        library = need("spatialdata", extra="spatial", purpose="read SpatialData stores")
        files.check_zarr(path)
        with files.reading(path, "SpatialData"):
            data = library.read_zarr(path)
    need("spatialdata", extra="spatial", purpose="read SpatialData objects")
    counts, region, instances = _annotated(data, table, region)
    where = f"region {region!r}"
    if um_per_px is None:
        raise DataError(
            f"the scale of {where} is not known", expected="um per full-resolution pixel", fix="Give um_per_px."
        )
    shapes = data.shapes[_choose(data.shapes, region, what="shapes")]
    pictures = [name for name in data.images if coordinate_system in _systems(data.images[name])]
    element = data.images[_choose(pictures, image, what=f"image in the coordinate system {coordinate_system!r}")]
    place = pd.Index(shapes.index).get_indexer(instances)
    if (place < 0).any():
        raise DataError(f"{int((place < 0).sum())} of {len(place)} rows of the table have no shape in {where}",
                        got=f"for example {instances[int(np.flatnonzero(place < 0)[0])]!r}")  # fmt: skip
    with files.reading(where, "shapes with transformations"):
        chosen = shapes.iloc[place]
        centres = np.stack([chosen.geometry.centroid.x, chosen.geometry.centroid.y], axis=1).astype(np.float64)
        to_pixels = np.linalg.inv(_matrix(element, coordinate_system)) @ _matrix(shapes, coordinate_system)
        widths = _widths(chosen)
    pixels = centres @ to_pixels[:2, :2].T + to_pixels[:2, 2]
    zoom = float(np.sqrt(abs(np.linalg.det(to_pixels[:2, :2]))))
    return assemble(
        counts.X,
        genes=list(counts.var_names),
        ids=list(counts.var[keys.GENE_IDS].astype(str)) if keys.GENE_IDS in counts.var else None,
        spots=list(counts.obs_names),
        obs={},
        pixels=pixels,
        section=section or region,
        patient=patient,
        um_per_px=float(um_per_px),
        spot_diameter_px=float(np.median(widths)) * zoom,
        pitch_um=None,
        technology="SpatialData",
        picture=_picture(element, image_path),
    )


def _choose(known: Any, wanted: str | None, *, what: str) -> str:
    names = list(known)
    if wanted is None and len(names) == 1:
        return str(names[0])
    if wanted in names:
        return str(wanted)
    raise DataError(
        f"there is no {what} {wanted!r}" if wanted is not None else f"it is not clear which {what} is meant",
        expected="one of " + ", ".join(map(repr, names[:20])) if names else None,
        got=None if names else f"no {what} at all",
        nearest=nearest_names(wanted, names) if wanted else (),
        fix="Name it." if names else None,
    )


def _annotated(data: Any, table: str | None, region: str | None) -> tuple[AnnData, str, np.ndarray]:
    """Return the table's rows that annotate the region, the region's name, and the shapes' keys."""
    counts = fields.read(data.tables[_choose(data.tables, table, what="table")])
    notes = counts.uns.get("spatialdata_attrs")
    if not isinstance(notes, dict) or not {"region", "region_key", "instance_key"} <= set(notes):
        raise DataError(
            "the table annotates no shapes", expected="uns['spatialdata_attrs'] with region, region_key, instance_key"
        )
    regions = notes["region"]
    names = [regions] if isinstance(regions, str) else [str(one) for one in regions]
    region = _choose(names, region, what="region")
    for key in (notes["region_key"], notes["instance_key"]):
        if key not in counts.obs:
            raise DataError(
                f"the table has no column {key!r}, which its notes name", nearest=nearest_names(str(key), counts.obs)
            )
    own = (counts.obs[notes["region_key"]].astype(str) == region).to_numpy()
    if not own.any():
        raise DataError(f"no row of the table belongs to region {region!r}")
    if counts.X is None:
        raise FormatError("the table holds no expression", expected="raw counts in X")
    counts = counts[own].copy()
    return counts, region, counts.obs[notes["instance_key"]].to_numpy()


def _systems(element: Any) -> dict[str, Any]:
    from spatialdata.transformations import get_transformation

    return dict(get_transformation(element, get_all=True))


def _matrix(element: Any, system: str) -> np.ndarray:
    known = _systems(element)
    if system not in known:
        raise DataError(f"an element is not in the coordinate system {system!r}", expected="one of " + ", ".join(map(repr, known)),
                        fix="Name a system that shapes and image share with coordinate_system=.")  # fmt: skip
    return np.asarray(known[system].to_affine_matrix(input_axes=("x", "y"), output_axes=("x", "y")), dtype=np.float64)


def _widths(shapes: Any) -> np.ndarray:
    """Diameters: of circles from their radius, of polygons from their area."""
    if "radius" in shapes:
        return 2.0 * shapes["radius"].to_numpy(dtype=np.float64)
    return np.sqrt(shapes.geometry.area.to_numpy(dtype=np.float64))


def _picture(element: Any, path: str | os.PathLike[str] | None) -> Picture:
    full = element["scale0"]["image"] if hasattr(element, "children") else element
    size = (int(full.sizes["x"]), int(full.sizes["y"]))
    if path is None:
        return Picture(size=size)
    from expressor.data.images import open_image

    with open_image(Path(path), um_per_px=1.0) as opened:
        if (opened.width, opened.height) != size:
            raise DataError(
                f"{os.fspath(path)} is not the full resolution of the image",
                expected=f"{size[0]} x {size[1]} px", got=f"{opened.width} x {opened.height} px",
                fix="Give the file that the image element was made from, uncropped.",
            )  # fmt: skip
    return Picture(path=path, size=size)
