"""From the parts that every reader finds to the one layout: scale decided and cross-checked, image opened, positions checked."""

import math
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from anndata import AnnData
from scipy import sparse

from expressor.core.errors import DataError, FormatError, check_range
from expressor.core.log import logger
from expressor.data import keys
from expressor.data.checks import check_counts, check_sparse, check_unique
from expressor.data.images import open_image
from expressor.data.spatial import check_spatial, image_size
from expressor.genes.ids import check_gene_names

FROM_PITCH = "from_pitch"
SCALE_TOLERANCE = 0.1
"""Relative disagreement that is accepted between a stated um per pixel and the one measured on the array."""
THUMBNAIL_PX = 1024


@dataclass(frozen=True)
class ArrayFit:
    """Scale of an image, measured on the known geometry of the spots' array; made by :func:`fit_array`.

    Attributes
    ----------
    um_per_px
        Micrometres per full-resolution pixel.
    axes
        float64 (2, 2): pixels (x, y) a um along the array's first and second axis.
    """

    um_per_px: float
    axes: np.ndarray


def fit_array(array_um: np.ndarray, pixels: np.ndarray, *, where: str) -> ArrayFit | None:
    """Fit pixel positions as an affine function of array positions.

    Parameters
    ----------
    array_um
        float64 (spot, 2), positions on the array in um.
    pixels
        float64 (spot, 2), x and y in full-resolution pixels.
    where
        What the positions are of, for messages.

    Returns
    -------
    ArrayFit, or None where the spots are fewer than six or in one line.

    Raises
    ------
    DataError
        The positions are no scaled, turned or mirrored picture of the array.
    """
    centred = array_um - array_um.mean(axis=0) if len(array_um) else array_um
    if len(array_um) < 6 or np.linalg.matrix_rank(centred, tol=1e-6) < 2:
        return None
    axes = np.linalg.lstsq(centred, pixels - pixels.mean(axis=0), rcond=None)[0]
    residual = pixels - pixels.mean(axis=0) - centred @ axes
    long, short = np.linalg.svd(axes, compute_uv=False)
    off = math.sqrt(float((residual**2).sum(axis=1).mean()))
    if not short > 0.8 * long or off > 60.0 * long:
        raise DataError(
            f"pixel and array positions of {where} do not agree",
            expected="pixels that are the array scaled, turned or mirrored",
            got=f"{1 / max(long, 1e-12):.3g} and {1 / max(short, 1e-12):.3g} um per px by direction, {off:.0f} px off on average",
            fix="Columns of positions are mixed up or from another section; check them.",
        )
    return ArrayFit(um_per_px=1 / math.sqrt(long * short), axes=axes)


def settle_scale(stated: float | str | None, fit: ArrayFit | None, *, where: str, consent: bool) -> float:
    """Decide the um per pixel from what the caller states and what the array shows.

    Parameters
    ----------
    stated
        The caller's um per pixel; ``"from_pitch"`` to take the measured one; None when not given.
    fit
        The measured one, where there is one.
    where
        Section or folder, for messages.
    consent
        Whether the measured one may be taken without being asked for, because the format fixes the array's geometry.

    Raises
    ------
    DataError
        Nothing is stated and nothing may be taken; or both are known and differ by more than 10 %.
    """
    if isinstance(stated, str) and stated != FROM_PITCH:
        raise DataError(
            "um_per_px is neither a number nor a known word", expected=f"a number or {FROM_PITCH!r}", got=repr(stated)
        )
    if stated is None and consent and fit is not None:
        logger.info("%s: %.4g um per pixel, measured on the spots' array", where, fit.um_per_px)
        return fit.um_per_px
    if stated is None or stated == FROM_PITCH:
        if stated is not None and fit is not None:
            return fit.um_per_px
        measured = "" if fit is None else (
            f" The spots' pitch suggests {fit.um_per_px:.4g}; um_per_px={FROM_PITCH!r} takes it."
        )  # fmt: skip
        raise DataError(
            f"the scale of {where} is not known" + (" and cannot be measured on so few spots" if fit is None else ""),
            expected="um per full-resolution pixel",
            fix="Give um_per_px, from the scanner's metadata." + measured,
        )
    check_range(stated, name="um_per_px", low=0.05, high=50.0)
    if fit is not None and abs(math.log(float(stated) / fit.um_per_px)) > math.log1p(SCALE_TOLERANCE):
        raise DataError(
            f"the stated scale of {where} contradicts the pitch of its spots",
            expected=f"about {fit.um_per_px:.4g} um per pixel", got=f"um_per_px={float(stated):.4g}",
            fix="Give the um per pixel of the full-resolution image that the positions are in.",
        )  # fmt: skip
    return float(stated)


@dataclass(frozen=True)
class Picture:
    """The image side of a section, for :func:`assemble`.

    Attributes
    ----------
    path
        Full-resolution image, or None.
    hires, hires_scale
        A smaller uint8 (h, w, 3) picture and its factor; made from the image when not given.
    size
        (width, height) in full-resolution pixels where it is known without the image.
    """

    path: str | os.PathLike[str] | None = None
    hires: np.ndarray | None = None
    hires_scale: float | None = None
    size: tuple[int, int] | None = None


