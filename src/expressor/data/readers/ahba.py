"""The Allen Human Brain Atlas as it is downloaded: a folder a donor, with five tables each, CSV or parquet; and RNA sequencing."""

import os
from collections.abc import Iterable
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from expressor.core.errors import DataError, FormatError, nearest_names
from expressor.core.optional import need
from expressor.data.guard import find, reading

PREFIX = "normalized_microarray_donor"
RNA_PREFIX = "rnaseq_donor"
ANNOTATION = ("structure_id", "slab_type", "well_id", "structure_acronym", "structure_name", "mni_x", "mni_y", "mni_z")
ONTOLOGY = ("id", "acronym", "name", "hemisphere", "structure_id_path")
PROBES = ("probe_id", "probe_name", "gene_symbol", "entrez_id")
_SUFFIXES = (".csv", ".csv.gz", ".parquet", ".parq")
_ROWS = 4000  # probes parsed at once


@dataclass(frozen=True, eq=False)
class Microarrays:
    """Raw probes of several donors.

    Attributes
    ----------
    probes
        A row a probe, index ``probe_id``: ``probe_name``, ``gene_symbol``, ``entrez_id``.
    ontology
        A row a structure, index ``id``: ``acronym``, ``name``, ``hemisphere``, ``structure_id_path``.
    samples
        Donor -> a row a sample, as the atlas annotates it.
    expression
        Donor -> float32 (probe, sample): log2 intensity.
    present
        Donor -> bool (probe, sample): above the background.
    """

    probes: pd.DataFrame
    ontology: pd.DataFrame
    samples: dict[str, pd.DataFrame]
    expression: dict[str, np.ndarray]
    present: dict[str, np.ndarray]


def read_microarrays(folder: str | os.PathLike[str], *, donors: Iterable[str] | None = None) -> Microarrays:
    """Read a folder of downloads of the Allen Human Brain Atlas.

    Parameters
    ----------
    folder
        A folder with ``normalized_microarray_donor<donor>`` for each donor, as the atlas and abagen lay it out, or one above it
        called ``microarray``. Each holds SampleAnnot, Probes, Ontology, MicroarrayExpression and PACall; the last two also as
        parquet (extra ``brain``).
    donors
        Some of the donors; all that are there when not given.

    Raises
    ------
    DataError
        No donor, an unknown one, or a table is missing.
    FormatError
        A table is damaged, lacks a column, or has another number of rows or columns than those it belongs to.
    """
    folder = find(folder, what="folder of the Allen Human Brain Atlas")
    root = folder / "microarray" if (folder / "microarray").is_dir() else folder
    there = {one.name.removeprefix(PREFIX): one for one in sorted(root.glob(f"{PREFIX}*")) if one.is_dir()}
    if not there:
        raise DataError(f"{root} holds no donor", expected=f"folders called {PREFIX}9861 and the like",
                        fix="Give the folder into which the downloads were unpacked.")  # fmt: skip
    wanted = list(there) if donors is None else [str(one) for one in donors]
    for donor in wanted:
        if donor not in there:
            raise DataError(f"{root} has no donor {donor!r}", expected="some of " + ", ".join(there),
                            nearest=nearest_names(donor, there))  # fmt: skip
    files = {donor: {name: _file(there[donor], name) for name in _TABLES} for donor in wanted}
    first = files[wanted[0]]
    probes = _table(first["Probes"], PROBES).set_index("probe_id")
    probes["entrez_id"] = pd.to_numeric(probes["entrez_id"], errors="coerce").astype("Int64")
    ontology = _table(first["Ontology"], ONTOLOGY).set_index("id")
    samples, expression, present = {}, {}, {}
    for donor in wanted:
        other = _table(files[donor]["Probes"], PROBES)["probe_id"]
        if not np.array_equal(other, probes.index):
            raise FormatError(f"{files[donor]['Probes']} lists other probes than that of donor {wanted[0]}")
        samples[donor] = _table(files[donor]["SampleAnnot"], ANNOTATION)
        unknown = samples[donor].loc[~samples[donor]["structure_id"].isin(ontology.index), "structure_id"]
        if len(unknown):
            raise FormatError(f"structure {unknown.iloc[0]} of donor {donor} is not in the ontology")
        shape = (len(probes), len(samples[donor]))
        expression[donor] = _matrix(files[donor]["MicroarrayExpression"], probes.index, shape)
        present[donor] = _matrix(files[donor]["PACall"], probes.index, shape) > 0.5
    return Microarrays(probes, ontology, samples, expression, present)


