"""Image features of tissue: joins an AnnData, its images and an encoder, section by section."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from anndata import AnnData

from expressor.core.errors import DataError, nearest_names
from expressor.core.log import logger
from expressor.data import keys
from expressor.data.images import TissueImage, open_image
from expressor.data.patches import HestPatches, Patches, PatchSpec
from expressor.data.precomputed import read_features
from expressor.data.readers.hest import PATCHES
from expressor.data.spatial import (
    check_spatial,
    coordinates,
    image_path,
    image_size,
    microns_per_pixel,
    section_of,
    sections,
)
from expressor.encoders.cache import FeatureCache, open_cache
from expressor.encoders.encoding import encode
from expressor.encoders.registry import Encoder
from expressor.encoders.registry import encoder as load_encoder

PRECOMPUTED = "precomputed:"
"""Prefix of an encoder name that stands for features in ``obsm``."""


def image_features(
    adata: AnnData,
    *,
    encoder: str | Encoder = "efficientnet_lite0",
    patch_um: float | None = None,
    cache: FeatureCache | str | Path | None = "auto",
    pooled: bool = True,
    batch_size: int = 32,
    images: Mapping[str, str | Path] | None = None,
    show: bool | None = None,
) -> np.ndarray:
    """Encode the image around every spot.

    Parameters
    ----------
    adata
        Spots in the tissue layout (see :mod:`expressor.data.keys`): ``obsm["spatial"]`` and, for each section,
        ``uns["spatial"]`` with the image and its scale. Not changed.
    encoder
        A loaded encoder, its name, or ``"precomputed:<key>"`` for the features in ``obsm[key]``.
    patch_um
        Side of the patches, micrometres; by default what the encoder was made for. Not used for precomputed features, nor
        where a section's patches were cut before.
    cache
        Where features are kept between runs: ``"auto"`` for the user's cache folder, a folder, a
        :class:`~expressor.encoders.FeatureCache`, or None.
    pooled
        False for the encoder's spatial tokens.
    batch_size
        Patches held in memory at a time.
    images
        Paths by section, in place of those in ``uns["spatial"]`` (for data that came from another machine).
    show
        Force the progress bar on or off.

    Returns
    -------
    float32 (spot, dim), or (spot, token, dim) for ``pooled=False``, finite, in the order of ``adata``.

    Raises
    ------
    DataError
        An image, a scale or the precomputed features are missing or contradict the coordinates.
    FormatError
        An image file is damaged.
    """
    if isinstance(encoder, str) and encoder.startswith(PRECOMPUTED):
        return _precomputed(adata, encoder.removeprefix(PRECOMPUTED))
    check_spatial(adata)
    model = load_encoder(encoder) if isinstance(encoder, str) else encoder
    spec = PatchSpec(size_um=model.card.patch_um if patch_um is None else patch_um, px=model.card.input_px)
    store = open_cache(cache)
    labels = section_of(adata).to_numpy()
    features: np.ndarray | None = None
    for section in sections(adata):
        rows = np.flatnonzero(labels == section)
        with _patches(adata, section, rows, spec, dict(images or {})) as patches:
            part = encode(patches, model, cache=store, batch_size=batch_size, pooled=pooled, show=show)
        if features is None:
            features = np.empty((adata.n_obs, *part.shape[1:]), dtype=np.float32)
        features[rows] = part
    if features is None:
        raise DataError("there are no spots to encode", got=f"{adata.n_obs} observations")
    return features


def feature_blocks(
    adata: AnnData,
    *,
    encoder: str | Sequence[str],
    patch_um: float | Sequence[float] | None = None,
    patch_ratios: Sequence[float] = (1.0,),
    cache: FeatureCache | str | Path | None = "auto",
) -> list[np.ndarray]:
    """Encode the image around every spot by several encoders, and at several sizes of the patch.

    Parameters
    ----------
    adata
        As for :func:`image_features`.
    encoder
        Names of encoders, or ``"precomputed:<key>"``.
    patch_um
        Sides of the patches, micrometres; None for what each encoder was made for.
    patch_ratios
        Each side is taken at these multiples. Not used for precomputed features.
    cache
        As for :func:`image_features`.

    Returns
    -------
    One array an encoder, float32 (spot, dim); the features of all its patch sizes stand side by side.

    Raises
    ------
    DataError
        As :func:`image_features`, or the precomputed features are not one vector a spot.
    """
    blocks = []
    for name in (encoder,) if isinstance(encoder, str) else encoder:
        if name.startswith(PRECOMPUTED):
            parts = [_precomputed(adata, name.removeprefix(PRECOMPUTED))]
        else:
            model = _loaded(name)
            stated = patch_um if isinstance(patch_um, Sequence) else (patch_um,)
            sides = [
                (model.card.patch_um if side is None else side) * ratio for side in stated for ratio in patch_ratios
            ]
            parts = [image_features(adata, encoder=model, patch_um=side, cache=cache) for side in sides]
        for part in parts:
            if part.ndim != 2:
                raise DataError(
                    f"the features of {name!r} are not one vector a spot",
                    expected="(spot, dim)",
                    got=f"shape {part.shape}",
                )
        blocks.append(np.hstack(parts))
    return blocks


@lru_cache(maxsize=4)
def _loaded(name: str) -> Encoder:
    """Return the encoder; a benchmark asks for it some dozen times, and reading its weights takes seconds."""
    return load_encoder(name)


def attach_features(
    adata: AnnData,
    files: str | Path | Mapping[str, str | Path],
    *,
    key: str,
    within_um: float = 25.0,
    kind: str | None = None,
    table: str | None = None,
) -> None:
    """Write features that another tool computed into ``obsm[key]``, in place; use them as ``encoder="precomputed:<key>"``.

    Parameters
    ----------
    adata
        Spots in the tissue layout.
    files
        The feature file of a single section, or one for each section by its name.
    key
        Where to write, for example ``"X_uni"``. Must not exist yet.
    within_um
        Where patches are matched by place: farthest accepted distance between a spot and a patch centre, micrometres.
    kind, table
        See :func:`expressor.data.precomputed.read_features`.

    Raises
    ------
    DataError
        A section has no file, a spot no patch, or the files differ in the number of features.
    FormatError
        A file is damaged.
    """
    if key in adata.obsm:
        raise DataError(f"obsm[{key!r}] exists already", fix="Choose another key, or delete it first.")
    known = sections(adata)
    by_section = dict(files) if isinstance(files, Mapping) else dict.fromkeys(known[:1], files)
    absent = [section for section in known if section not in by_section]
    if absent:
        raise DataError(
            f"{len(absent)} of {len(known)} sections have no feature file, for example {absent[0]!r}",
            nearest=nearest_names(absent[0], by_section),
            fix="Give a mapping from section to file.",
        )
    labels, out = section_of(adata).to_numpy(), None
    for section in known:
        rows = np.flatnonzero(labels == section)
        read = read_features(by_section[section], kind=kind, table=table)
        if read.names is not None:
            part = read.for_names([str(name) for name in adata.obs_names[rows]])
        else:
            within_px = within_um / microns_per_pixel(adata, section)
            part = read.for_centres(coordinates(adata)[rows], within_px=within_px)
        if out is None:
            out = np.empty((adata.n_obs, part.shape[1]), dtype=np.float32)
        if part.shape[1] != out.shape[1]:
            raise DataError(
                "the feature files differ in the number of features",
                expected=out.shape[1],
                got=f"{part.shape[1]} in {read.source}",
            )
        out[rows] = part
    adata.obsm[key] = out


@contextmanager
def _patches(
    adata: AnnData, section: str, rows: np.ndarray, spec: PatchSpec, images: dict[str, str | Path]
) -> Iterator[Patches | HestPatches]:
    entry = adata.uns[keys.SPATIAL][section]
    metadata = entry.get(keys.METADATA, {})
    if metadata.get(PATCHES) and section not in images:
        cut_before = HestPatches(str(metadata[PATCHES]), size_um=float(metadata.get("patch_um", 112.0)))
        yield cut_before.named([str(name) for name in adata.obs_names[rows]])
        return
    image, factor = _open(adata, section, entry, images)
    with image:
        yield Patches(image, coordinates(adata)[rows] * factor, spec)


def _open(
    adata: AnnData, section: str, entry: Mapping[str, Any], images: dict[str, str | Path]
) -> tuple[TissueImage, float]:
    """Open a section's image; the factor turns full-resolution pixels into pixels of it."""
    um_per_px = microns_per_pixel(adata, section)
    hires = entry.get(keys.IMAGES, {}).get(keys.HIRES)
    factor = entry.get(keys.SCALEFACTORS, {}).get(keys.HIRES_SCALE)
    named = images.get(section) or entry.get(keys.METADATA, {}).get(keys.IMAGE)
    if not named and hires is not None and factor is not None:
        scale = um_per_px / float(factor)
        logger.info("section %s names no image file; its patches come from the preview at %.3g um/px", section, scale)
        return open_image(np.asarray(hires), um_per_px=scale), float(factor)
    path = Path(images[section]) if section in images else image_path(adata, section)
    image = open_image(path, um_per_px=um_per_px)
    stated = image_size(adata, section)
    if stated is not None and stated != (image.width, image.height):
        image.close()
        raise DataError(
            f"the image {path} is not the one that the positions of section {section!r} belong to",
            expected=f"{stated[0]} x {stated[1]} px",
            got=f"{image.width} x {image.height} px",
            fix="Give the full-resolution image, or bring positions and um per pixel to the scale of this one.",
        )
    return image, 1.0


