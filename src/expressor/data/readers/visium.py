"""10x Visium, as Space Ranger writes it."""

import math
import os
from pathlib import Path

import numpy as np
import pandas as pd
from anndata import AnnData

from expressor.core.errors import DataError, FormatError
from expressor.core.log import logger
from expressor.data import files, keys
from expressor.data.readers import tables
from expressor.data.readers.layout import Picture, assemble, fit_array, read_picture, settle_scale
from expressor.data.readers.tenx import TenxCounts, read_tenx

PITCH_UM = 100.0
"""Distance between the centres of neighbouring spots, fixed by the slide."""
STATED_DIAMETER_UM = (65.0, 55.0)
"""Spot diameters that ``spot_diameter_fullres`` has stood for: the assay's nominal one, and the printed one."""
_COLUMNS = ("barcode", "in_tissue", "array_row", "array_col", "pxl_row_in_fullres", "pxl_col_in_fullres")


def read_visium(
    folder: str | os.PathLike[str],
    *,
    image: str | os.PathLike[str] | None = None,
    um_per_px: float | None = None,
    section: str | None = None,
    patient: str | None = None,
    gene_names: str = "symbol",
) -> AnnData:
    """Read a section from Space Ranger's output folder, of any version.

    Parameters
    ----------
    folder
        The folder ``outs``, with the filtered counts (HDF5 or text) and the folder ``spatial``.
    image
        The full-resolution image that was given to Space Ranger. Its output does not hold it, and patches need it.
    um_per_px
        um per pixel of that image. When not given it is measured: the slide fixes the spots' pitch at 100 um. Checked against the
        pitch when given.
    section, patient
        Names to give; the section's defaults to the sample name in the counts, then to the folder's.
    gene_names
        ``"symbol"`` or ``"ensembl"``. The identifiers are in ``var["gene_ids"]`` in any case.

    Returns
    -------
    AnnData
        The layout of :mod:`expressor.data.keys`, spots under tissue, with ``array_row`` and ``array_col`` in ``obs``.

    Raises
    ------
    DataError
        A part is missing; positions, scale factors and images contradict each other.
    FormatError
        A file is damaged or of another layout.
    """
    folder = files.find(folder, what="Space Ranger folder")
    counts = read_tenx(folder, gene_names=gene_names)
    spatial = folder / "spatial"
    table = _read_positions(spatial)
    factors = tables.read_factors(files.find(spatial / "scalefactors_json.json", what="scale factors"))
    name = section or counts.library or _folder_name(folder)
    table = match_barcodes(table, counts, where=folder)
    pixels = table[["pxl_col_in_fullres", "pxl_row_in_fullres"]].to_numpy()
    # Every second column of every second row holds a spot: rows are 100 um times sin 60 degrees apart.
    array_um = table[["array_col", "array_row"]].to_numpy() * [PITCH_UM / 2, PITCH_UM * math.sqrt(0.75)]
    fit = fit_array(array_um, pixels, where=f"section {name!r}")
    stated = um_per_px if um_per_px is not None else factors.get(keys.UM_PER_PX)
    scale = settle_scale(stated, fit, where=f"section {name!r}", consent=True)
    diameter = factors.get(keys.SPOT_DIAMETER)
    if diameter is None:
        raise FormatError(f"{spatial / 'scalefactors_json.json'} has no {keys.SPOT_DIAMETER!r}")
    if not any(abs(math.log(diameter * scale / one)) < math.log(1.15) for one in STATED_DIAMETER_UM):
        raise DataError(
            f"the scale factors of section {name!r} do not fit its positions",
            expected=f"a spot diameter of about {STATED_DIAMETER_UM[0] / scale:.1f} px ({STATED_DIAMETER_UM[0]:g} um)",
            got=f"{keys.SPOT_DIAMETER} = {diameter:.1f} px",
            fix="Positions and scalefactors_json.json are of different runs or images; use those of one run.",
        )
    return assemble(
        counts.counts,
        genes=counts.genes,
        ids=counts.ids,
        spots=counts.barcodes,
        obs={key: table[key].to_numpy() for key in ("array_row", "array_col")},
        pixels=pixels,
        section=name,
        patient=patient,
        um_per_px=scale,
        spot_diameter_px=diameter,
        pitch_um=PITCH_UM,
        technology="Visium",
        picture=find_picture(spatial, factors, image),
    )


