"""Cells as blocks of sparse rows, wherever they are kept: in memory, in one file, in several, in a folder of shards.

:func:`open_blocks` gives :class:`Blocks`, from which any rows can be read in the order of one gene vocabulary. What is read is
checked: raw counts, indices within the matrix. Nothing but row pointers (8 bytes a cell) and the columns of ``obs`` that are asked
for is kept in memory of what is on disk.
"""

import os
from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from anndata import AnnData
from scipy import sparse

from expressor.core.errors import DataError, FormatError, GeneError, nearest_names
from expressor.data import fields, files
from expressor.data.checks import check_counts, is_counts
from expressor.data.entries import Room
from expressor.data.keys import GENE_IDS
from expressor.genes.ids import check_gene_names, detect_namespace
from expressor.genes.vocab import Alignment, GeneVocab

LOOKED_AT = 256
"""Cells whose values are looked at when a source is opened."""
_ROWS = 4096  # cells read at a time where all are


GeneNames = GeneVocab | Iterable[str] | None
"""A vocabulary, names for one, or None for the data's own genes."""


def open_blocks(data: Any, *, layer: str | None = None, genes: GeneNames = None) -> "Blocks":
    """Open cells for reading in blocks.

    Parameters
    ----------
    data
        An AnnData in memory or backed; the path of an h5ad file, of a zarr folder, of a folder of such shards (read in the order
        of their names), of a collection that annbatch wrote, or of a text table; a table or array as
        :func:`expressor.data.read` takes them; a list of any of these, or a dictionary that names them, as one; or blocks, which
        are returned.
    layer
        Layer with the raw counts; ``X`` when not given.
    genes
        The vocabulary. When not given: the source's own genes, or all genes of any source, in order of first appearance.

    Raises
    ------
    DataError
        Nothing is there, or it holds no raw counts: the message says where in the data counts are, if they are.
    FormatError
        A file is truncated, damaged, or of another format.
    GeneError
        Genes repeat, or a source and the vocabulary (or the other sources) have none in common.
    """
    from expressor.data import joined, stored

    if isinstance(data, Blocks):
        if layer is not None or genes is not None:
            raise DataError("blocks have a layer and a vocabulary already", fix="Leave layer= and genes= out.")
        return data
    if isinstance(data, Mapping):
        return joined.JoinedBlocks({str(name): one for name, one in data.items()}, layer=layer, genes=genes)
    if isinstance(data, list | tuple):
        return joined.JoinedBlocks(joined.name_sources(data), layer=layer, genes=genes)
    if isinstance(data, AnnData) and data.isbacked:
        return joined.open_backed(data, layer=layer, genes=genes)
    if isinstance(data, str | os.PathLike):
        path = files.find(data, what="data file or folder")
        shards = joined.find_shards(path)
        if shards:
            return joined.JoinedBlocks(shards, layer=layer, genes=genes)
        if path.is_dir() or path.suffix in (".h5ad", ".h5"):
            return stored.StoredBlocks(path, layer=layer, genes=genes)
    return MemoryBlocks(data if isinstance(data, AnnData) else fields.read(data), layer=layer, genes=genes)


def is_read_in_parts(data: Any) -> bool:
    """Whether ``data`` are on disk, or several sources, or blocks: what :func:`open_blocks` reads in parts."""
    from expressor.data.tabular import is_table

    if isinstance(data, AnnData):
        return bool(data.isbacked)
    if isinstance(data, str | os.PathLike):
        return not is_table(Path(data))
    return isinstance(data, Blocks | Mapping | list | tuple)