def assemble(
    counts: Any,
    *,
    genes: Sequence[str],
    ids: Sequence[str] | None,
    spots: Sequence[str],
    obs: dict[str, np.ndarray],
    pixels: np.ndarray,
    section: str,
    patient: str | None,
    um_per_px: float,
    spot_diameter_px: float,
    pitch_um: float | None,
    technology: str,
    picture: Picture,
) -> AnnData:
    """Put a section's parts into the layout of :mod:`expressor.data.keys`, checked.

    Observations are named ``<section>_<spot>``, because the barcodes of an assay repeat from section to section.

    Raises
    ------
    DataError, GeneError, FormatError
        A part is not what it should be; positions do not fit the image or the scale.
    """
    counts = sparse.csr_matrix(counts, dtype=np.float32)
    check_sparse(counts, where=f"of section {section!r}")
    check_counts(counts, where=f"section {section!r}")
    check_gene_names(genes, where=f"section {section!r}", ids=ids)
    if not len(spots):
        raise DataError(f"section {section!r} has no spots under tissue")
    names = pd.Index([f"{section}_{one}" for one in spots], dtype=object)
    check_unique(names, where=f"section {section!r}")
    table = pd.DataFrame({keys.SECTION: pd.Categorical([section] * len(names))}, index=names)
    if patient is not None:
        table[keys.PATIENT] = pd.Categorical([patient] * len(names))
    table = table.assign(**obs)
    var = pd.DataFrame(index=pd.Index(list(genes), dtype=object))
    if ids is not None:
        var[keys.GENE_IDS] = list(ids)
    adata = AnnData(counts, obs=table, var=var, obsm={keys.SPATIAL: np.asarray(pixels, dtype=np.float64)})
    library: dict[str, Any] = {
        keys.SCALEFACTORS: {keys.SPOT_DIAMETER: float(spot_diameter_px), keys.UM_PER_PX: float(um_per_px)},
        keys.METADATA: _metadata(technology, pitch_um),
    }
    adata.uns[keys.SPATIAL] = {section: library}
    _add_picture(library, picture, um_per_px=um_per_px)
    check_spatial(adata)
    _check_hires(adata, section)
    return adata


def _metadata(technology: str, pitch_um: float | None) -> dict[str, Any]:
    metadata: dict[str, Any] = {keys.IMAGE: "", keys.IMAGE_WIDTH: 0, keys.IMAGE_HEIGHT: 0, keys.TECHNOLOGY: technology}
    return metadata if pitch_um is None else {**metadata, keys.PITCH_UM: float(pitch_um)}


def _add_picture(library: dict[str, Any], picture: Picture, *, um_per_px: float) -> None:
    factors, metadata = library[keys.SCALEFACTORS], library[keys.METADATA]
    size, hires, scale = picture.size, picture.hires, picture.hires_scale
    if picture.path is not None:
        with open_image(Path(picture.path), um_per_px=um_per_px) as opened:
            size = (opened.width, opened.height)
            if hires is None:
                hires = opened.thumbnail(THUMBNAIL_PX)
                scale = hires.shape[1] / opened.width
        metadata[keys.IMAGE] = str(Path(picture.path).absolute())
    if size is not None:
        metadata[keys.IMAGE_WIDTH], metadata[keys.IMAGE_HEIGHT] = size
    if hires is not None and scale is not None:
        factors[keys.HIRES_SCALE] = float(scale)
        library[keys.IMAGES] = {keys.HIRES: hires}


def _check_hires(adata: AnnData, section: str) -> None:
    """Hires picture, its factor and the full-resolution image must be of one kind."""
    library = adata.uns[keys.SPATIAL][section]
    if keys.IMAGES not in library:
        return
    height, width = library[keys.IMAGES][keys.HIRES].shape[:2]
    scale, size = library[keys.SCALEFACTORS][keys.HIRES_SCALE], image_size(adata, section)
    expected = (width / scale, height / scale)
    if size is not None and any(abs(full - one) > max(2 / scale, 0.02 * one) for full, one in zip(size, expected)):
        raise DataError(
            f"the images of section {section!r} do not fit together",
            expected=f"a full-resolution image of about {expected[0]:.0f} x {expected[1]:.0f} px "
            f"({width} x {height} px over the factor {scale:g})",
            got=f"{size[0]} x {size[1]} px",
            fix="Give the image that was given to the assay's software, unscaled and uncropped.",
        )
    pixels = adata.obsm[keys.SPATIAL]
    outside = ((pixels < 0) | (pixels * scale > [width + 2, height + 2])).any(axis=1)
    if outside.any():
        swapped = not ((pixels < 0) | (pixels[:, ::-1] * scale > [width + 2, height + 2])).any()
        raise DataError(
            f"{int(outside.sum())} of {len(pixels)} spots of section {section!r} lie outside the hires image",
            expected=f"positions times {scale:g} within {width} x {height} px",
            got=f"for example {tuple(np.round(pixels[outside][0] * scale).astype(int).tolist())}",
            fix="x and y are swapped; exchange them."
            if swapped
            else "The positions are not in full-resolution pixels, or the factor is of another image.",
        )


def read_picture(path: Path) -> np.ndarray:
    """Return a small picture (PNG or JPEG) as uint8 (h, w, 3)."""
    with open_image(path, um_per_px=1.0) as opened:
        if opened.width * opened.height > 64_000_000:
            raise FormatError(f"{path} is too large for a hires image", expected="at most 64 megapixels",
                              got=f"{opened.width} x {opened.height} px")  # fmt: skip
        return opened.region(0, 0, opened.width, opened.height)
