"""Pairs of HEST: an h5ad with the expression and an HDF5 file with one image patch a spot."""

import os
from pathlib import Path
from typing import Any

import numpy as np
from anndata import AnnData

from expressor.core.errors import DataError, FormatError
from expressor.core.log import logger
from expressor.core.serial import read_json
from expressor.data import fields, files, keys
from expressor.data.patches import HestPatches
from expressor.data.readers.layout import Picture, assemble
from expressor.data.spatial import coordinates

PATCHES = "patches"
"""Key in ``uns["spatial"][section]["metadata"]`` with the path of the patch file."""


def read_hest(
    h5ad: str | os.PathLike[str],
    patches_h5: str | os.PathLike[str],
    *,
    um_per_px: float | None = None,
    metadata: str | os.PathLike[str] | None = None,
    image: str | os.PathLike[str] | None = None,
    section: str | None = None,
    patient: str | None = None,
    patch_um: float = 112.0,
) -> tuple[AnnData, HestPatches]:
    """Read a HEST sample.

    Parameters
    ----------
    h5ad
        Expression, with ``obsm["spatial"]`` in full-resolution pixels.
    patches_h5
        Patches: ``img`` uint8 (patch, px, px, 3), ``coords``, ``barcode``.
    um_per_px
        um per pixel of the full-resolution image.
    metadata
        The sample's JSON file, whose ``pixel_size_um_estimated`` (or ``pixel_size_um_embedded``) gives the scale instead.
    image
        The full-resolution slide, where it is at hand; the patches do without.
    section, patient
        Names to give; the section's defaults to the name of the h5ad file.
    patch_um
        Side of the patches in um: 112 in HEST (224 px at 0.5 um per pixel).

    Returns
    -------
    adata : AnnData
        The layout of :mod:`expressor.data.keys`; spots with a patch, in the order of the h5ad.
    patches : HestPatches
        The spots' patches, row for row.

    Raises
    ------
    DataError
        The scale is not known, or h5ad and patches share no spot.
    FormatError
        A file is damaged or of another layout.
    """
    h5ad = files.find(h5ad, what="HEST h5ad")
    files.check_hdf5(files.find(patches_h5, what="HEST patch file"))
    patches = HestPatches(Path(patches_h5), size_um=patch_um)
    raw = fields.read(h5ad)
    name = section or h5ad.stem
    scale = _scale(um_per_px, metadata, name)
    barcodes = np.asarray(raw.obs_names, dtype=object)
    with_patch = np.isin(barcodes, patches.names)
    if not with_patch.any():
        raise DataError(
            f"no spot of {h5ad} has a patch in {os.fspath(patches_h5)}",
            expected=f"barcodes such as {barcodes[0]!r}",
            got=f"barcodes such as {patches.names[0]!r}" if len(patches) else "no patches",
            fix="Give the two files of one sample.",
        )  # fmt: skip
    if not with_patch.all():
        logger.warning(
            "%s: %d of %d spots have no patch and are left out", h5ad, int((~with_patch).sum()), len(barcodes)
        )
    kept = np.flatnonzero(with_patch)
    pixels = coordinates(raw)[kept]
    adata = assemble(
        _counts(raw, h5ad)[kept],
        genes=list(raw.var_names),
        ids=list(raw.var[keys.GENE_IDS].astype(str)) if keys.GENE_IDS in raw.var else None,
        spots=list(barcodes[kept]),
        obs={key: raw.obs[key].to_numpy()[kept] for key in ("array_row", "array_col") if key in raw.obs},
        pixels=pixels,
        section=name,
        patient=patient,
        um_per_px=scale,
        spot_diameter_px=_diameter(raw, scale),
        pitch_um=None,
        technology="HEST",
        picture=Picture(path=image, **_hires(raw)),
    )
    adata.uns[keys.SPATIAL][name][keys.METADATA][PATCHES] = str(Path(patches_h5).absolute())
    return adata, patches.named(list(barcodes[kept]))


def _counts(raw: AnnData, path: Path) -> Any:
    if raw.X is None:
        raise FormatError(f"{path} holds no expression", expected="raw counts in X")
    return raw.X


def _scale(stated: float | None, metadata: str | os.PathLike[str] | None, name: str) -> float:
    if stated is not None:
        return float(stated)
    if metadata is not None:
        path = files.find(metadata, what="HEST metadata file")
        content = read_json(path)
        for key in ("pixel_size_um_estimated", "pixel_size_um_embedded"):
            value = content.get(key) if isinstance(content, dict) else None
            if isinstance(value, int | float) and value > 0:
                return float(value)
        raise FormatError(f"{path} does not tell the pixel size", expected="a number 'pixel_size_um_estimated'")
    raise DataError(
        f"the scale of section {name!r} is not known", expected="um per full-resolution pixel",
        fix="Give um_per_px, or the sample's metadata JSON with metadata=.",
    )  # fmt: skip


def _library(raw: AnnData) -> dict[str, Any]:
    """The one library that HEST writes (it calls it 'ST'); empty where there is none."""
    held = raw.uns.get(keys.SPATIAL)
    libraries = [one for one in held.values() if isinstance(one, dict)] if isinstance(held, dict) else []
    return libraries[0] if len(libraries) == 1 else {}


def _diameter(raw: AnnData, scale: float) -> float:
    factors = _library(raw).get(keys.SCALEFACTORS)
    value = factors.get(keys.SPOT_DIAMETER) if isinstance(factors, dict) else None
    value = getattr(value, "item", lambda: value)() if getattr(value, "size", 1) == 1 else None
    # Pseudo-spots of imaging assays have none; the printed Visium spot stands for them.
    return float(value) if isinstance(value, int | float) and 0 < value < 1e6 else 55.0 / scale


def _hires(raw: AnnData) -> dict[str, Any]:
    """The downscaled picture that HEST keeps beside the expression, under its own names."""
    library = _library(raw)
    images, factors = library.get(keys.IMAGES), library.get(keys.SCALEFACTORS)
    picture = images.get("downscaled_fullres") if isinstance(images, dict) else None
    factor = factors.get("tissue_downscaled_fullres_scalef") if isinstance(factors, dict) else None
    if not isinstance(picture, np.ndarray) or picture.dtype != np.uint8 or picture.ndim != 3 or picture.shape[2] != 3:
        return {}
    if factor is None or np.size(factor) != 1 or not 0 < float(np.asarray(factor).ravel()[0]) <= 1:
        return {}
    return {"hires": picture, "hires_scale": float(np.asarray(factor).ravel()[0])}