class Blocks(ABC):
    """Rows of cells, read where they are wanted, columns in the order of ``genes``.

    Attributes
    ----------
    genes
        The vocabulary.
    where
        What the cells come from, for messages.
    alignments
        How the genes of each source line up with the vocabulary.
    """

    genes: GeneVocab
    where: str
    alignments: tuple[Alignment, ...]

    @abstractmethod
    def __len__(self) -> int: ...

    @property
    @abstractmethod
    def obs(self) -> pd.DataFrame:
        """One row a cell: the columns of numbers, truth values and categories."""

    @abstractmethod
    def column(self, name: str) -> pd.Series:
        """Return one column of ``obs`` without reading the others.

        Raises
        ------
        DataError
            There is no such column.
        """

    @abstractmethod
    def _load(self, rows: np.ndarray, room: Room) -> tuple[sparse.csr_matrix, np.ndarray]:
        """Return CSR (cell, gene) and library sizes of rows that rise and are there."""

    def load(self, rows: np.ndarray | slice, *, room: Room | None = None) -> tuple[sparse.csr_matrix, np.ndarray]:
        """Read cells.

        Parameters
        ----------
        rows
            Positions from 0, in any order, also repeated; reading is fastest where they are neighbours.
        room
            Memory to read into: a matrix that was read into it before is overwritten. New memory when not given.

        Returns
        -------
        matrix
            float32 CSR (cell, gene) without stored zeros, genes of a row in the vocabulary's order.
        library_size
            float32 (cell,): counts over all genes of the source, also those outside the vocabulary.

        Raises
        ------
        DataError
            A row is not there, or holds no raw counts.
        FormatError
            The source is damaged.
        """
        wanted = np.arange(len(self))[rows] if isinstance(rows, slice) else np.asarray(rows, dtype=np.int64)
        if len(wanted) and (wanted.min() < 0 or wanted.max() >= len(self)):
            raise DataError(f"rows of {self.where} are out of range", expected=f"0 to {len(self) - 1}",
                            got=f"{wanted.min()} to {wanted.max()}")  # fmt: skip
        room = Room() if room is None else room
        if (np.diff(wanted) > 0).all():
            return self._load(wanted, room)
        distinct, places = np.unique(wanted, return_inverse=True)
        matrix, size = self._load(distinct, room)
        return matrix[places], size[places]

    def read(self, rows: np.ndarray | slice) -> sparse.csr_matrix:
        """Return the cells' counts alone; see :meth:`load`."""
        return self.load(rows)[0]

    def library_size(self, rows: np.ndarray | slice) -> np.ndarray:
        """Return the cells' library sizes alone; see :meth:`load`."""
        return self.load(rows)[1]

    @cached_property
    def measured(self) -> np.ndarray:
        """Which genes of the vocabulary each source measured, bool (source, gene)."""
        return np.stack([one.index >= 0 for one in self.alignments])

    @property
    @abstractmethod
    def _entries(self) -> np.ndarray:
        """Stored values of each cell, int64 (cell,), from row pointers; 1 where a cell would have to be read to know."""

    def check_filled(self, rows: np.ndarray | None = None) -> None:
        """Raise :class:`~expressor.core.errors.DataError` if row pointers tell of cells without counts; nothing is read.

        Parameters
        ----------
        rows
            Positions of the cells asked about; all by default.
        """
        wanted = np.arange(len(self)) if rows is None else np.asarray(rows, dtype=np.int64)
        self._refuse_empty(wanted, self._entries[wanted] == 0)

    def load_filled(self, rows: np.ndarray, *, room: Room | None = None) -> tuple[sparse.csr_matrix, np.ndarray]:
        """Return what :meth:`load` does, and refuse cells without counts in the vocabulary."""
        matrix, size = self.load(rows, room=room)
        self._refuse_empty(np.asarray(rows), np.diff(matrix.indptr) == 0)
        return matrix, size

    def _refuse_empty(self, rows: np.ndarray, empty: np.ndarray) -> None:
        if empty.any():
            raise DataError(
                f"{int(empty.sum()):,} of {len(rows):,} cells of {self.where} have no counts of any gene of the vocabulary",
                expected="at least one count a cell", got=f"none in row {rows[empty][0]}",
                fix="Leave such cells out, as with Stream(rows=blocks.filled()).",
            )  # fmt: skip

    def filled(self, *, at_once: int = 4096) -> np.ndarray:
        """Return the positions of cells with counts in the vocabulary, int64, rising; reads every cell once.

        Parameters
        ----------
        at_once
            Cells in memory at a time, >= 1.
        """
        found = []
        for start in range(0, len(self), at_once):
            rows = np.arange(start, min(start + at_once, len(self)))
            found.append(rows[np.diff(self.read(rows).indptr) > 0])
        return np.concatenate(found) if found else np.zeros(0, dtype=np.int64)

    def source_of(self, rows: np.ndarray) -> np.ndarray:
        """Return int64 (cell,), the source of each row: a row of :attr:`measured`."""
        return np.zeros(len(rows), dtype=np.int64)

    def fingerprint(self) -> str:
        """Return the hash of names and counts: that of :func:`expressor.data.fingerprint` where the genes are the source's own."""
        n = len(self)
        rows = (self.read(slice(start, min(n, start + _ROWS))) for start in range(0, n, _ROWS))
        return fields.fingerprint_rows(self.obs.index, self.genes, rows)

    def report(self) -> str:
        """Say how the genes of each source line up with the vocabulary."""
        return f"{self.where}: {self.alignments[0].report()}"


