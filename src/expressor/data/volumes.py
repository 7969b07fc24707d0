"""Maps of the user's: a NIfTI in MNI space read at places, or averaged per parcel."""

import os

import numpy as np
from scipy import ndimage

from expressor.core.errors import FormatError
from expressor.core.optional import need
from expressor.data.guard import find, reading
from expressor.data.parcels import Parcellation, check_parcellation


def volume_at(image: str | os.PathLike[str], points: np.ndarray) -> np.ndarray:
    """Return the values of a NIfTI at places, between voxels by straight lines.

    Parameters
    ----------
    image
        A volume of three dimensions in the places' space; needs the extra ``brain``.
    points
        (point, 3) in mm.

    Returns
    -------
    numpy.ndarray
        float64 (point,); NaN outside the volume, and where most around is NaN. Voxels that are NaN are left out of the rest.

    Raises
    ------
    DataError
        The file is absent.
    FormatError
        It is no NIfTI of three dimensions.
    """
    volume, affine = _read(image)
    inverse = np.linalg.inv(affine)
    voxel = np.asarray(points, dtype=np.float64) @ inverse[:3, :3].T + inverse[:3, 3]
    inside = ((voxel > -0.5) & (voxel < np.asarray(volume.shape) - 0.5)).all(axis=1)
    known = np.isfinite(volume)
    total, weight = (
        ndimage.map_coordinates(one, voxel.T, order=1, mode="nearest")
        for one in (np.where(known, volume, 0.0), known.astype(np.float64))
    )
    fine = inside & (weight >= 0.5)
    return np.divide(total, weight, out=np.full(len(voxel), np.nan), where=fine)


def volume_per_parcel(image: str | os.PathLike[str], atlas: Parcellation) -> np.ndarray:
    """Return the mean of a NIfTI over each parcel, float64 (parcel,) in the order of ``atlas.table``.

    The volume is read at the parcellation's voxels (:func:`volume_at`); those that are NaN are left out. A parcel without any is
    NaN.
    """
    places, parcel = check_parcellation(atlas).voxels()
    values = volume_at(image, places)
    known = np.isfinite(values)
    return atlas.means([(parcel[known], values[known, None])])[0][:, 0]


def _read(image: str | os.PathLike[str]) -> tuple[np.ndarray, np.ndarray]:
    path = find(image, what="NIfTI")
    nibabel = need("nibabel", extra="brain", purpose="read NIfTI")
    with reading(path, "NIfTI"):
        loaded = nibabel.load(path)
        volume = np.asarray(loaded.dataobj, dtype=np.float64)
    if volume.ndim == 4 and volume.shape[3] == 1:
        volume = volume[..., 0]
    if volume.ndim != 3:
        raise FormatError(f"{path} is no volume", expected="three dimensions", got=str(volume.shape))
    return volume, np.asarray(loaded.affine, dtype=np.float64)
