"""Where spots are: sections, scale, image, and the checks that catch what is most often mixed up; regular grids over tissue."""

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from anndata import AnnData
from scipy.spatial import cKDTree

from expressor.core.errors import DataError, check_range, nearest_names
from expressor.data import keys

PLAUSIBLE_UM_PER_PX = (0.05, 50.0)
"""From an oil-immersion scan to a low-resolution overview."""
PITCH_TOLERANCE = (0.35, 0.2)
"""How much narrower and wider than stated the measured pitch may be, relative to it: jitter pulls nearest neighbours together."""
MAX_GRID_POINTS = 5_000_000


def sections(adata: AnnData) -> list[str]:
    """Return the names of the sections that the observations are from, sorted.

    Raises
    ------
    DataError
        Neither ``obs["section"]`` nor a single entry of ``uns["spatial"]`` names them, or an observation has no section.
    """
    return sorted(section_of(adata).unique())


def section_of(adata: AnnData) -> pd.Series:
    """Return the section of each observation, as text; see :func:`sections`."""
    if keys.SECTION in adata.obs:
        column = adata.obs[keys.SECTION]
        if column.isna().any():
            raise DataError(
                f"{int(column.isna().sum())} observations have no section", fix=f"Fill obs[{keys.SECTION!r}]."
            )
        return column.astype(str)
    libraries = list(_libraries(adata))
    if len(libraries) == 1:
        return pd.Series(libraries[0], index=adata.obs_names)
    raise DataError(
        f"obs has no column {keys.SECTION!r}",
        got=f"{len(libraries)} entries in uns['spatial']",
        fix=f"Name the section of each observation in obs[{keys.SECTION!r}].",
    )


def coordinates(adata: AnnData) -> np.ndarray:
    """Return float64 (spot, 2), x and y in full-resolution pixels.

    Raises
    ------
    DataError
        They are absent, of another shape, or not finite.
    """
    if keys.SPATIAL not in adata.obsm:
        raise DataError(
            f"obsm has no {keys.SPATIAL!r}",
            nearest=nearest_names(keys.SPATIAL, adata.obsm),
            fix="Put x (column) and y (row) of each spot there, in pixels of the full-resolution image.",
        )
    raw = np.asarray(adata.obsm[keys.SPATIAL])
    if raw.ndim != 2 or raw.shape[1] != 2 or raw.dtype.kind not in "iuf":
        raise DataError(f"obsm[{keys.SPATIAL!r}] holds no positions", expected=f"numbers ({adata.n_obs}, 2)",
                        got=f"{raw.dtype} {raw.shape}")  # fmt: skip
    bad = ~np.isfinite(raw).all(axis=1)
    if bad.any():
        raise DataError(f"{int(bad.sum())} spots have no position", got=f"NaN or infinity at {adata.obs_names[bad][0]!r}",
                        fix="Drop these spots.")  # fmt: skip
    return raw.astype(np.float64)


def microns_per_pixel(adata: AnnData, section: str) -> float:
    """Return the um per full-resolution pixel of a section.

    Raises
    ------
    DataError
        It is not stated, or no plausible number.
    """
    factors = _part(adata, section, keys.SCALEFACTORS)
    if keys.UM_PER_PX not in factors:
        raise DataError(
            f"the scale of section {section!r} is not known",
            expected=f"uns['spatial'][{section!r}]['scalefactors'][{keys.UM_PER_PX!r}]",
            fix="State the um per pixel of the full-resolution image; it is never guessed. The scanner's metadata have it, "
            "and spots of a known pitch give it.",
        )
    value = _number(factors[keys.UM_PER_PX])
    low, high = PLAUSIBLE_UM_PER_PX
    if not low <= value <= high:
        raise DataError(
            f"the scale of section {section!r} is not plausible",
            expected=f"um per full-resolution pixel in [{low}, {high}]",
            got=repr(factors[keys.UM_PER_PX])[:40],
            fix="Give um per pixel, neither pixels per um nor metres.",
        )
    return value


def image_path(adata: AnnData, section: str) -> Path:
    """Return the path of a section's full-resolution image.

    Raises
    ------
    DataError
        None is named, or the file is not there.
    """
    named = str(_part(adata, section, keys.METADATA).get(keys.IMAGE, ""))
    where = f"uns['spatial'][{section!r}]['metadata'][{keys.IMAGE!r}]"
    if not named:
        raise DataError(f"section {section!r} names no full-resolution image", fix=f"Put its path into {where}.")
    if not Path(named).is_file():
        raise DataError(
            f"the image of section {section!r} is not there", got=named, fix=f"Correct the path in {where}."
        )
    return Path(named)


