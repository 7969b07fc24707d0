"""Cells in an h5ad file or a zarr folder, read row by row: what is in memory is the row pointers and the rows asked for."""

import os
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from scipy import sparse

from expressor.core.errors import DataError, FormatError, nearest_names
from expressor.data import files
from expressor.data.blocks import LOOKED_AT, GeneNames, OneSource, advise, check_column
from expressor.data.checks import check_counts
from expressor.data.entries import Room, open_entries
from expressor.data.keys import GENE_IDS

_TEXT = ("string-array", "nullable-string-array", "string")


class StoredBlocks(OneSource):
    """Cells of an AnnData on disk.

    Parameters
    ----------
    path
        An h5ad file or a zarr folder whose counts are kept by rows (CSR, or dense).
    layer
        Layer with the counts; ``X`` when not given.
    genes
        The vocabulary; the data's own genes when not given.

    Raises
    ------
    DataError
        Nothing is there; there is no such layer; counts are kept by columns, or are no counts.
    FormatError
        The file is truncated, damaged, or of another format.
    GeneError
        Genes repeat, or none is of the vocabulary.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        *,
        layer: str | None = None,
        genes: GeneNames = None,
    ) -> None:
        self.path = files.find(path, what="data file")
        self._what = "AnnData in zarr" if self.path.is_dir() else "AnnData in HDF5 (h5ad)"
        where = os.fspath(path)
        self._store = _open(self.path)
        with files.reading(self.path, self._what):
            for name in ("obs", "var"):
                if name not in self._store:
                    raise FormatError(f"{where} holds no AnnData", expected=f"a table {name!r}")
            var = _read(self._store["var"])
            ids = var[GENE_IDS].astype(str) if GENE_IDS in var else None
            self._counts = _Rows(_find_layer(self._store, layer, where), where)
        self._set_genes(tuple(map(str, var.index)), genes, where, ids=ids)
        if self._counts.shape[1] != len(self.names):
            raise FormatError(f"the matrix of {where} does not fit its genes", expected=f"{len(self.names)} columns",
                              got=self._counts.shape[1])  # fmt: skip
        if not len(self):
            raise DataError(f"{where} holds no observations", expected="at least one row")
        self._look()

    def __len__(self) -> int:
        return self._counts.shape[0]

    @cached_property
    def obs(self) -> pd.DataFrame:
        """One row a cell: the columns of numbers, truth values and categories; columns of free text are left on disk."""
        with files.reading(self.path, self._what):
            table = self._store["obs"]
            if "column-order" not in table.attrs:
                return _read(table)
            index = [str(one) for one in _read(table[table.attrs["_index"]])]
            light = [name for name in self._columns if table[name].attrs.get("encoding-type") not in _TEXT]
            found = pd.DataFrame({name: self.column(name).array for name in light}, index=pd.Index(index, dtype=object))
        if len(found) != len(self):
            raise FormatError(
                f"obs of {self.where} does not fit its matrix", expected=f"{len(self)} rows", got=len(found)
            )
        return found

    @property
    def _columns(self) -> list[str]:
        return [str(name) for name in self._store["obs"].attrs.get("column-order", ())]

    def column(self, name: str) -> pd.Series:
        """Return one column of ``obs`` without reading the others."""
        with files.reading(self.path, self._what):
            table = self._store["obs"]
            if "column-order" not in table.attrs:
                check_column(name, self.obs.columns, where=self.where)
                return self.obs[name]
            check_column(name, self._columns, where=self.where)
            return pd.Series(_read(table[name]), name=name)

    @property
    def _entries(self) -> np.ndarray:
        return self._counts.entries()

    def _load(self, rows: np.ndarray, room: Room) -> tuple[sparse.csr_matrix, np.ndarray]:
        with files.reading(self.path, self._what):
            data, indices, indptr = self._counts.read(rows, room)
        return self._align(data, indices, indptr, room)

    def _look(self) -> None:
        """Refuse what holds no counts before any work, and say where in the file counts are, if they are."""
        n = len(self)
        part = max(1, LOOKED_AT // 3)
        rows = np.unique(np.concatenate([start + np.arange(part) for start in (0, n // 2, max(0, n - part))]))
        with files.reading(self.path, self._what):
            data = self._counts.read(rows[rows < n], Room())[0]
            layers = {f"layer={name!r}": node for name, node in _children(self._store, "layers")}
            raw = [("adata.raw.to_adata()", node) for name, node in _children(self._store, "raw") if name == "X"]
            others = {name: _Peek(node, self.where) for name, node in (*layers.items(), *raw)}
        if not np.array_equal(data, np.floor(data)) or (data < 0).any():
            check_counts(data[None], where=f"the matrix of {self.where}", fix=advise(others))


class _Rows:
    """Rows of a matrix on disk, CSR or dense."""

    def __init__(self, node: Any, where: str) -> None:
        kind = str(node.attrs.get("encoding-type", node.attrs.get("h5sparse_format", "array")))
        if "csc" in kind:
            raise DataError(
                f"the matrix of {where} is kept by genes (CSC), so that a cell cannot be read alone",
                fix="Write it once by cells: adata.X = adata.X.tocsr(), then adata.write_h5ad(...).",
            )
        self._where = where
        self._dense = None if "csr" in kind else node
        if self._dense is not None:
            if len(getattr(node, "shape", ())) != 2:
                raise FormatError(
                    f"{where} holds no matrix", expected="a sparse or dense matrix (cell, gene)", got=kind
                )
            self.shape = tuple(map(int, node.shape))
            return
        self._data, self._indices = open_entries(node["data"]), open_entries(node["indices"])
        self._indptr = np.asarray(node["indptr"][:], dtype=np.int64)
        shape = node.attrs.get("shape", node.attrs.get("h5sparse_shape"))
        self.shape = (len(self._indptr) - 1, int(shape[1]))
        ends = (int(self._indptr[0]), int(self._indptr[-1])) if len(self._indptr) else (0, 0)
        held = (len(self._data), len(self._indices))
        if (
            int(shape[0]) != self.shape[0]
            or ends[0] != 0
            or held != (ends[1], ends[1])
            or (np.diff(self._indptr) < 0).any()
        ):
            raise FormatError(f"the sparse matrix of {where} is damaged", expected=f"{shape[0]} rows of {held[0]} values",
                              got=f"row pointers for {self.shape[0]} rows of {ends[1]}")  # fmt: skip

    def entries(self) -> np.ndarray:
        """Return how many values each row holds; 1 where the matrix is dense."""
        return np.ones(self.shape[0], dtype=np.int64) if self._dense is not None else np.diff(self._indptr)

    def read(self, rows: np.ndarray, room: Room) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Return values, gene positions and row pointers of rows that rise."""
        if self._dense is not None:
            runs = np.split(rows, np.flatnonzero(np.diff(rows) > 1) + 1)
            parts = [self._dense[run[0] : run[-1] + 1] for run in runs if len(run)]
            found = sparse.csr_matrix(
                np.concatenate(parts) if parts else np.zeros((0, self.shape[1]), dtype=np.float32)
            )
            return found.data, found.indices, found.indptr
        starts, ends = self._indptr[rows], self._indptr[rows + 1]
        indptr = np.concatenate([[0], np.cumsum(ends - starts)])
        gaps = starts[1:] != ends[:-1]
        lows, highs = starts[np.append(len(rows) > 0, gaps)[: len(rows)]], ends[np.append(gaps, True)[: len(rows)]]
        size = int(indptr[-1])
        data, indices = (room.take("data", size, self._data.dtype), room.take("indices", size, self._indices.dtype))
        self._data.fill(lows, highs, data)
        self._indices.fill(lows, highs, indices)
        return data, indices, indptr


