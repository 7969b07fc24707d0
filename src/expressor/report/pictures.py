"""The tissue picture of a section: cropped to where spots are, and as a JPEG that fits into a page."""

import base64
import io
from dataclasses import dataclass

import anndata
import numpy as np
from PIL import Image

from expressor.core.errors import DataError
from expressor.data import keys
from expressor.report.run import section_names

Box = tuple[float, float, float, float]
MARGIN = 0.06


@dataclass(frozen=True)
class Picture:
    """A section's geometry and, where there is one, its tissue picture.

    Attributes
    ----------
    box
        What the picture shows: left, top, right, bottom, in full-resolution pixels.
    pixels
        uint8 (row, column, 3), or None where the run carries no picture.
    spot_diameter
        In full-resolution pixels.
    um_per_px
        Microns per full-resolution pixel, or None where not stated.
    """

    box: Box
    pixels: np.ndarray | None
    spot_diameter: float
    um_per_px: float | None


def picture(tissue: anndata.AnnData, section: str) -> Picture:
    """Crop the section's ``hires`` image to its spots plus a margin.

    Parameters
    ----------
    tissue
        AnnData with ``obsm["spatial"]`` and, where known, ``uns["spatial"][section]``.
    section
        The section's name.
    """
    mine = section_names(tissue) == section
    if not mine.any():
        raise DataError(f"no spot belongs to section {section!r}")
    places = np.asarray(tissue.obsm[keys.SPATIAL], dtype=float)[mine, :2]
    known = _entry(tissue, section)
    factors = known.get(keys.SCALEFACTORS, {})
    diameter = _positive(factors.get(keys.SPOT_DIAMETER)) or 0.7 * spot_pitch(places)
    um_per_px = _positive(factors.get(keys.UM_PER_PX))
    low, high = places.min(axis=0), places.max(axis=0)
    pad = diameter + MARGIN * float((high - low).max())
    box = (float(low[0] - pad), float(low[1] - pad), float(high[0] + pad), float(high[1] + pad))
    scale = _positive(factors.get(keys.HIRES_SCALE))
    image = known.get(keys.IMAGES, {}).get(keys.HIRES)
    if image is None or scale is None:
        return Picture(box, None, diameter, um_per_px)
    return _crop(_to_uint8(np.asarray(image)), box, scale, diameter, um_per_px)


def _crop(image: np.ndarray, box: Box, scale: float, diameter: float, um_per_px: float | None) -> Picture:
    height, width = image.shape[:2]
    left, top = max(0, int(np.floor(box[0] * scale))), max(0, int(np.floor(box[1] * scale)))
    right, bottom = min(width, int(np.ceil(box[2] * scale))), min(height, int(np.ceil(box[3] * scale)))
    if right - left < 2 or bottom - top < 2:  # the spots lie off the picture: show them without it
        return Picture(box, None, diameter, um_per_px)
    shown = (left / scale, top / scale, right / scale, bottom / scale)
    return Picture(shown, image[top:bottom, left:right], diameter, um_per_px)


def as_jpeg_uri(pixels: np.ndarray, *, longest: int = 1600, budget: int | None = None) -> str:
    """Return the picture as a JPEG data URI.

    Parameters
    ----------
    pixels
        uint8 (row, column, 3).
    longest
        Of its longer side, px; larger pictures are shrunk.
    budget
        Characters that it may take; it is shrunk further, down to 240 px, until it fits.
    """
    while True:
        image = Image.fromarray(pixels)
        image.thumbnail((longest, longest), Image.Resampling.LANCZOS)
        held = io.BytesIO()
        image.save(held, format="JPEG", quality=82, optimize=True)
        uri = "data:image/jpeg;base64," + base64.b64encode(held.getvalue()).decode("ascii")
        if budget is None or len(uri) <= budget or longest <= 240:
            return uri
        longest = max(240, int(0.8 * min(longest, max(image.size))))


def drawn_diameter(diameter: float, places: np.ndarray) -> float:
    """Return the diameter at which spots are drawn: up to 1.7 times the true one, as far as neighbours do not touch.

    Spots of some assays cover little of the tissue; at their true size a map of them hardly shows its colours.
    """
    return max(diameter, min(1.7 * diameter, 0.88 * spot_pitch(places)))


def spot_pitch(places: np.ndarray) -> float:
    """Return the median distance from a spot to its nearest neighbour, in the unit of ``places`` (spot, 2)."""
    from scipy.spatial import cKDTree

    if len(places) < 2:
        return 1.0
    distance = cKDTree(places).query(places, k=2)[0][:, 1]
    return float(np.median(distance)) or 1.0


def _entry(tissue: anndata.AnnData, section: str) -> dict:
    entries = tissue.uns.get(keys.SPATIAL, {})
    return entries.get(section, {}) if hasattr(entries, "get") else {}


def _positive(value: object) -> float | None:
    try:
        number = float(value)  # type: ignore[arg-type]
    except (TypeError, ValueError):
        return None
    return number if np.isfinite(number) and number > 0 else None


def _to_uint8(image: np.ndarray) -> np.ndarray:
    if image.ndim == 2:
        image = np.repeat(image[:, :, None], 3, axis=2)
    image = image[:, :, :3]
    if image.dtype != np.uint8:
        top = 1.0 if float(np.nanmax(image, initial=0.0)) <= 1.0 else 255.0
        image = np.clip(np.nan_to_num(image) / top * 255.0, 0, 255).astype(np.uint8)
    return np.ascontiguousarray(image)