def _precomputed(adata: AnnData, key: str) -> np.ndarray:
    if key not in adata.obsm:
        raise DataError(
            f"there are no precomputed features obsm[{key!r}]",
            expected="one of " + (", ".join(repr(one) for one in adata.obsm) or "(obsm is empty)"),
            nearest=nearest_names(key, adata.obsm),
            fix="Write the features (spot, dim) there first; attach_features does so from files of other tools.",
        )
    found = adata.obsm[key]
    found = found.to_numpy() if hasattr(found, "to_numpy") else found
    found = found.toarray() if hasattr(found, "toarray") else found
    try:
        features = np.asarray(found).astype(np.float32)
    except (TypeError, ValueError) as error:
        raise DataError(f"obsm[{key!r}] does not hold numbers ({error})", expected="float (spot, dim)") from error
    if features.ndim < 2:
        raise DataError(f"obsm[{key!r}] is not a table", expected="shape (spot, dim)", got=f"shape {features.shape}")
    bad = ~np.isfinite(features).reshape(len(features), -1).all(axis=1)
    if bad.any():
        raise DataError(
            f"the precomputed features obsm[{key!r}] of {int(bad.sum())} of {len(features)} spots are not finite",
            got=f"the first is {adata.obs_names[int(np.flatnonzero(bad)[0])]!r}",
            fix="Leave these spots out, or compute their features again.",
        )
    return features
