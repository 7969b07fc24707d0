"""Spatial Transcriptomics as published before Visium: a table of counts, a table of spots, and a picture."""

import os
import re
from pathlib import Path

import numpy as np
import pandas as pd
from anndata import AnnData
from scipy import sparse

from expressor.core.errors import DataError, FormatError, check_range
from expressor.core.log import logger
from expressor.data import files
from expressor.data.readers import tables
from expressor.data.readers.layout import Picture, assemble, fit_array, settle_scale
from expressor.data.spatial import pitch_px
from expressor.genes.ids import check_gene_names

_SPOT = re.compile(r"-?\d{1,6}x-?\d{1,6}")


def read_legacy_st(
    counts: str | os.PathLike[str],
    spots: str | os.PathLike[str],
    image: str | os.PathLike[str] | None,
    *,
    section: str,
    patient: str | None = None,
    um_per_px: float | str | None = None,
    array_unit_um: float = 200.0,
    spot_diameter_um: float = 100.0,
) -> AnnData:
    """Read one section of legacy Spatial Transcriptomics.

    Parameters
    ----------
    counts
        Tab-separated table, plain or gzipped: rows are spots named ``<x>x<y>``, columns genes.
    spots
        Tab-separated table with columns ``x y new_x new_y pixel_x pixel_y`` and, where spots were selected, ``selected`` (0 or 1):
        position on the array, adjusted position on the array, position in full-resolution pixels.
    image
        The full-resolution picture that the pixel positions are in; None where there is none.
    section, patient
        Names to give.
    um_per_px
        um per pixel of that picture. The published tables do not tell it. ``"from_pitch"`` takes it from the spots: one unit of
        the array is ``array_unit_um``. A number is checked against that.
    array_unit_um
        um that one unit of ``x`` and ``y`` spans: 200 on the arrays with 1,007 spots.
    spot_diameter_um
        Diameter of a spot in um.

    Returns
    -------
    AnnData
        The layout of :mod:`expressor.data.keys`, with ``array_x``, ``array_y`` in ``obs``; spots in the order of the count
        table. Spots that are not selected, or that stand in one table only, are left out; the log says how many.

    Raises
    ------
    DataError
        The scale is not known or contradicts the pitch; positions lie outside the picture; the tables share no spot.
    FormatError
        A file is damaged or of another layout.
    GeneError
        Gene names are repeated, empty, or from several namespaces.
    """
    check_range(array_unit_um, name="array_unit_um", low=0, open_low=True)
    check_range(spot_diameter_um, name="spot_diameter_um", low=0, open_low=True)
    matrix, names, genes = _read_counts(files.find(counts, what="count table"))
    table = _read_spots(files.find(spots, what="spot table"))
    row = pd.Index(names).get_indexer(table.index)
    order = np.argsort(np.where(row < 0, len(names), row), kind="stable")[: int((row >= 0).sum())]
    if not len(order):
        flipped = {"x".join(reversed(one.split("x"))) for one in table.index} & set(names)
        raise DataError(
            f"count and spot table of section {section!r} share no spot",
            expected=f"spots such as {names[0]!r}", got=f"spots such as {table.index[0]!r}",
            fix="x and y are swapped in one of them." if flipped else "Give the two tables of one section.",
        )  # fmt: skip
    if len(order) < len(names) or len(order) < len(table):
        logger.warning(
            "section %s: %d spots are in both tables; %d without a position and %d without counts are left out",
            section, len(order), len(names) - len(order), len(table) - len(order),
        )  # fmt: skip
    table, kept = table.iloc[order], row[order]
    pixels = table[["pixel_x", "pixel_y"]].to_numpy()
    fit = fit_array(table[["new_x", "new_y"]].to_numpy() * array_unit_um, pixels, where=f"section {section!r}")
    if fit is not None and abs(fit.axes[0, 1]) > abs(fit.axes[0, 0]):
        raise DataError(
            f"pixel_x and pixel_y of section {section!r} are swapped", expected="pixel_x to grow with x and pixel_y with y",
            fix=f"Exchange the two columns of {os.fspath(spots)}.",
        )  # fmt: skip
    scale = settle_scale(um_per_px, fit, where=f"section {section!r}", consent=False)
    array = table[["x", "y"]].to_numpy()
    pitch = pitch_px(array.astype(np.float64)) * array_unit_um
    return assemble(
        matrix[kept],
        genes=genes,
        ids=None,
        spots=list(table.index),
        obs={"array_x": array[:, 0].astype(np.int64), "array_y": array[:, 1].astype(np.int64)},
        pixels=pixels,
        section=section,
        patient=patient,
        um_per_px=scale,
        spot_diameter_px=spot_diameter_um / scale,
        pitch_um=None if np.isnan(pitch) else pitch,
        technology="legacy ST",
        picture=Picture(path=image),
    )