def image_size(adata: AnnData, section: str) -> tuple[int, int] | None:
    """Return (width, height) of the full-resolution image in pixels, or None where they are not stated."""
    metadata = _part(adata, section, keys.METADATA, need=False)
    width, height = (_number(metadata.get(key, 0)) for key in (keys.IMAGE_WIDTH, keys.IMAGE_HEIGHT))
    return (int(width), int(height)) if width > 0 and height > 0 else None


def spot_diameter_um(adata: AnnData, section: str) -> float:
    """Return the diameter of a section's spots in um.

    Raises
    ------
    DataError
        The diameter or the scale is not stated.
    """
    factors = _part(adata, section, keys.SCALEFACTORS)
    diameter = _number(factors.get(keys.SPOT_DIAMETER, math.nan))
    if not diameter > 0:
        raise DataError(
            f"the spot diameter of section {section!r} is not known",
            expected=f"pixels, above 0, in uns['spatial'][{section!r}]['scalefactors'][{keys.SPOT_DIAMETER!r}]",
            got=repr(factors.get(keys.SPOT_DIAMETER)),
        )
    return diameter * microns_per_pixel(adata, section)


def pitch_px(coords: np.ndarray) -> float:
    """Return the distance between neighbouring spots in pixels, NaN for fewer than two.

    It is the lower decile of nearest-neighbour distances, which holds its value when only a part of the spots is there.
    """
    if len(coords) < 2:
        return math.nan
    nearest = cKDTree(coords).query(coords, k=2)[0][:, 1]
    return float(np.quantile(nearest, 0.1))


def check_spatial(adata: AnnData) -> None:
    """Refuse positions that do not fit their image or their scale.

    Checked in each section: positions are there and finite; the um per pixel are stated and plausible; no spot lies outside the
    image, nor do their distances betray positions in a smaller one; the pitch agrees with ``metadata["pitch_um"]``, where stated.

    Raises
    ------
    DataError
        The message names the section and says what was most likely mixed up: x and y, the factor between the full-resolution
        and the hires or lowres image, or the um per pixel.
    """
    coords, section = coordinates(adata), section_of(adata).to_numpy()
    for one in sections(adata):
        at = coords[section == one]
        microns_per_pixel(adata, one)
        size = image_size(adata, one)
        if size is not None:
            _check_inside(adata, one, at, size)
        _check_pitch(adata, one, at)


def _inside(coords: np.ndarray, size: tuple[float, float]) -> np.ndarray:
    return np.all((coords >= 0) & (coords <= np.asarray(size)), axis=1)


def _check_inside(adata: AnnData, section: str, coords: np.ndarray, size: tuple[int, int]) -> None:
    outside = ~_inside(coords, size)
    if not outside.any():
        return
    if _inside(coords[:, ::-1], size).all():
        fix = "x and y are swapped: obsm['spatial'] is (column, row); reverse its columns."
    else:
        fix = "Give the image that the positions were measured on, or transform the positions."
        for name, factor in _image_factors(adata, section):
            if outside.mean() > 0.5 and _inside(coords * factor, size).all():
                fix = (
                    f"Times {name} ({factor:g}) they fit: the image is the downscaled one. Give the full-resolution image, or "
                    f"multiply positions and spot diameter by {factor:g} and divide the um per pixel by it."
                )
                break
    first = coords[outside][0]
    raise DataError(
        f"{int(outside.sum())} of {len(coords)} spots of section {section!r} lie outside the image",
        expected=f"x in [0, {size[0]}] and y in [0, {size[1]}]", got=f"for example ({first[0]:.0f}, {first[1]:.0f})", fix=fix,
    )  # fmt: skip


def _image_factors(adata: AnnData, section: str) -> list[tuple[str, float]]:
    """Known factors from full-resolution to smaller images, the largest first."""
    factors = _part(adata, section, keys.SCALEFACTORS)
    known = [(name, _number(factors.get(name, math.nan))) for name in (keys.HIRES_SCALE, keys.LOWRES_SCALE)]
    return [(name, value) for name, value in known if 0 < value < 1]


