"""MNI space: the grid of the brain's voxels, tissue at places, maps written as NIfTI, and checks of coordinates.

The space is MNI152 (ICBM 2009a, symmetric), whose templates come with nilearn; places are in mm, x to the right, y to the front,
z up. Everything that needs a template needs the extra ``brain``; the checks of numbers do not.
"""

import gzip
import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from anndata import AnnData
from scipy import ndimage

from expressor.core.errors import DataError, FormatError, check_choice, check_range
from expressor.core.optional import need
from expressor.data import keys
from expressor.data.guard import find, reading
from expressor.data.parcels import to_voxels

SPACE = "MNI152"
MASKS = ("brain", "grey", "white")
BOX = np.array([[-82.0, -116.0, -84.0], [82.0, 84.0, 96.0]])
"""Lowest and highest x, y, z in mm of the brain in MNI152, and 10 mm more."""
MARGIN_MM = 10.0
"""How far outside the template's brain a place may be: tissue samples were registered with errors of several mm."""

_TEMPLATES = {"t1": "load_mni152_template", "grey": "load_mni152_gm_template", "white": "load_mni152_wm_template"}
_APART_MM = 40.0  # further than this from the other donors' middle, and a donor is in another space
_VOXEL_GRIDS = {  # shape -> affine of grids whose voxel numbers are most often given for mm
    "1 mm (ICBM 2009)": np.array([[1.0, 0, 0, -98], [0, 1, 0, -134], [0, 0, 1, -72], [0, 0, 0, 1]]),
    "1 mm (FSL)": np.array([[-1.0, 0, 0, 90], [0, 1, 0, -126], [0, 0, 1, -72], [0, 0, 0, 1]]),
    "2 mm (FSL)": np.array([[-2.0, 0, 0, 90], [0, 2, 0, -126], [0, 0, 2, -72], [0, 0, 0, 1]]),
}


@dataclass(frozen=True, eq=False)
class Grid:
    """Voxels of a volume, some of which are wanted.

    Attributes
    ----------
    mask
        bool (x, y, z): the wanted voxels.
    affine
        float64 (4, 4): from voxel numbers to mm.
    """

    mask: np.ndarray
    affine: np.ndarray

    def __len__(self) -> int:
        return int(self.mask.sum())

    def points(self) -> np.ndarray:
        """Return the places of the wanted voxels, float64 (voxel, 3) in mm, in the order of :meth:`fill`."""
        return np.argwhere(self.mask) @ self.affine[:3, :3].T + self.affine[:3, 3]

    def within_brain(self) -> "Grid":
        """Return the grid without voxels that are more than :data:`MARGIN_MM` outside the template's brain."""
        mask = self.mask.copy()
        mask[self.mask] = distance_to_brain(self.points()) <= MARGIN_MM
        return Grid(mask, self.affine)

    def fill(self, values: np.ndarray, *, outside: float = np.nan) -> np.ndarray:
        """Return a volume float32 (x, y, z) with ``values`` (voxel,) in the wanted voxels and ``outside`` elsewhere."""
        if np.shape(values) != (len(self),):
            raise DataError("values do not fit the grid", expected=f"({len(self)},)", got=str(np.shape(values)))
        volume = np.full(self.mask.shape, outside, dtype=np.float32)
        volume[self.mask] = values
        return volume

    def image(self, values: np.ndarray, *, outside: float = np.nan) -> Any:
        """Return the same as a ``nibabel.Nifti1Image``."""
        nibabel = need("nibabel", extra="brain", purpose="make NIfTI images")
        return nibabel.Nifti1Image(self.fill(values, outside=outside), self.affine)


def brain_grid(*, resolution: int = 2, mask: str = "brain") -> Grid:
    """Return the voxels of the template's brain.

    Parameters
    ----------
    resolution
        Side of a voxel in mm, 1 to 10. At 2 mm the brain has 235,375 voxels.
    mask
        One of :data:`MASKS`: the whole brain, or where grey or white matter is more likely than not.
    """
    check_choice(mask, MASKS, name="mask")
    check_range(resolution, name="resolution", low=1, high=10, integer=True)
    if mask == "brain":
        image = _template("load_mni152_brain_mask", resolution)
        return Grid(image[0] > 0, image[1])
    volume, affine = template(mask, resolution=resolution)
    return Grid(volume > 0.5, affine)


