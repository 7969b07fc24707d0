"""Stretches of a one-dimensional array on disk, read into memory that is there.

The general ways of h5py and zarr cost up to a millisecond a stretch; a shuffled epoch of a million cells reads as many.
"""

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from expressor.core.errors import FormatError
from expressor.data.guard import DAMAGED
from expressor.data.zarrs import declared_size

_GAP = 4096  # entries between two wanted stretches that are read along rather than skipped
_ABSENT = 2**64 - 1  # in the index of a shard: a chunk that is not stored
_PACKERS = ("blosc", "zstd", None)


class Room:
    """Memory that is used again and again: new memory costs the system more than reading into it.

    What was taken last under a name is lost when the name is taken again.
    """

    def __init__(self) -> None:
        self._held: dict[str, np.ndarray] = {}

    def take(self, name: str, size: int, dtype: np.dtype[Any]) -> np.ndarray:
        """Return an array of so many entries; its content is whatever was there."""
        held = self._held.pop(name, None)
        if held is None or held.dtype != dtype or len(held) < size:
            held = None  # make room before taking more
            # Not of bytes: scipy copies what it takes for a small part of a larger array.
            held = np.empty(size + size // 16, dtype=dtype)
        self._held[name] = held
        return held[:size]


class Entries(Protocol):
    """A one-dimensional array on disk.

    Attributes
    ----------
    dtype
        Of what is read.
    """

    dtype: np.dtype[Any]

    def __len__(self) -> int: ...

    def fill(self, lows: np.ndarray, highs: np.ndarray, out: np.ndarray) -> None:
        """Read entries ``lows[0]`` to ``highs[0] - 1``, then ``lows[1]`` to ``highs[1] - 1`` ..., which rise, into ``out``."""


def open_entries(node: Any) -> Entries:
    """Return an array of an open HDF5 file or zarr group for reading in stretches."""
    layout = _find_layout(node)
    return NodeEntries(node) if layout is None else ChunkEntries(node, layout)


class NodeEntries:
    """Read as HDF5 or zarr does it.

    Parameters
    ----------
    node
        The array.
    """

    def __init__(self, node: Any) -> None:
        self._node, self.dtype = node, node.dtype

    def __len__(self) -> int:
        return int(self._node.shape[0])

    def fill(self, lows: np.ndarray, highs: np.ndarray, out: np.ndarray) -> None:
        """See :class:`Entries`."""
        done = 0
        for run in np.split(np.arange(len(lows)), np.flatnonzero(lows[1:] - highs[:-1] > _GAP) + 1):
            if not len(run):
                continue
            first, last = int(lows[run[0]]), int(highs[run[-1]])
            sizes = highs[run] - lows[run]
            size = int(sizes.sum())
            if size == last - first:
                self._copy(first, out[done : done + size])
            else:
                held = self._node[first:last]
                out[done : done + size] = held[
                    np.repeat(lows[run] - first - np.cumsum(sizes) + sizes, sizes) + np.arange(size)
                ]
            done += size

    def _copy(self, first: int, out: np.ndarray) -> None:
        import h5py

        if not isinstance(self._node, h5py.Dataset):
            out[:] = self._node[first : first + len(out)]
        elif len(out):
            there = self._node.id.get_space()
            there.select_hyperslab((first,), out.shape)
            self._node.id.read(h5py.h5s.create_simple(out.shape), there, out)


@dataclass(frozen=True)
class Layout:
    """How a zarr array is stored.

    Attributes
    ----------
    chunk
        Entries that are packed together.
    packer
        What packed them, if anything.
    per_shard
        Chunks a file; 0 where files are chunks, without an index.
    index_first
        Whether the index of a shard stands before its chunks.
    """

    chunk: int
    packer: str | None
    per_shard: int = 0
    index_first: bool = False


class ChunkEntries:
    """Chunks of a zarr array in a folder, sharded or not, read from its files and each decoded once.

    Parameters
    ----------
    node
        The array.
    layout
        How it is stored.
    """

    def __init__(self, node: Any, layout: Layout) -> None:
        import numcodecs  # type: ignore[import-untyped]

        self._folder, self._key = Path(node.store.root) / node.path, node.metadata.encode_chunk_key
        self._length, self._stored, self._fill = int(node.shape[0]), node.dtype, node.fill_value or 0
        # Narrow positions are widened on the way, so that no second pass does it.
        self.dtype = np.dtype(np.int32) if node.dtype.kind in "iu" and node.dtype.itemsize < 4 else node.dtype
        self._layout = layout
        self._unpack = numcodecs.get_codec({"id": layout.packer}).decode if layout.packer else lambda packed: packed
        self._check = numcodecs.get_codec({"id": "crc32c"}).decode  # and take the sum off
        self._shard: tuple[int, np.ndarray] | None = None

    def __len__(self) -> int:
        return self._length

    def fill(self, lows: np.ndarray, highs: np.ndarray, out: np.ndarray) -> None:
        """See :class:`Entries`."""
        done, held, values, chunk = 0, -1, np.empty(0, self._stored), self._layout.chunk
        for low, high in zip(lows.tolist(), highs.tolist()):
            while low < high:
                at, inside = divmod(low, chunk)
                if at != held:
                    held, values = at, self._decode(at)
                size = min(high - low, chunk - inside)
                out[done : done + size] = values[inside : inside + size]
                done, low = done + size, low + size

    def _decode(self, at: int) -> np.ndarray:
        packed = self._read_chunk(at)
        if packed is None:
            return np.full(self._layout.chunk, self._fill, dtype=self._stored)
        expected = self._layout.chunk * self._stored.itemsize
        if declared_size(packed[:32], self._layout.packer) <= expected:
            packed = self._unpack(packed)
        if len(packed) != expected:
            raise FormatError(f"chunk {at} of {self._folder} is damaged", expected=f"{expected} bytes", fix=DAMAGED)
        return np.frombuffer(packed, dtype=self._stored)

    def _read_chunk(self, at: int) -> bytes | None:
        """Return a chunk as it is stored; None where it is not: all of it is the fill value."""
        shard, place = divmod(at, self._layout.per_shard or 1)
        path = self._folder / self._key((shard,))
        if not path.is_file():
            return None
        if not self._layout.per_shard:
            return path.read_bytes()
        with path.open("rb", buffering=0) as file:
            if self._shard is None or self._shard[0] != shard:
                self._shard = (shard, self._read_index(file, path))
            start, length = map(int, self._shard[1][place])
            if start == _ABSENT:
                return None
            file.seek(start)
            return file.read(length)

    def _read_index(self, file: Any, path: Path) -> np.ndarray:
        """Return where each chunk of a shard begins and its bytes, uint64 (chunk, 2)."""
        size, length = path.stat().st_size, 16 * self._layout.per_shard + 4
        file.seek(0 if self._layout.index_first else max(0, size - length))
        index = np.frombuffer(self._check(file.read(length)), dtype="<u8").reshape(-1, 2)
        there = index[index[:, 0] != _ABSENT]
        if (there > size).any() or (there.sum(axis=1) > size).any():
            raise FormatError(f"the index of {path} is damaged", expected=f"places within {size} bytes", fix=DAMAGED)
        return index


def _find_layout(node: Any) -> Layout | None:
    """Return the layout of an array if it is one that :class:`ChunkEntries` reads, else None."""
    import zarr

    if not isinstance(node, zarr.Array) or not isinstance(node.store, zarr.storage.LocalStore):
        return None
    meta: Any = node.metadata
    if node.ndim != 1 or node.dtype.kind not in "iuf" or not node.dtype.isnative or sys.byteorder != "little":
        return None
    if meta.zarr_format == 2:
        packer = None if meta.compressor is None else meta.compressor.codec_id
        return None if meta.filters or packer not in _PACKERS else Layout(int(meta.chunks[0]), packer)
    codecs: list[Any] = [one.to_dict() for one in meta.codecs]
    chunk, per_shard, index_first = int(meta.chunk_grid.chunk_shape[0]), 0, False
    if len(codecs) == 1 and codecs[0]["name"] == "sharding_indexed":
        inner = codecs[0]["configuration"]
        if [one["name"] for one in inner["index_codecs"]] != ["bytes", "crc32c"]:
            return None
        per_shard, chunk = chunk // int(inner["chunk_shape"][0]), int(inner["chunk_shape"][0])
        index_first, codecs = inner["index_location"] == "start", list(inner["codecs"])
    names = [one["name"] for one in codecs]
    little = bool(codecs) and codecs[0].get("configuration", {}).get("endian", "little") == "little"
    if names[:1] != ["bytes"] or not little or len(names) > 2:
        return None
    packer = names[1] if len(names) == 2 else None
    if packer not in _PACKERS:
        return None
    return Layout(chunk, packer, per_shard, index_first)
