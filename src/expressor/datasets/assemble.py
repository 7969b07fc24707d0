"""Builds the package's tissue layout from a section's counts, spot positions and picture."""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import anndata as ad
import numpy as np
import pandas as pd
from scipy import sparse

from expressor.core.errors import DataError, FormatError
from expressor.data import keys
from expressor.data.images import open_image
from expressor.datasets.fetch import cache_folder

THUMBNAIL_PX = 1024
"""Longer side of the picture kept in ``uns["spatial"][section]["images"]["hires"]``."""


def local_folder(name: str, *files: str) -> Path | None:
    """Return the folder ``name`` of ``EXPRESSOR_DATA`` if it holds all the ``files``, else None.

    Raises
    ------
    DataError
        ``EXPRESSOR_DATA`` names no folder: a mistyped path must not silently start a download.
    """
    root = os.environ.get("EXPRESSOR_DATA")
    if not root:
        return None
    if not Path(root).is_dir():
        raise DataError(
            f"the environment variable EXPRESSOR_DATA names no folder: {root!r}",
            fix="Correct it, or unset it to use the shipped and downloaded data.",
        )
    folder = Path(root).absolute() / name
    return folder if all((folder / one).is_file() for one in files) else None


def prepared_folder(room: str, file: str, *, name: str, fix: str) -> Path:
    """Return the folder ``room`` that holds ``file``: of ``EXPRESSOR_DATA``, else of the cache.

    Parameters
    ----------
    room
        Folder of prepared files that cannot be downloaded from one address.
    file
        Path of the wanted file inside it.
    name
        The data set, for the message.
    fix
        What the user can do where the file is not on this machine.

    Raises
    ------
    DataError
        The file is in neither place.
    """
    local = local_folder(room, file)
    if local is not None:
        return local
    cached = cache_folder() / room
    if (cached / file).is_file():
        return cached
    raise DataError(
        f"the data set {name!r} is not on this machine: no file {room}/{file}",
        expected=f"it in the folder named by EXPRESSOR_DATA, or in {cached}",
        fix=fix,
    )


def read_local(path: Path) -> ad.AnnData:
    """Read an h5ad of ``EXPRESSOR_DATA``."""
    try:
        return ad.read_h5ad(path)
    except (OSError, KeyError, ValueError, TypeError) as error:
        raise FormatError(
            f"{path} cannot be read as h5ad ({error})", fix="Copy the folder of EXPRESSOR_DATA again."
        ) from error


def read_prepared(path: Path, shape: tuple[int, int], *, rows: str) -> ad.AnnData:
    """Read a prepared h5ad and refuse another file of the same name.

    Parameters
    ----------
    path
        The file.
    shape
        Its rows and genes.
    rows
        What a row is called in messages.

    Returns
    -------
    AnnData
        ``X`` is float32, sparse where the file has it so.

    Raises
    ------
    FormatError
        It cannot be read, or has another shape.
    """
    adata = read_local(path)
    if adata.shape != shape:
        raise FormatError(
            f"{path} is not the file that this data set is made of",
            expected=f"{shape[0]:,} {rows} and {shape[1]:,} genes",
            got=f"{adata.n_obs:,} and {adata.n_vars:,}",
            fix="Copy it again.",
        )
    X: Any = adata.X
    adata.X = X.astype(np.float32) if sparse.issparse(X) else np.asarray(X, dtype=np.float32)
    return adata


def spatial_entry(
    image: Path, *, um_per_px: float, spot_diameter_um: float, pitch_um: float, technology: str
) -> dict[str, Any]:
    """Return the ``uns["spatial"]`` entry of one section whose picture is the file ``image``."""
    with open_image(image, um_per_px=um_per_px) as opened:
        width, height = opened.width, opened.height
        small = opened.thumbnail(THUMBNAIL_PX)
    return {
        keys.IMAGES: {keys.HIRES: small},
        keys.SCALEFACTORS: {
            keys.SPOT_DIAMETER: spot_diameter_um / um_per_px,
            keys.HIRES_SCALE: small.shape[1] / width,
            keys.UM_PER_PX: um_per_px,
        },
        keys.METADATA: {
            keys.IMAGE: str(image.absolute()),
            keys.IMAGE_WIDTH: width,
            keys.IMAGE_HEIGHT: height,
            keys.TECHNOLOGY: technology,
            keys.PITCH_UM: pitch_um,
        },
    }


def place(
    adata: ad.AnnData,
    *,
    section: str,
    patient: str | None,
    image: Path,
    points: np.ndarray,
    um_per_px: float,
    spot_diameter_um: float,
    pitch_um: float,
    technology: str,
    keep: Sequence[str] = (),
) -> ad.AnnData:
    """Return a new AnnData of one section in the package's layout.

    Parameters
    ----------
    adata
        Counts with genes and spots named; of its ``obs`` only the columns ``keep`` are taken over.
    points
        (spot, 2) x and y in pixels of ``image``.
    um_per_px
        Micrometres per pixel of ``image``.
    """
    obs = adata.obs[[key for key in keep if key in adata.obs]].copy()
    obs.insert(0, keys.SECTION, pd.Categorical([section] * adata.n_obs))
    if patient is not None:
        obs.insert(1, keys.PATIENT, pd.Categorical([patient] * adata.n_obs))
    counts = sparse.csr_matrix(adata.X, dtype=np.float32)
    obs["total_counts"] = np.asarray(counts.sum(axis=1, dtype=np.float64)).ravel().astype(np.int64)
    placed = ad.AnnData(counts, obs=obs, var=pd.DataFrame(index=adata.var_names.astype(str)))
    placed.obsm[keys.SPATIAL] = np.asarray(points, dtype=np.float64)
    placed.uns[keys.SPATIAL] = {
        section: spatial_entry(
            image, um_per_px=um_per_px, spot_diameter_um=spot_diameter_um, pitch_um=pitch_um, technology=technology
        )
    }
    return placed


def join(parts: Sequence[ad.AnnData]) -> ad.AnnData:
    """Join sections of one study. A gene that a section's table does not list has no count there: the tables drop such genes."""
    if len(parts) == 1:
        return parts[0]
    kept = set.intersection(*(set(part.obsm) for part in parts))
    parts = [part.copy() for part in parts]
    for part in parts:
        for key in set(part.obsm) - kept:
            del part.obsm[key]
    joined = ad.concat(parts, join="outer", fill_value=0)
    joined.X = sparse.csr_matrix(joined.X, dtype=np.float32)
    joined.uns[keys.SPATIAL] = {name: entry for part in parts for name, entry in part.uns[keys.SPATIAL].items()}
    return joined