def grid_of(image: str | os.PathLike[str]) -> Grid:
    """Return the voxels of a NIfTI in MNI space that are not 0 (nor NaN): any mask, template or parcellation.

    Raises
    ------
    DataError
        The file is absent, or no voxel is set.
    FormatError
        It is no three-dimensional NIfTI.
    """
    path = find(image, what="NIfTI")
    nibabel = need("nibabel", extra="brain", purpose="read NIfTI")
    with reading(path, "NIfTI"):
        loaded = nibabel.load(path)
        values = np.asarray(loaded.dataobj)
    if values.ndim != 3:
        raise FormatError(f"{path} is no volume", expected="three dimensions", got=str(values.shape))
    grid = Grid(np.nan_to_num(values) != 0, np.asarray(loaded.affine, dtype=np.float64))
    if not len(grid):
        raise DataError(f"no voxel of {path} is set", fix="Give a mask, a template or a parcellation.")
    return grid


def read_grid(grid: Grid | str | os.PathLike[str]) -> Grid:
    """Return a grid, or the voxels of the NIfTI at a path (:func:`grid_of`); DataError for anything else."""
    if isinstance(grid, str | os.PathLike):
        return grid_of(grid)
    if not isinstance(grid, Grid):
        raise DataError("this is no grid", expected="a Grid, or the path of a NIfTI", got=type(grid).__name__,
                        fix="Make it with expressor.data.brain_grid or grid_of.")  # fmt: skip
    return grid


def template(what: str, *, resolution: int = 2) -> tuple[np.ndarray, np.ndarray]:
    """Return a volume of the template, float32 (x, y, z), read-only, and its affine.

    Parameters
    ----------
    what
        ``"t1"``: how the brain looks to a scanner. ``"grey"``, ``"white"``: how likely each matter is.
    resolution
        Side of a voxel in mm, 1 to 10.
    """
    check_choice(what, tuple(_TEMPLATES), name="template")
    check_range(resolution, name="resolution", low=1, high=10, integer=True)
    return _template(_TEMPLATES[what], resolution)


def tissue_at(points: np.ndarray) -> np.ndarray:
    """Return how likely each place is grey and white matter, from the templates, between voxels by straight lines.

    Parameters
    ----------
    points
        (point, 3) in mm of MNI152.

    Returns
    -------
    numpy.ndarray
        float32 (point, 2) from 0 to 1: grey, white; 0 outside the volume.
    """
    points = np.asarray(points, dtype=np.float64)
    found = np.empty((len(points), 2), dtype=np.float32)
    for column, name in enumerate(("grey", "white")):
        volume, affine = template(name, resolution=1)
        inverse = np.linalg.inv(affine)
        voxel = points @ inverse[:3, :3].T + inverse[:3, 3]
        found[:, column] = ndimage.map_coordinates(volume, voxel.T, order=1, mode="constant", cval=0.0)
    return found


def distance_to_brain(points: np.ndarray) -> np.ndarray:
    """Return the distance in mm, float64 (point,), from each place to the template's brain; 0 inside."""
    volume, affine = _outside()
    voxel = to_voxels(points, affine)
    nearest = np.clip(voxel, 0, np.asarray(volume.shape) - 1)
    beyond = np.linalg.norm((voxel - nearest) * np.abs(np.diag(affine)[:3]), axis=1)
    return volume[tuple(nearest.T)] + beyond