def _read_counts(path: Path) -> tuple[sparse.csr_matrix, list[str], list[str]]:
    """Return counts (spot, gene), spot names, gene names of a count table."""
    text = tables.read_text(path)
    head, _, body = text.partition(b"\n")
    with files.reading(path, "a count table"):
        genes = head.decode("utf-8").rstrip("\r").split("\t")
    first = body.partition(b"\n")[0].count(b"\t")
    if first == 0:
        raise FormatError(f"{path} is no count table", expected="a tab-separated row for each spot",
                          got=repr(body[:40].decode("utf-8", "replace")))  # fmt: skip
    # Written with or without a cell above the spot names.
    genes = [one.strip('"') for one in (genes[1:] if len(genes) == first + 1 else genes)]
    if len(genes) != first:
        raise FormatError(
            f"{path} is no count table", expected=f"{first} gene names above {first} columns", got=len(genes)
        )
    if sum(bool(_SPOT.fullmatch(one)) for one in genes) > len(genes) / 2:
        raise FormatError(
            f"{path} has spots as columns", expected="rows are spots, columns genes", fix="Transpose the table."
        )
    check_gene_names(genes, where=str(path))
    values = _parse_counts(body, path)
    names = [str(one).strip('"') for one in values.iloc[:, 0]]
    odd = [one for one in names if not _SPOT.fullmatch(one)]
    if odd:
        raise FormatError(f"{len(odd)} rows of {path} are not named after a spot", expected="<x>x<y>, such as 10x21",
                          got=repr(odd[0][:40]))  # fmt: skip
    if len(set(names)) < len(names):
        raise FormatError(f"{path} has {len(names) - len(set(names))} spots twice", expected="one row a spot")
    return sparse.csr_matrix(values.iloc[:, 1:].to_numpy(dtype=np.float32)), names, genes


def _parse_counts(body: bytes, path: Path) -> pd.DataFrame:
    import io

    with files.reading(path, "a count table"):
        # Column numbers as names: pandas would rename genes that stand twice.
        values = pd.read_csv(io.BytesIO(body), sep="\t", header=None, na_filter=False)
    odd = [column for column, kind in zip(values.columns[1:], values.dtypes.iloc[1:]) if kind.kind not in "iuf"]
    if odd:
        cells = pd.to_numeric(values[odd[0]], errors="coerce")
        row = int(np.flatnonzero(cells.isna())[0]) if cells.isna().any() else 0
        raise FormatError(f"{len(odd)} columns of {path} hold cells that are no numbers",
                          got=f"{str(values[odd[0]].iloc[row])[:40]!r} in row {row + 1}, column {odd[0]}",
                          fix="The table is truncated or damaged; get it again from its source.")  # fmt: skip
    return values


def _read_spots(path: Path) -> pd.DataFrame:
    """Return the selected spots by name, with numbers in all columns."""
    wanted = ("x", "y", "new_x", "new_y", "pixel_x", "pixel_y")
    text = tables.read_columns(path, sep="\t")
    tables.need_columns(text, wanted, path=path)
    table = pd.DataFrame({name: tables.numbers(text, name, path=path, whole=name in ("x", "y")) for name in wanted})
    table.index = [f"{x}x{y}" for x, y in zip(table["x"], table["y"])]
    if "selected" in text:
        chosen = tables.numbers(text, "selected", path=path, whole=True)
        if not np.isin(chosen, (0, 1)).all():
            raise FormatError(f"column 'selected' of {path} is no choice", expected="0 or 1", got=int(chosen.max()))
        table = table[chosen == 1]
    if not len(table):
        raise FormatError(f"{path} selects no spot", expected="at least one row with selected = 1")
    if table.index.has_duplicates:
        raise FormatError(f"{path} has the spot {table.index[table.index.duplicated()][0]!r} twice")
    return table