def _folder_name(folder: Path) -> str:
    folder = folder.resolve()
    return folder.parent.name if folder.name == "outs" else folder.name


def find_picture(spatial: Path, factors: dict[str, float], image: str | os.PathLike[str] | None) -> Picture:
    """Return the pictures of a Space Ranger folder ``spatial``: the hires one where it is there, and the given ``image``."""
    small = next(
        (one for one in (spatial / f"tissue_hires_image.{end}" for end in ("png", "jpg")) if one.is_file()), None
    )
    scale = factors.get(keys.HIRES_SCALE)
    if small is None or scale is None:
        return Picture(path=image)
    return Picture(path=image, hires=read_picture(small), hires_scale=scale)


def _read_positions(spatial: Path) -> pd.DataFrame:
    """Return the positions of all spots; with (Space Ranger 2 on) and without (version 1) a header, told from the content."""
    path = next(
        (one for one in (spatial / "tissue_positions.csv", spatial / "tissue_positions_list.csv") if one.is_file()),
        None,
    )
    if path is None:
        raise DataError(
            f"there are no spot positions in {spatial}", expected="tissue_positions.csv or tissue_positions_list.csv"
        )
    text = tables.read_text(path)
    has_header = text.lstrip(b"\xef\xbb\xbf").startswith(b"barcode")
    table = tables.parse_columns(text, path=path, sep=",", names=None if has_header else _COLUMNS)
    return check_positions(table, path=path)


def check_positions(table: pd.DataFrame, *, path: Path) -> pd.DataFrame:
    """Return a table of positions with numbers in its columns, by barcode.

    Raises
    ------
    FormatError
        A column is missing, a cell is no number, ``in_tissue`` is not 0 or 1, or a barcode stands twice.
    """
    tables.need_columns(table, _COLUMNS, path=path)
    checked = pd.DataFrame(
        {key: tables.numbers(table, key, path=path, whole=not key.startswith("pxl")) for key in _COLUMNS[1:]},
        index=pd.Index(table["barcode"].astype(str), name=None),
    )
    if not checked["in_tissue"].isin((0, 1)).all():
        raise FormatError(
            f"column 'in_tissue' of {path} is no choice", expected="0 or 1", got=int(checked["in_tissue"].max())
        )
    if checked.index.has_duplicates:
        raise FormatError(f"{path} has the barcode {checked.index[checked.index.duplicated()][0]!r} twice")
    return checked


def match_barcodes(table: pd.DataFrame, counts: TenxCounts, *, where: Path) -> pd.DataFrame:
    """Return the positions of the counted barcodes, in the order of the counts.

    Raises
    ------
    DataError
        A barcode has no position, or lies off the tissue though the counts are the filtered ones.
    """
    place = table.index.get_indexer(pd.Index(counts.barcodes))
    if (place < 0).any():
        first = counts.barcodes[int(np.flatnonzero(place < 0)[0])]
        raise DataError(
            f"{int((place < 0).sum())} of {len(place)} barcodes of {where} have no position, such as {first!r}",
            expected=f"barcodes such as {table.index[0]!r}" if len(table) else "a position for each",
            fix="Counts and positions are of different samples; use those of one run.",
        )
    found = table.iloc[place]
    off = int((found["in_tissue"] == 0).sum())
    if off:
        logger.warning("%s: %d counted spots are marked as off the tissue; they are kept", where, off)
    return found
