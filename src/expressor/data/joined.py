"""Several sources of cells as one, each with genes of its own; and the sources that a folder or a backed AnnData stands for."""

import os
from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from anndata import AnnData
from scipy import sparse

from expressor.core.errors import DataError, FormatError, GeneError
from expressor.data import files
from expressor.data.blocks import Blocks, GeneNames, OneSource, check_column, open_blocks
from expressor.data.entries import Room
from expressor.data.stored import StoredBlocks
from expressor.genes.vocab import GeneVocab

SOURCE = "source"
"""Column of ``obs`` with the name of the source, where there are several."""


class JoinedBlocks(Blocks):
    """Cells of several sources, one after another.

    A gene that a source did not measure has no counts there; :attr:`measured` tells it from a gene without counts.

    Parameters
    ----------
    sources
        What :func:`~expressor.data.open_blocks` takes, by name.
    layer
        Layer with the counts, of each.
    genes
        The vocabulary; all genes of any source, in order of first appearance, when not given.

    Raises
    ------
    DataError
        There is no source.
    GeneError
        A source shares no gene with the vocabulary, or with those before it.
    """

    parts: list[OneSource]

    def __init__(self, sources: Mapping[str, Any], *, layer: str | None = None, genes: GeneNames = None) -> None:
        if not sources:
            raise DataError("no source of cells was given", expected="at least one")
        opened = {name: open_blocks(one, layer=layer) for name, one in sources.items()}
        parts: list[OneSource] = []
        self.source_names: list[str] = []
        for name, one in opened.items():
            held: list[Any] = list(one.parts) if isinstance(one, JoinedBlocks) else [one]
            for part in held:
                if not isinstance(part, OneSource):
                    raise DataError(f"{name!r} cannot be joined with others", got=type(part).__name__)
                parts.append(part)
            inner = [f"{name}/{of}" for of in one.source_names] if isinstance(one, JoinedBlocks) else [name]
            self.source_names += inner
        self.parts = parts
        if genes is None:
            genes = _unite(parts)
        self.genes = genes if isinstance(genes, GeneVocab) else GeneVocab(genes)
        for part in parts:
            part.align_to(self.genes)
        self.alignments = tuple(part.alignments[0] for part in parts)
        self.where = parts[0].where if len(parts) == 1 else f"{len(parts)} sources of cells"
        self._starts = np.concatenate([[0], np.cumsum([len(part) for part in parts])])

    def __len__(self) -> int:
        return int(self._starts[-1])

    @cached_property
    def obs(self) -> pd.DataFrame:
        """One row a cell, with the column :data:`SOURCE`; a column that a source lacks is missing for its cells."""
        tables = [part.obs for part in self.parts]
        names = list(dict.fromkeys(str(name) for table in tables for name in table.columns))
        index = pd.Index(np.concatenate([np.asarray(table.index, dtype=object) for table in tables]))
        if not index.is_unique:
            index = pd.Index([f"{name}-{at}" for name, at in zip(index, self.source_of(np.arange(len(self))))])
        columns = {
            name: _join([table.get(name) for table in tables], self._lengths) for name in names if name != SOURCE
        }
        return pd.DataFrame(columns | {SOURCE: self.column(SOURCE).array}, index=index)

    @property
    def _lengths(self) -> list[int]:
        return [len(part) for part in self.parts]

    def column(self, name: str) -> pd.Series:
        """Return one column of ``obs``; missing where a source lacks it."""
        if name == SOURCE:
            codes = np.repeat(np.arange(len(self.parts)), self._lengths)
            return pd.Series(pd.Categorical.from_codes(codes, pd.Index(self.source_names)), name=SOURCE)
        found: list[pd.Series | None] = []
        for part in self.parts:
            try:
                found.append(part.column(name))
            except DataError:
                found.append(None)
        if all(one is None for one in found):
            columns = {str(column) for part in self.parts for column in part.obs.columns}
            check_column(name, sorted(columns), where=self.where)
        return pd.Series(_join(found, self._lengths), name=name)

    @property
    def _entries(self) -> np.ndarray:
        return np.concatenate([part._entries for part in self.parts])

    def _load(self, rows: np.ndarray, room: Room) -> tuple[sparse.csr_matrix, np.ndarray]:
        bounds = np.searchsorted(rows, self._starts)
        alone = (np.diff(bounds) > 0).sum() == 1  # else parts are copied when they are joined
        found = [
            part.load(rows[low:high] - start, room=room if alone else None)
            for part, low, high, start in zip(self.parts, bounds[:-1], bounds[1:], self._starts)
            if high > low
        ]
        if len(found) == 1:
            return found[0]
        if not found:
            return sparse.csr_matrix((0, len(self.genes)), dtype=np.float32), np.zeros(0, dtype=np.float32)
        return sparse.vstack([one[0] for one in found], format="csr"), np.concatenate([one[1] for one in found])

    def source_of(self, rows: np.ndarray) -> np.ndarray:
        """Return int64 (cell,), the source of each row: a row of :attr:`measured`, a place in ``source_names``."""
        return np.searchsorted(self._starts, np.asarray(rows), side="right") - 1

    def report(self) -> str:
        """Say how the genes of each source line up with the vocabulary, a line each."""
        return "\n".join(f"{name}: {one.report()}" for name, one in zip(self.source_names, self.alignments))