class OneSource(Blocks):
    """A source with genes of its own, brought to the vocabulary's order.

    Attributes
    ----------
    names
        Its own genes.
    """

    names: tuple[str, ...]

    def _set_genes(
        self, names: Sequence[str], genes: GeneNames, where: str, *, ids: Iterable[str] | None = None
    ) -> None:
        check_gene_names(names, where=where, ids=ids)
        self.where = where
        self.names = tuple(names)
        if genes is None:
            genes = GeneVocab(names, None if ids is None else detect_namespace(names))
        self.align_to(genes if isinstance(genes, GeneVocab) else GeneVocab(genes))

    def align_to(self, genes: GeneVocab) -> None:
        """Give columns in the order of another vocabulary from now on.

        Raises
        ------
        GeneError
            None of its genes is there.
        """
        alignment = genes.align(self.names)
        if not alignment.matched:
            raise GeneError(
                f"no gene of the vocabulary is in {self.where}", expected=f"names such as {genes[0]!r}",
                got=repr(self.names[0]), fix=alignment.hint or "Check species and namespace of both.",
            )  # fmt: skip
        self.genes, self.alignments = genes, (alignment,)
        self.__dict__.pop("measured", None)
        self._target = np.full(len(self.names), -1, dtype=np.int32)
        there = alignment.index >= 0
        self._target[alignment.index[there]] = np.flatnonzero(there)
        self._is_in_order = len(genes) == len(self.names) and bool((self._target == np.arange(len(genes))).all())

    def _align(
        self, data: np.ndarray, indices: np.ndarray, indptr: np.ndarray, room: Room
    ) -> tuple[sparse.csr_matrix, np.ndarray]:
        """Check rows with the source's own genes; return them with the vocabulary's, and their library sizes."""
        from expressor.data import aligning  # numba takes a moment to import

        data = data if data.dtype in (np.float32, np.float64) else data.astype(np.float64)
        size = np.empty(len(indptr) - 1, dtype=np.float32)
        found = aligning.check_rows(data, indices, indptr, len(self._target), size)
        if found & aligning.NO_GENE:
            raise FormatError(f"the sparse matrix of {self.where} is damaged", expected=f"gene positions below {len(self.names)}",
                              got=f"{indices.min()} to {indices.max()}")  # fmt: skip
        if found & aligning.NO_COUNT:
            check_counts(data[None], where=f"the matrix of {self.where}")
        shape = (len(size), len(self.genes))
        if self._is_in_order and not found & aligning.NOT_PLAIN:
            matrix = sparse.csr_matrix((data.astype(np.float32, copy=False), indices, indptr), shape=shape)
            matrix.has_sorted_indices = matrix.has_canonical_format = True
            return matrix, size
        values = room.take("values", len(data), np.dtype(np.float32))
        places = room.take("places", len(data), np.dtype(np.int32))
        starts = np.empty(len(indptr), dtype=np.int32)
        aligning.align_rows(data, indices, indptr, self._target, values, places, starts)
        matrix = sparse.csr_matrix((values[: starts[-1]], places[: starts[-1]], starts), shape=shape)
        matrix.sum_duplicates()
        return matrix, size


class MemoryBlocks(OneSource):
    """Cells of an AnnData in memory.

    Parameters
    ----------
    adata
        Raw counts, CSR, CSC or dense. Other formats than CSR are converted once.
    layer
        Layer with the counts; ``X`` when not given.
    genes
        The vocabulary; the data's own genes when not given.
    """

    def __init__(self, adata: AnnData, *, layer: str | None = None, genes: GeneNames = None) -> None:
        ids = adata.var[GENE_IDS].astype(str) if GENE_IDS in adata.var else None
        self._set_genes(tuple(map(str, adata.var_names)), genes, "the AnnData", ids=ids)
        given = adata.X if layer is None else adata.layers.get(layer)
        if given is not None and not is_counts(given):
            held = {f"layer={name!r}": one for name, one in adata.layers.items()}
            held |= {} if adata.raw is None else {"adata.raw.to_adata()": adata.raw.X}
            check_counts(given, where="the matrix of the AnnData", fix=advise(held))
        counts = fields.counts_of(adata, layer=layer)
        self._counts = sparse.csr_matrix(counts)
        self._adata = adata

    def __len__(self) -> int:
        return self._counts.shape[0]

    @property
    def obs(self) -> pd.DataFrame:
        """One row a cell."""
        return self._adata.obs

    def column(self, name: str) -> pd.Series:
        """Return one column of ``obs``."""
        check_column(name, self._adata.obs.columns, where=self.where)
        return self._adata.obs[name]

    @property
    def _entries(self) -> np.ndarray:
        return np.diff(self._counts.indptr).astype(np.int64)

    def _load(self, rows: np.ndarray, room: Room) -> tuple[sparse.csr_matrix, np.ndarray]:
        part = self._counts[rows]
        return self._align(part.data, part.indices, part.indptr, room)


def check_column(name: str, columns: Iterable[str], *, where: str) -> None:
    """Raise :class:`~expressor.core.errors.DataError` unless ``name`` is one of the columns of ``obs``."""
    columns = list(map(str, columns))
    if name not in columns:
        raise DataError(f"there is no column {name!r} in obs of {where}", nearest=nearest_names(name, columns),
                        fix="The columns are: " + (", ".join(columns[:20]) or "none") + ".")  # fmt: skip


def advise(held: Mapping[str, Any]) -> str | None:
    """Return advice that names the first of these matrices that holds counts, if one does."""
    found = next((name for name, one in held.items() if is_counts(one[:LOOKED_AT])), None)
    return None if found is None else f"There are raw counts beside it: give {found}."
