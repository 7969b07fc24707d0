"""Batches of cells in random order from any source, a part of it in memory at a time.

The cells are cut into chunks of neighbours; chunks are drawn in random order, some hundred are read at once, and their cells
are shuffled and cut into batches. All of it follows from (seed, epoch), so a batch is a function of (seed, epoch, step, rank):
a run can go on in the middle of an epoch, and two processes take halves of the batches that one process would take whole.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import overload

import numpy as np
import pandas as pd
from scipy import sparse

from expressor.core.errors import DataError, check_range
from expressor.core.log import logger
from expressor.core.rng import child_seed, stream
from expressor.data.blocks import Blocks
from expressor.data.entries import Room
from expressor.data.tokens import draw_seeds


@dataclass(frozen=True)
class CellBatch:
    """Some cells.

    Attributes
    ----------
    matrix
        Raw counts, float32 CSR (cell, gene), in the vocabulary's order.
    rows
        int64 (cell,): their positions in the source.
    library_size
        float32 (cell,): counts over all genes of the source.
    seeds
        uint64 (cell,): what a tokeniser draws with; of the cell's turn in this epoch, whatever process it falls to.
    """

    matrix: sparse.csr_matrix
    rows: np.ndarray
    library_size: np.ndarray
    seeds: np.ndarray

    def __len__(self) -> int:
        return len(self.rows)


class Stream:
    """Shuffled batches of cells.

    Parameters
    ----------
    blocks
        The source.
    batch_size
        Cells a batch on each process, >= 1.
    seed
        The estimator's seed.
    rows
        Positions of the cells to stream, such as those of a training split; all by default.
    chunk
        Neighbouring cells read together, >= 1. 1 is a full shuffle within the buffer, and slow from disk.
    buffer
        Chunks held at a time, >= 1: at most ``chunk * buffer`` cells are in memory. Where all cells fit, the shuffle is full.
    balance
        Column of ``obs``: each of its classes is drawn equally often, cells of rare classes repeatedly and those of common ones not
        all in an epoch. Cells without a class are left out. ``None``: each cell once an epoch.

    Raises
    ------
    DataError
        A setting is out of its range, a row repeats or is not there, there are fewer cells than one batch holds, or cells have no
        counts: row pointers tell at once of those that have none at all, reading of those that have none in the vocabulary.
    """

    def __init__(
        self,
        blocks: Blocks,
        *,
        batch_size: int,
        seed: int,
        rows: np.ndarray | None = None,
        chunk: int = 64,
        buffer: int = 256,
        balance: str | None = None,
    ) -> None:
        for name, value in (("batch_size", batch_size), ("chunk", chunk), ("buffer", buffer)):
            check_range(value, name=name, low=1, integer=True)
        self.blocks, self.batch_size, self.seed, self.chunk, self.buffer = blocks, batch_size, seed, chunk, buffer
        self.balance = balance
        self._rows = None if rows is None else _check_rows(rows, len(blocks))
        blocks.check_filled(self._rows)
        self._n = len(blocks) if self._rows is None else len(self._rows)
        self._classes = None if balance is None else self._sort_by_class(balance)
        self._held: tuple[tuple[int, int], _Window] | None = None
        self._room = Room()
        self._layout: tuple[int, np.ndarray, np.ndarray] | None = None

    def __len__(self) -> int:
        """Cells of an epoch."""
        return self._n

    def steps(self, world: int = 1) -> int:
        """Return the steps of an epoch for so many processes; the last cells that fill no batch are left out.

        Raises
        ------
        DataError
            There are fewer cells than one step takes.
        """
        found = self._n // (self.batch_size * world)
        if not found:
            raise DataError("there are fewer cells than one step takes", expected=f"at least {self.batch_size * world}",
                            got=self._n, fix="Lower the batch size.")  # fmt: skip
        return found

    def batch(self, epoch: int, step: int, *, rank: int = 0, world: int = 1) -> CellBatch:
        """Return a batch, a pure function of these numbers; cheapest in the order of the steps.

        Parameters
        ----------
        epoch, step
            From 0.
        rank, world
            Which of how many processes. The batches of all ranks, one after another, are the one batch of a single process with
            ``world`` times the batch size.

        Raises
        ------
        DataError
            There is no such step or rank.
        """
        check_range(step, name="step", low=0, high=self.steps(world) - 1, integer=True)
        check_range(rank, name="rank", low=0, high=world - 1, integer=True)
        first = (step * world + rank) * self.batch_size
        parts = []
        for window, low, high in self._cut(epoch, first, first + self.batch_size):
            parts.append(self._window(epoch, window).take(low, high))
        return parts[0] if len(parts) == 1 else _stack(parts)

    def batches(self, epoch: int, rank: int = 0, world: int = 1) -> Sequence[CellBatch]:
        """Return the batches of an epoch as a sequence whose items are read when they are asked for."""
        return _Batches(self.steps(world), lambda step: self.batch(epoch, step, rank=rank, world=world))

    def order(self, epoch: int) -> np.ndarray:
        """Return int64 (cell,), the rows of an epoch in the order of their turn, without reading a cell."""
        _, starts = self._chunks(epoch)
        return np.concatenate([self._rows_of(epoch, window) for window in range(self._n_windows(starts))])

    def shuffle_quality(self, column: str | pd.Series | None = None, *, epoch: int = 0) -> dict[str, float]:
        """Compare how mixed the batches are with those of a full random order.

        Parameters
        ----------
        column
            Column of ``obs`` whose classes shall be mixed, or a class for each cell of the source. By default the cell's place in
            the source, in sixty-four parts.
        epoch
            The epoch looked at.

        Returns
        -------
        dict
            ``entropy``, of the classes in a batch, mean over batches, in bits; ``random``, the same of a full random order; and
            ``ratio``, their quotient: 1 is as good as random.
        """
        if column is None:
            codes = np.arange(len(self.blocks)) * 64 // max(1, len(self.blocks))
        else:
            codes = pd.factorize(self.blocks.column(column) if isinstance(column, str) else column)[0]
        codes = codes + 1
        order = self.order(epoch)
        shuffled = stream(self.seed, "shuffle quality", epoch).permutation(order)
        found, best = (_batch_entropy(codes[one], self.batch_size) for one in (order, shuffled))
        return {"entropy": found, "random": best, "ratio": found / best if best > 0 else 1.0}

    # Chunks and windows -------------------------------------------------------------------------------------------------

    def _sort_by_class(self, column: str) -> list[np.ndarray]:
        """Rows of each class, rising."""
        codes, names = pd.factorize(self.blocks.column(column), sort=True)
        rows = np.arange(len(self.blocks)) if self._rows is None else self._rows
        codes = codes[rows]
        missing = int((codes < 0).sum())
        if missing:
            logger.warning("%d of %d cells have no %s and are left out", missing, len(rows), column)
        found = [rows[codes == code] for code in range(len(names))]
        found = [one for one in found if len(one)]
        if not found:
            raise DataError(f"no cell has a {column}", fix="Balance by a column that is filled.")
        self._n = len(rows) - missing
        return found

    def _chunks(self, epoch: int) -> tuple[np.ndarray, np.ndarray]:
        """Chunks in the order of this epoch, and where in the epoch each begins (one entry more)."""
        if self._layout is None or self._layout[0] != epoch:
            number = -(-self._n // self.chunk)
            order = stream(self.seed, "chunks", epoch).permutation(number)
            sizes = np.full(number, self.chunk)
            if self._classes is None:
                sizes[order == number - 1] = self._n - (number - 1) * self.chunk
            else:
                sizes[-1] = self._n - (number - 1) * self.chunk
            self._layout = (epoch, order, np.concatenate([[0], np.cumsum(sizes)]))
        return self._layout[1], self._layout[2]

    def _edges(self, epoch: int) -> np.ndarray:
        """Where in the epoch each window begins (one entry more)."""
        _, starts = self._chunks(epoch)
        return starts[np.append(np.arange(0, len(starts) - 1, self.buffer), len(starts) - 1)]

    def _n_windows(self, starts: np.ndarray) -> int:
        return -(-(len(starts) - 1) // self.buffer)

    def _cut(self, epoch: int, low: int, high: int) -> list[tuple[int, int, int]]:
        """Cut turns ``low`` to ``high`` of an epoch at windows: (window, first, last + 1 within it)."""
        edges = self._edges(epoch)
        windows = range(
            int(np.searchsorted(edges, low, side="right")) - 1, int(np.searchsorted(edges, high, side="left"))
        )
        return [
            (one, int(max(low, edges[one]) - edges[one]), int(min(high, edges[one + 1]) - edges[one]))
            for one in windows
        ]

    def _rows_of(self, epoch: int, window: int) -> np.ndarray:
        """Rows of a window in the order of their turn."""
        order, starts = self._chunks(epoch)
        places = np.arange(window * self.buffer, min(len(order), (window + 1) * self.buffer))
        if self._classes is None:
            found = np.concatenate([
                np.arange(one * self.chunk, min(self._n, (one + 1) * self.chunk)) for one in order[places]
            ])  # fmt: skip
            found = found if self._rows is None else self._rows[found]
        else:
            found = np.concatenate([
                self._draw_class(epoch, int(place), int(starts[place + 1] - starts[place])) for place in places
            ])  # fmt: skip
        return stream(self.seed, "window", epoch, window).permutation(found)

    def _draw_class(self, epoch: int, place: int, size: int) -> np.ndarray:
        """Draw neighbours of one class. Each run of as many chunks as classes visits every class once."""
        classes = self._classes or []
        turn, at = divmod(place, len(classes))
        rows = classes[int(stream(self.seed, "classes", epoch, turn).permutation(len(classes))[at])]
        start = int(stream(self.seed, "start", epoch, place).integers(len(rows)))
        return rows[(start + np.arange(size)) % len(rows)]

    def _window(self, epoch: int, window: int) -> "_Window":
        """Read a window; the last one read is kept."""
        if self._held is None or self._held[0] != (epoch, window):
            self._held = None  # make room before reading
            rows = self._rows_of(epoch, window)
            distinct, places = np.unique(rows, return_inverse=True)
            matrix, size = self.blocks.load_filled(distinct, room=self._room)
            draw = np.random.default_rng(child_seed(self.seed, "cells", epoch, window))
            seeds = draw.integers(0, 2**64, size=len(rows), dtype=np.uint64)
            self._held = ((epoch, window), _Window(matrix, size, places, rows, seeds))
        return self._held[1]


class _Batches(Sequence[CellBatch]):
    """Batches that are read when they are asked for."""

    def __init__(self, number: int, read: Callable[[int], CellBatch]) -> None:
        self._number, self._read = number, read

    def __len__(self) -> int:
        return self._number

    @overload
    def __getitem__(self, item: int) -> CellBatch: ...
    @overload
    def __getitem__(self, item: slice) -> Sequence[CellBatch]: ...
    def __getitem__(self, item: int | slice) -> CellBatch | Sequence[CellBatch]:
        places = range(self._number)[item]
        return self._read(places) if isinstance(places, int) else [self._read(one) for one in places]


def _check_rows(rows: np.ndarray, n: int) -> np.ndarray:
    found = np.unique(np.asarray(rows, dtype=np.int64))
    if len(found) != len(rows) or not len(found) or found[0] < 0 or found[-1] >= n:
        raise DataError("rows are not positions of cells, each once", expected=f"distinct numbers from 0 to {n - 1}",
                        got=f"{len(rows)} numbers, {len(found)} distinct")  # fmt: skip
    return found


@dataclass(frozen=True)
class _Window:
    """Cells that are held, as they were read, and the order of their turns: no second copy of them is made to shuffle."""

    matrix: sparse.csr_matrix
    library_size: np.ndarray
    places: np.ndarray
    rows: np.ndarray
    seeds: np.ndarray

    def take(self, low: int, high: int) -> CellBatch:
        """Return the cells of turns ``low`` to ``high - 1``."""
        from expressor.data import aligning  # numba takes a moment to import

        places, held = self.places[low:high], self.matrix
        starts = np.zeros(len(places) + 1, dtype=held.indptr.dtype)
        np.cumsum(held.indptr[places + 1] - held.indptr[places], out=starts[1:])
        values, genes = np.empty(starts[-1], dtype=held.dtype), np.empty(starts[-1], dtype=held.indices.dtype)
        aligning.gather_rows(held.data, held.indices, held.indptr, places, values, genes, starts)
        matrix = sparse.csr_matrix((values, genes, starts), shape=(len(places), held.shape[1]))
        return CellBatch(matrix, self.rows[low:high], self.library_size[places], self.seeds[low:high])


def _stack(parts: Sequence[CellBatch]) -> CellBatch:
    return CellBatch(
        sparse.vstack([one.matrix for one in parts], format="csr"),
        *(np.concatenate([getattr(one, name) for one in parts]) for name in ("rows", "library_size", "seeds")),
    )


def _batch_entropy(codes: np.ndarray, size: int) -> float:
    """Mean entropy in bits of the classes in batches of ``size``."""
    found = []
    for start in range(0, len(codes) - size + 1, size):
        share = np.bincount(codes[start : start + size]) / size
        share = share[share > 0]
        found.append(-(share * np.log2(share)).sum())
    return float(np.mean(found)) if found else 0.0


def in_order(
    blocks: Blocks, *, batch_size: int, rows: np.ndarray | None = None, rank: int = 0, world: int = 1
) -> Sequence[CellBatch]:
    """Return all cells in their own order, as for inference; each process gets one stretch of them.

    Parameters
    ----------
    blocks
        The source.
    batch_size
        Most cells a batch, >= 1.
    rows
        Positions of the cells wanted, in the order wanted; all by default.
    rank, world
        Which of how many processes.

    Returns
    -------
    Sequence of CellBatch, read when they are asked for; their seeds are made of the cells' counts.

    Raises
    ------
    DataError
        Cells have no counts, as for :class:`Stream`.
    """
    check_range(batch_size, name="batch_size", low=1, integer=True)
    wanted = np.arange(len(blocks)) if rows is None else np.asarray(rows, dtype=np.int64)
    blocks.check_filled(wanted)
    mine = np.array_split(wanted, world)[rank]
    parts = [mine[start : start + batch_size] for start in range(0, len(mine), batch_size)]

    def read(at: int) -> CellBatch:
        matrix, size = blocks.load_filled(parts[at])
        return CellBatch(matrix, parts[at], size, draw_seeds(matrix, None))

    return _Batches(len(parts), read)