def _check_pitch(adata: AnnData, section: str, coords: np.ndarray) -> None:
    pitch = pitch_px(coords)
    if math.isnan(pitch):
        return
    stated = _number(_part(adata, section, keys.METADATA, need=False).get(keys.PITCH_UM, math.nan))
    if stated > 0:
        _check_stated_pitch(adata, section, pitch, stated, n_spots=len(coords))
        return
    # Cells and other shapes may overlap, so close spots alone prove nothing. Spots of an array are one to two diameters apart, and
    # a pitch that is this times a known factor betrays positions in a smaller image.
    diameter = _number(_part(adata, section, keys.SCALEFACTORS).get(keys.SPOT_DIAMETER, math.nan))
    for name, factor in _image_factors(adata, section):
        if pitch < 0.7 * diameter and 0.9 * factor <= pitch / diameter <= 2.2 * factor:
            raise DataError(
                f"the spots of section {section!r} are too close for the stated scale",
                expected=f"at least the spot diameter of {diameter:.1f} px", got=f"{pitch:.1f} px between neighbours",
                fix=_DIVIDE.format(name=name, factor=factor),
            )  # fmt: skip


_DIVIDE = "The positions look multiplied by {name} ({factor:g}); divide them by it to get full-resolution pixels."


def _check_stated_pitch(adata: AnnData, section: str, pitch: float, stated_um: float, *, n_spots: int) -> None:
    um_per_px = microns_per_pixel(adata, section)
    ratio = pitch * um_per_px / stated_um
    # Too wide a pitch is no proof on a handful of spots, which need not be neighbours.
    if ratio >= 1 - PITCH_TOLERANCE[0] and (ratio <= 1 + PITCH_TOLERANCE[1] or n_spots < 30):
        return
    fix = "Several spots have one position; correct them."
    if ratio > 0:
        fix = f"State the right um per pixel; {um_per_px / ratio:.4g} would agree with the pitch."
        for name, factor in _image_factors(adata, section):
            if abs(math.log(ratio / factor)) < 0.15:
                fix = _DIVIDE.format(name=name, factor=factor)
                break
    raise DataError(
        f"the spots of section {section!r} are too {'close' if ratio < 1 else 'far apart'} for the stated scale",
        expected=f"{stated_um:g} um, which is {stated_um / um_per_px:.1f} px at {um_per_px:.4g} um per pixel",
        got=f"{pitch:.1f} px between neighbours",
        fix=fix,
    )


def grid(
    adata: AnnData,
    section: str,
    spacing_um: float,
    *,
    reach_um: float | None = None,
    mask: np.ndarray | None = None,
) -> AnnData:
    """Lay a regular grid of points over the tissue of a section, for predictions denser than the assay.

    Parameters
    ----------
    adata
        Holds the section's spots, scale and image size.
    section
        Name of the section.
    spacing_um
        Distance between points in um, above 0.
    reach_um
        Points at most this far from a spot count as tissue; three quarters of the spots' pitch when not given, which joins
        neighbouring spots and leaves holes of the tissue open.
    mask
        bool (h, w), True for tissue, over the whole image at any size; points off it are dropped too.

    Returns
    -------
    AnnData
        No genes. ``obs["section"]`` (and the patient, where known), ``obsm["spatial"]`` in full-resolution pixels, and the
        section's ``uns["spatial"]`` with the spacing as spot diameter and pitch. Rows run by y, then x.

    Raises
    ------
    DataError
        Unknown section, a spacing that gives no or more than 5 million points, a mask without an image size.
    """
    check_range(spacing_um, name="spacing_um", low=0, open_low=True)
    check_section(adata, section)
    spots = np.flatnonzero(section_of(adata).to_numpy() == section)
    coords, um_per_px = coordinates(adata)[spots], microns_per_pixel(adata, section)
    reach = reach_um / um_per_px if reach_um is not None else 0.75 * pitch_px(coords)
    if not reach > 0:
        raise DataError(f"the reach of the spots of section {section!r} is not known", expected="reach_um above 0",
                        got=reach_um if reach_um is not None else f"{len(coords)} spots to measure a pitch on")  # fmt: skip
    step = spacing_um / um_per_px
    size = image_size(adata, section)
    points, cells = _tissue_points(coords, step, reach, size)
    if mask is not None:
        on = _on_mask(points, mask, size, section)
        points, cells = points[on], cells[on]
    if not len(points):
        raise DataError(f"no point of the grid falls on the tissue of section {section!r}", got=f"a spacing of {spacing_um:g} um",
                        fix="Use a smaller spacing_um or a larger reach_um.")  # fmt: skip
    names = [f"{section}_{row}x{column}" for column, row in cells]
    obs = pd.DataFrame({keys.SECTION: pd.Categorical([section] * len(points))}, index=names)
    if keys.PATIENT in adata.obs and adata.obs[keys.PATIENT].iloc[spots].nunique() == 1:
        obs[keys.PATIENT] = pd.Categorical([adata.obs[keys.PATIENT].iloc[spots[0]]] * len(points))
    library = {key: dict(part) for key, part in _libraries(adata)[section].items()}
    library[keys.SCALEFACTORS][keys.SPOT_DIAMETER] = step
    library.setdefault(keys.METADATA, {})[keys.PITCH_UM] = float(spacing_um)
    return AnnData(obs=obs, obsm={keys.SPATIAL: points}, uns={keys.SPATIAL: {section: library}})