def check_places(points: np.ndarray, *, where: str = "coordinates", template: bool = False) -> np.ndarray:
    """Return ``points`` as float64 (point, 3), or refuse what cannot be places of the brain in mm of MNI152.

    Parameters
    ----------
    points
        What is to be checked.
    where
        What it is, for messages.
    template
        Also measure the distance to the template's brain, which needs the extra ``brain``; else only a box around it is.

    Raises
    ------
    DataError
        Another shape, NaN, voxel numbers instead of mm, metres or micrometres, or more than :data:`MARGIN_MM` outside.
    """
    raw = np.asarray(points)
    if raw.ndim != 2 or raw.shape[1] != 3 or raw.dtype.kind not in "iuf":
        raise DataError(f"{where} hold no places", expected="numbers (point, 3): x, y, z in mm of MNI152",
                        got=f"{raw.dtype} {raw.shape}")  # fmt: skip
    place = raw.astype(np.float64)
    bad = ~np.isfinite(place).all(axis=1)
    if bad.any():
        raise DataError(f"{int(bad.sum())} of {len(place)} {where} are NaN or infinite", got=f"the first in row {np.argmax(bad)}",
                        fix="Drop these rows.")  # fmt: skip
    outside = ((place < BOX[0]) | (place > BOX[1])).any(axis=1)
    expected = ", ".join(f"{axis} {low:g} to {high:g}" for axis, low, high in zip("xyz", *BOX)) + " mm of MNI152"
    if template and not outside.any():
        outside, expected = distance_to_brain(place) > MARGIN_MM, "places in the template's brain, in mm of MNI152"
    if not outside.any():
        if len(place) > 2 and np.ptp(place, axis=0).max() < 1:
            raise DataError(f"{where} lie within {np.ptp(place, axis=0).max():.2g} mm", expected="mm of MNI152, a brain's width",
                            fix="They look like metres or a share of the width: multiply them.")  # fmt: skip
        return place
    grid = _voxel_grid(place)
    if grid is not None:
        raise DataError(
            f"{where} look like voxel numbers of a {grid} grid", expected="mm of MNI152, 0 at the anterior commissure",
            got=f"whole numbers from {place.min():g} to {place.max():g}",
            fix="Multiply by the image's affine: points @ affine[:3, :3].T + affine[:3, 3].",
        )  # fmt: skip
    row = int(np.argmax(outside))
    raise DataError(
        f"{int(outside.sum())} of {len(place)} {where} lie outside the brain, by more than {MARGIN_MM:g} mm",
        expected=expected,
        got=f"({', '.join(f'{one:g}' for one in place[row])}) in row {row}",
        fix="Are they in mm, in MNI152 and not in the donor's own space?",
    )


def check_brain(adata: AnnData) -> np.ndarray:
    """Return the places float64 (sample, 3) of brain samples, or refuse data that no map can be made from.

    Raises
    ------
    DataError
        No coordinates or wrong ones (:func:`check_places`); another space; donors in different spaces; NaN or infinite
        expression; no sample or no gene.
    """
    if keys.MNI not in adata.obsm:
        raise DataError(f"obsm has no {keys.MNI!r}", got=", ".join(map(repr, adata.obsm)) or "nothing",
                        fix="Put x, y, z of each sample there, in mm of MNI152.")  # fmt: skip
    if not adata.n_obs or not adata.n_vars:
        raise DataError("there is nothing to map", got=f"{adata.n_obs} samples and {adata.n_vars} genes")
    space = str(adata.uns.get(keys.SPACE, SPACE))
    if space != SPACE:
        raise DataError("the samples are in another space", expected=SPACE, got=repr(space),
                        fix="Register them to MNI152 first.")  # fmt: skip
    _check_donors(adata)
    place = check_places(adata.obsm[keys.MNI], where=f"rows of obsm[{keys.MNI!r}]")
    X: Any = adata.X
    values = X.data if hasattr(X, "tocsr") else np.asarray(X)
    if not np.isfinite(values).all():
        rows = (
            ""
            if hasattr(X, "tocsr")
            else f", the first in sample {adata.obs_names[np.argmax(~np.isfinite(values).all(axis=1))]!r}"
        )
        raise DataError(f"{int((~np.isfinite(values)).sum())} values of expression are NaN or infinite{rows}",
                        fix="Drop these samples or genes; a map is not made from gaps.")  # fmt: skip
    return place


def _check_donors(adata: AnnData) -> None:
    """Refuse donors whose samples lie elsewhere than the others' or say so themselves."""
    if keys.SPACE in adata.obs and adata.obs[keys.SPACE].nunique() > 1:
        raise DataError("donors are in different spaces", got=", ".join(sorted(adata.obs[keys.SPACE].astype(str).unique())),
                        fix="Register all of them to MNI152.")  # fmt: skip
    if keys.DONOR not in adata.obs or adata.obs[keys.DONOR].nunique() < 2:
        return
    raw = np.asarray(adata.obsm[keys.MNI], dtype=np.float64)
    donors = adata.obs[keys.DONOR].astype(str).to_numpy()
    # x is left out: some donors were sampled on one side.
    middle = {
        one: np.nanmedian(raw[donors == one, 1:], axis=0) for one in sorted(set(donors)) if (donors == one).sum() >= 10
    }
    for one, place in middle.items() if len(middle) > 2 else ():
        others = np.median([other for name, other in middle.items() if name != one], axis=0)
        if np.abs(place - others).max() > _APART_MM:
            raise DataError(
                f"donor {one!r} is in another space than the others",
                expected=f"samples around y {others[0]:.0f}, z {others[1]:.0f} mm",
                got=f"around y {place[0]:.0f}, z {place[1]:.0f}",
                fix="Give all donors in mm of MNI152; a donor's own scan (mri_voxel_x, ...) is another space.",
            )