class _Peek:
    """The first rows of a matrix on disk, taken by a slice like those of one in memory."""

    def __init__(self, node: Any, where: str) -> None:
        self._node, self._where = node, where

    def __getitem__(self, rows: slice) -> np.ndarray:
        try:
            held = _Rows(self._node, self._where)
        except DataError:
            return np.array([0.5])
        return held.read(np.arange(held.shape[0])[rows], Room())[0]


def _open(path: Path) -> Any:
    """Check the store and open it for reading."""
    if path.is_dir():
        import zarr

        files.check_zarr(path, whole=False)
        with files.reading(path, "zarr"):
            return zarr.open_group(path, mode="r")
    import h5py

    files.check_hdf5(path, whole=False)
    with files.reading(path, "HDF5"):
        return h5py.File(path, "r")


def _read(node: Any) -> Any:
    from anndata.io import read_elem

    return read_elem(node)


def _children(store: Any, name: str) -> list[tuple[str, Any]]:
    return [(str(key), store[name][key]) for key in store[name]] if name in store else []


def _find_layer(store: Any, layer: str | None, where: str) -> Any:
    if layer is None:
        if "X" not in store:
            raise DataError(
                f"{where} holds no expression: X is empty", fix="Name the layer with the counts with layer=."
            )
        return store["X"]
    layers = dict(_children(store, "layers"))
    if layer not in layers:
        raise DataError(f"there is no layer {layer!r} in {where}", nearest=nearest_names(layer, layers),
                        fix="The layers are: " + (", ".join(map(repr, layers)) or "none") + ".")  # fmt: skip
    return layers[layer]