def _unite(parts: Sequence[OneSource]) -> GeneVocab:
    """Return all genes of the parts in order of first appearance."""
    seen: dict[str, None] = dict.fromkeys(parts[0].names)
    for part in parts[1:]:
        if not any(name in seen for name in part.names):
            hint = GeneVocab(seen, "mixed").align(part.names).hint
            raise GeneError(
                f"{part.where} shares no gene with the sources before it", expected=f"names such as {parts[0].names[0]!r}",
                got=repr(part.names[0]), fix=hint or "Bring all to one species and one namespace.",
            )  # fmt: skip
        seen |= dict.fromkeys(part.names)
    return GeneVocab(seen)


def _join(columns: Sequence[pd.Series | None], lengths: Sequence[int]) -> Any:
    """Return one column after another, a category where one is; missing where a source has none."""
    kinds = [one.dtype for one in columns if one is not None]
    if any(isinstance(kind, pd.CategoricalDtype) or kind.kind == "O" for kind in kinds):
        parts = [np.full(n, None, dtype=object) if one is None else np.asarray(one, dtype=object)
                 for one, n in zip(columns, lengths)]  # fmt: skip
        return pd.Categorical(np.concatenate(parts))
    if all(one is not None for one in columns):
        return np.concatenate([np.asarray(one) for one in columns])
    missing = [np.full(n, np.nan) if one is None else np.asarray(one, dtype=float) for one, n in zip(columns, lengths)]
    return np.concatenate(missing)


def name_sources(data: Sequence[Any]) -> dict[str, Any]:
    """Return sources by name: the file's, or their number."""
    names = [Path(one).name if isinstance(one, str | os.PathLike) else str(at) for at, one in enumerate(data)]
    if len(set(names)) < len(names):
        names = [f"{at}-{name}" for at, name in enumerate(names)]
    return dict(zip(names, data))


def find_shards(path: Path) -> dict[str, Path]:
    """Return the h5ad files and zarr folders that a folder holds, by name; none where it is a store itself.

    A collection that annbatch wrote is a zarr group of such stores, which are read without annbatch, in the order of their numbers.
    """
    if not path.is_dir():
        return {}
    if any((path / name).is_file() for name in (".zgroup", ".zmetadata", "zarr.json")):
        return _find_datasets(path)
    return {one.name: one for one in sorted(path.iterdir())
            if one.suffix == ".h5ad" or (one.suffix == ".zarr" and one.is_dir())}  # fmt: skip


def _find_datasets(path: Path) -> dict[str, Path]:
    """Return the stores of a collection of annbatch: a group of encoding type ``annbatch-preshuffled`` with ``dataset_0``, ...

    Raises
    ------
    FormatError
        The group says that it is one and holds no such store.
    """
    import zarr

    with files.reading(path, "zarr"):
        attributes = dict(zarr.open_group(path, mode="r").attrs)
    if attributes.get("encoding-type") != "annbatch-preshuffled":
        return {}
    found = sorted(path.glob("dataset_[0-9]*"), key=lambda one: int(one.name.removeprefix("dataset_")))
    if not found:
        raise FormatError(f"the collection of annbatch {path} is empty", expected="folders dataset_0, dataset_1, ...")
    return {one.name: one for one in found}


def open_backed(adata: AnnData, *, layer: str | None, genes: GeneNames) -> Blocks:
    """Open the file behind a backed AnnData.

    Raises
    ------
    DataError
        It is a part of the file: rows are chosen where they are streamed.
    """
    if adata.is_view:
        raise DataError("a part of a backed AnnData cannot be read in blocks",
                        fix="Give the whole, and the rows wanted to Stream(rows=...).")  # fmt: skip
    return StoredBlocks(str(adata.filename), layer=layer, genes=genes)