def write_maps(
    path: str | os.PathLike[str], grid: Grid, maps: Iterable[np.ndarray], *, n_maps: int, outside: float = np.nan
) -> Path:
    """Write maps of a grid into one NIfTI, one after the other, so that only one is in memory.

    Parameters
    ----------
    path
        A new file, ``.nii`` or ``.nii.gz``.
    grid
        The voxels.
    maps
        Values (voxel,) of each map.
    n_maps
        How many there are; with 1 the file has three dimensions, else four.
    outside
        Value of the other voxels.

    Raises
    ------
    DataError
        The file exists, has another suffix or no folder, or there are more or fewer maps. Nothing is left behind then.
    """
    path = Path(path)
    nibabel = need("nibabel", extra="brain", purpose="write NIfTI")
    if not path.name.endswith((".nii", ".nii.gz")):
        raise DataError(f"{path} is no name of a NIfTI", expected="a name that ends in .nii or .nii.gz")
    if path.exists():
        raise DataError(f"{path} exists", fix="Give another name; nothing was changed.")
    if not path.parent.is_dir():
        raise DataError(f"there is no folder {path.parent} to write {path.name} into", fix="Make it, or give another.")
    check_range(n_maps, name="n_maps", low=1, high=32767, integer=True)
    header = nibabel.Nifti1Header()
    header.set_data_dtype(np.dtype("<f4"))
    header.set_data_shape(grid.mask.shape if n_maps == 1 else (*grid.mask.shape, n_maps))
    header.set_qform(grid.affine, code=4)  # 4 is MNI152
    header.set_sform(grid.affine, code=4)
    header.set_xyzt_units("mm")
    header["magic"], header["vox_offset"] = b"n+1", 352
    partial = path.with_name(path.name + ".part")
    written = 0
    try:
        with _opened(partial, packed=path.name.endswith(".gz")) as file:
            file.write(header.binaryblock + b"\0" * (352 - len(header.binaryblock)))
            for values in maps:
                written += 1
                if written > n_maps:
                    break
                file.write(grid.fill(values, outside=outside).astype("<f4").tobytes(order="F"))
        if written != n_maps:
            raise DataError("the maps are not as many as announced", expected=n_maps, got=written)
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)
    return path


@contextmanager
def _opened(path: Path, *, packed: bool) -> Iterator[BinaryIO]:
    with path.open("wb") as raw:
        if not packed:
            yield raw
            return
        # Level 1: expression is noise to a packer. No name and time inside, so that the same maps give the same bytes.
        with gzip.GzipFile(filename="", mode="wb", fileobj=raw, compresslevel=1, mtime=0) as file:
            yield file  # type: ignore[misc]


def _voxel_grid(place: np.ndarray) -> str | None:
    """Name the grid whose voxel numbers these seem to be: whole, not negative, around the brain's middle once turned into mm."""
    if len(place) < 3 or (place < 0).any() or (place != np.rint(place)).any():
        return None
    away = {}
    for name, affine in _VOXEL_GRIDS.items():
        mm = place @ affine[:3, :3].T + affine[:3, 3]
        if ((mm >= BOX[0]) & (mm <= BOX[1])).all(axis=1).mean() >= 0.95:
            away[name] = float(np.linalg.norm(np.median(mm, axis=0) - BOX.mean(axis=0)))
    if away:
        return min(away, key=lambda one: away[one])
    return "donor's or template's" if (place > BOX[1]).any(axis=1).mean() > 0.3 else None


@lru_cache(maxsize=6)
def _template(loader: str, resolution: int) -> tuple[np.ndarray, np.ndarray]:
    module = need("nilearn.datasets", extra="brain", purpose="read the MNI152 template")
    with reading("the template of nilearn", "NIfTI"):
        image = getattr(module, loader)(resolution=resolution)
        volume = np.asarray(image.dataobj, dtype=np.float32)
    volume.setflags(write=False)
    return volume, np.asarray(image.affine, dtype=np.float64)


@lru_cache(maxsize=1)
def _outside() -> tuple[np.ndarray, np.ndarray]:
    mask, affine = _template("load_mni152_brain_mask", 2)
    return ndimage.distance_transform_edt(mask == 0, sampling=2.0), affine
