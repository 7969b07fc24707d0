"""10x Visium HD: the binned outputs of Space Ranger."""

import math
import os
from pathlib import Path

import numpy as np
import pandas as pd
from anndata import AnnData

from expressor.core.errors import DataError, FormatError
from expressor.core.optional import need
from expressor.data import files, keys
from expressor.data.readers import tables
from expressor.data.readers.layout import assemble, fit_array, settle_scale
from expressor.data.readers.tenx import read_tenx
from expressor.data.readers.visium import check_positions, find_picture, match_barcodes


def read_visium_hd(
    folder: str | os.PathLike[str],
    *,
    bin_um: int = 16,
    image: str | os.PathLike[str] | None = None,
    um_per_px: float | None = None,
    section: str | None = None,
    patient: str | None = None,
    gene_names: str = "symbol",
) -> AnnData:
    """Read one bin size of a Visium HD section.

    Parameters
    ----------
    folder
        Space Ranger's ``outs``, its ``binned_outputs``, or one folder ``square_016um`` of them.
    bin_um
        Side of the bins in um: 2, 8, 16, or what was computed. Bins of 2 um hold too few counts for most uses.
    image
        The full-resolution microscope image that was given to Space Ranger.
    um_per_px
        um per pixel of that image; taken from ``scalefactors_json.json`` when not given, and checked against the bins either way.
    section, patient
        Names to give; the section's defaults to the sample name in the counts.
    gene_names
        ``"symbol"`` or ``"ensembl"``.

    Returns
    -------
    AnnData
        The layout of :mod:`expressor.data.keys`, bins under tissue.

    Raises
    ------
    DataError
        A part is missing or contradicts another.
    FormatError
        A file is damaged or of another layout.
    MissingExtra
        Positions are a parquet file and pyarrow is not installed.
    """
    folder = _find_bins(files.find(folder, what="Visium HD folder"), bin_um)
    spatial = folder / "spatial"
    factors = tables.read_factors(files.find(spatial / "scalefactors_json.json", what="scale factors"))
    size = factors.get("bin_size_um", float(bin_um))
    if size != bin_um:
        raise DataError(f"the bins of {folder} are of another size", expected=f"bin_um={bin_um}", got=f"{size:g} um",
                        fix=f"Ask for bin_um={size:g}.")  # fmt: skip
    counts = read_tenx(folder, gene_names=gene_names)
    name = section or counts.library or folder.resolve().parent.name
    table = match_barcodes(_read_positions(spatial), counts, where=folder)
    pixels = table[["pxl_col_in_fullres", "pxl_row_in_fullres"]].to_numpy()
    fit = fit_array(table[["array_col", "array_row"]].to_numpy() * float(bin_um), pixels, where=f"section {name!r}")
    stated = um_per_px if um_per_px is not None else factors.get(keys.UM_PER_PX)
    scale = settle_scale(stated, fit, where=f"section {name!r}", consent=True)
    diameter = factors.get(keys.SPOT_DIAMETER, bin_um / scale)
    if abs(math.log(diameter * scale / bin_um)) > math.log(1.15):
        raise DataError(
            f"the scale factors of section {name!r} do not fit its bins",
            expected=f"{keys.SPOT_DIAMETER} of about {bin_um / scale:.2f} px", got=f"{diameter:.2f} px",
            fix="Positions and scalefactors_json.json are of different bins; use those of one folder.",
        )  # fmt: skip
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
        pitch_um=float(bin_um),
        technology="Visium HD",
        picture=find_picture(spatial, factors, image),
    )


def _find_bins(folder: Path, bin_um: int) -> Path:
    wanted = f"square_{bin_um:03d}um"
    if (folder / "spatial").is_dir() and not (folder / "binned_outputs").is_dir():
        return folder
    root = folder / "binned_outputs" if (folder / "binned_outputs").is_dir() else folder
    if (root / wanted).is_dir():
        return root / wanted
    there = sorted(one.name for one in root.glob("square_*um"))
    raise DataError(
        f"there are no bins of {bin_um} um in {folder}",
        expected=f"a folder {wanted}",
        got=", ".join(there) or "no folder square_...um",
        fix="Read plain Visium with read_visium." if not there else "Ask for a bin size that is there.",
    )


def _read_positions(spatial: Path) -> pd.DataFrame:
    parquet, text = spatial / "tissue_positions.parquet", spatial / "tissue_positions.csv"
    if not parquet.is_file():
        if text.is_file():
            return check_positions(tables.read_columns(text, sep=","), path=text)
        raise DataError(f"there are no bin positions in {spatial}", expected=parquet.name)
    arrow = need("pyarrow.parquet", extra="spatial", purpose="read the bin positions of Visium HD (parquet)")
    with files.reading(parquet, "parquet"):
        with arrow.ParquetFile(parquet) as file:
            groups = [file.metadata.row_group(i) for i in range(file.metadata.num_row_groups)]
            declared = sum(max(one.total_byte_size, one.num_rows * 48) for one in groups)
            files.check_size(declared, parquet.stat().st_size, what=str(parquet))
            table = file.read().to_pandas()
    if not isinstance(table.index, pd.RangeIndex):
        table = table.reset_index()
    for column in table:
        if np.ndim(table[column].iloc[0] if len(table) else 0):
            raise FormatError(f"column {column!r} of {parquet} holds lists", expected="one value a bin")
    return check_positions(table, path=parquet)