def check_section(adata: AnnData, section: str) -> None:
    """Raise :class:`~expressor.core.errors.DataError` unless some observations are from ``section``."""
    known = sections(adata)
    if section not in known:
        raise DataError(f"there is no section {section!r}", nearest=nearest_names(section, known),
                        fix="The sections are: " + ", ".join(known[:20]) + ".")  # fmt: skip


def _tissue_points(
    coords: np.ndarray, step: float, reach: float, size: tuple[int, int] | None
) -> tuple[np.ndarray, np.ndarray]:
    """Centres of square cells of the image that lie within ``reach`` of a spot, and their (column, row)."""
    low = np.floor((coords.min(axis=0) - reach) / step)
    high = np.ceil((coords.max(axis=0) + reach) / step)
    if size is not None:
        low, high = np.maximum(low, 0), np.minimum(high, np.floor(np.asarray(size) / step))
    columns, rows = (int(n) for n in np.maximum(high - low, 0))
    if columns * rows > MAX_GRID_POINTS:
        raise DataError("the grid has too many points", expected=f"at most {MAX_GRID_POINTS:,}", got=f"{columns * rows:,}",
                        fix="Use a larger spacing_um.")  # fmt: skip
    row, column = np.divmod(np.arange(columns * rows), max(columns, 1))
    cells = np.stack([column, row], axis=1) + low.astype(np.int64)
    points = (cells + 0.5) * step
    near = cKDTree(coords).query(points, distance_upper_bound=reach)[0] <= reach if len(points) else np.zeros(0, bool)
    return points[near], cells[near]


def _on_mask(points: np.ndarray, mask: np.ndarray, size: tuple[int, int] | None, section: str) -> np.ndarray:
    mask = np.asarray(mask)
    if size is None or mask.ndim != 2 or mask.dtype != bool:
        raise DataError(
            f"the tissue mask of section {section!r} cannot be laid over its image",
            expected="a bool (h, w) mask, and the image's width and height in the metadata",
            got=f"{mask.dtype} {mask.shape}, image size {size}",
        )
    place = np.floor(points / size * mask.shape[::-1]).astype(np.int64)
    place = np.clip(place, 0, np.asarray(mask.shape[::-1]) - 1)
    return mask[place[:, 1], place[:, 0]]


def _libraries(adata: AnnData) -> Mapping[str, Any]:
    held = adata.uns.get(keys.SPATIAL, {})
    return held if isinstance(held, Mapping) else {}


def _part(adata: AnnData, section: str, part: str, *, need: bool = True) -> Mapping[str, Any]:
    library = _libraries(adata).get(section)
    if library is None or (need and not isinstance(library.get(part), Mapping)):
        raise DataError(
            f"uns['spatial'] has no {part} of section {section!r}",
            nearest=nearest_names(section, _libraries(adata)),
            fix="The readers of expressor.data fill it; keys and units are in expressor.data.keys.",
        )
    return library.get(part) or {}


def _number(value: object) -> float:
    """The value as float, NaN where it is none."""
    value = getattr(value, "item", lambda: value)() if getattr(value, "size", 1) == 1 else math.nan
    return float(value) if isinstance(value, int | float) and not isinstance(value, bool) else math.nan