def read_rnaseq(folder: str | os.PathLike[str], *, donors: Iterable[str]) -> dict[str, pd.DataFrame]:
    """Read the RNA sequencing of those of the donors that were sequenced; the atlas has two.

    Parameters
    ----------
    folder
        Holds ``rnaseq_donor<donor>`` for some donor, or is one above a folder ``rnaseq`` that does, as the atlas and abagen lay it
        out; each with RNAseqTPM and SampleAnnot.
    donors
        Donors that are wanted.

    Returns
    -------
    dict
        Donor -> transcripts per million, mean over the samples of a structure: a row a gene, a column a ``structure_id``.

    Raises
    ------
    DataError
        None of the donors was sequenced, or a table is missing.
    FormatError
        A table is damaged, or the two do not fit each other.
    """
    folder = find(folder, what="folder of the Allen Human Brain Atlas")
    root = folder / "rnaseq" if (folder / "rnaseq").is_dir() else folder
    found = {}
    for donor in donors:
        own = root / f"{RNA_PREFIX}{donor}"
        if not own.is_dir():
            continue
        path, samples = _file(own, "RNAseqTPM"), _table(_file(own, "SampleAnnot"), ("ontology_structure_id",))
        with reading(path, "a table of numbers"):
            tpm = pd.read_csv(path, header=None, index_col=0).astype(np.float64)
        if tpm.shape[1] != len(samples):
            raise FormatError(f"{path} does not fit SampleAnnot", expected=f"{len(samples)} samples", got=tpm.shape[1])
        tpm = tpm[~tpm.index.duplicated()].rename(index=str)
        found[donor] = tpm.T.groupby(samples["ontology_structure_id"].to_numpy()).mean().T
    if not found:
        raise DataError(f"{root} holds no RNA sequencing of these donors",
                        expected=f"a folder {RNA_PREFIX}9861 or {RNA_PREFIX}10021",
                        fix="Unpack the atlas's RNA-Seq data sets beside the microarrays.")  # fmt: skip
    return found


_TABLES = ("SampleAnnot", "Probes", "Ontology", "MicroarrayExpression", "PACall")


def _file(folder: Path, name: str) -> Path:
    for suffix in _SUFFIXES:
        if (folder / f"{name}{suffix}").is_file():
            return folder / f"{name}{suffix}"
    raise DataError(
        f"the table {name} is missing in {folder}", expected=" or ".join(f"{name}{one}" for one in _SUFFIXES),
        got=", ".join(sorted(one.name for one in folder.iterdir())) or "an empty folder",
        fix="Unpack the donor's download again.",
    )  # fmt: skip


def _table(path: Path, columns: tuple[str, ...]) -> pd.DataFrame:
    with reading(path, "a table"):
        table = _parquet(path) if path.suffix.startswith(".parq") else pd.read_csv(path, low_memory=False)
    for name in columns:
        if name not in table:
            raise FormatError(f"{path} has no column {name!r}", nearest=nearest_names(name, map(str, table.columns)))
    return table


def _matrix(path: Path, probes: pd.Index, shape: tuple[int, int]) -> np.ndarray:
    """Return float32 (probe, sample) of a table without a header whose first column holds the probes' numbers."""
    values = np.empty(shape, dtype=np.float32)
    row = 0
    with reading(path, "a table of numbers"), ExitStack() as stack:
        parts = (
            iter([_parquet(path)]) if path.suffix.startswith(".parq")
            else stack.enter_context(pd.read_csv(path, header=None, chunksize=_ROWS, dtype={0: np.int64}))
        )  # fmt: skip
        for part in parts:
            table = part.to_numpy(dtype=np.float64)
            if table.shape[1] != shape[1] + 1 or row + len(table) > shape[0]:
                raise FormatError(
                    f"{path} does not fit the tables beside it", expected=f"{shape[0]} probes and {shape[1]} samples",
                    got=f"{table.shape[1] - 1} samples and at least {row + len(table)} probes",
                )  # fmt: skip
            if not np.array_equal(table[:, 0], probes[row : row + len(table)]):
                raise FormatError(f"{path} lists other probes than Probes", fix="The files are of different downloads.")
            values[row : row + len(table)] = table[:, 1:]
            row += len(table)
    if row != shape[0]:
        raise FormatError(f"{path} does not fit the tables beside it", expected=f"{shape[0]} probes", got=row)
    if not np.isfinite(values).all():
        raise FormatError(f"{path} holds {int((~np.isfinite(values)).sum())} values that are no numbers")
    return values


def _parquet(path: Path) -> pd.DataFrame:
    need("pyarrow", extra="brain", purpose="read parquet")
    return pd.read_parquet(path)
