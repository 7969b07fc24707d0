"""Batches are a function of (seed, epoch, step, rank): whole epochs, halves for two processes, a start in the middle."""

import numpy as np
import pandas as pd
import pytest
from anndata import AnnData
from scipy import sparse

from expressor.core.errors import DataError
from expressor.data import Stream, in_order, open_blocks


def make(cells: int = 230) -> AnnData:
    counts = np.random.default_rng(0).poisson(0.5, (cells, 12))
    counts[:, 0] = np.arange(cells)  # tells which cell it is
    kinds = pd.Categorical(np.repeat(["common", "rare"], [cells - 9, 9]))
    return AnnData(sparse.csr_matrix(counts), obs=pd.DataFrame({"kind": kinds}, index=[f"c{i}" for i in range(cells)]),
                   var=pd.DataFrame(index=[f"GENE{i}" for i in range(12)]))  # fmt: skip


def streamed(**options: object) -> Stream:
    return Stream(open_blocks(make()), **({"batch_size": 8, "seed": 3, "chunk": 7, "buffer": 5} | options))  # type: ignore[arg-type]


def test_an_epoch_shows_each_cell_once_in_the_order_stated() -> None:
    stream = streamed()
    order = stream.order(1)
    assert sorted(order) == list(range(230))
    found = np.concatenate([one.rows for one in stream.batches(1)])
    np.testing.assert_array_equal(found, order[: len(found)])
    assert len(found) == stream.steps() * 8
    for one in stream.batches(1):
        np.testing.assert_array_equal(one.matrix[:, 0].toarray().ravel(), one.rows)
        np.testing.assert_array_equal(one.library_size, one.matrix.sum(axis=1).A1 if hasattr(one.matrix.sum(axis=1), "A1")
                                      else one.matrix.sum(axis=1))  # fmt: skip
    assert (stream.order(2) != order).any()
    assert (streamed(seed=4).order(1) != order).any()


def test_a_batch_does_not_depend_on_what_was_read_before() -> None:
    stream, later = streamed(), streamed()
    for step in range(10):
        stream.batch(0, step)
    for step in (10, 4, 27):
        one, other = stream.batch(0, step), later.batch(0, step)
        np.testing.assert_array_equal(one.rows, other.rows)
        np.testing.assert_array_equal(one.seeds, other.seeds)
        assert (one.matrix != other.matrix).nnz == 0


def test_two_processes_take_halves_of_one_batch() -> None:
    one, two = streamed(batch_size=16), streamed(batch_size=8)
    assert one.steps(1) == two.steps(2)
    for step in range(one.steps()):
        whole, halves = one.batch(0, step), [two.batch(0, step, rank=rank, world=2) for rank in (0, 1)]
        for name in ("rows", "seeds", "library_size"):
            joined = np.concatenate([getattr(half, name) for half in halves])
            np.testing.assert_array_equal(getattr(whole, name), joined)


def test_classes_are_drawn_equally_often() -> None:
    stream = streamed(balance="kind", chunk=4)
    rare = stream.order(0) >= 221
    assert 0.45 < rare.mean() < 0.55


def test_more_chunks_at_a_time_mix_better() -> None:
    ratios = [streamed(chunk=10, buffer=buffer, batch_size=20).shuffle_quality()["ratio"] for buffer in (1, 4, 23)]
    assert ratios[0] < ratios[1] < ratios[2]
    assert ratios[2] == pytest.approx(1, abs=0.03)


def test_rows_are_those_asked_for() -> None:
    rows = np.arange(3, 200, 3)
    assert sorted(streamed(rows=rows).order(0)) == rows.tolist()
    with pytest.raises(DataError, match="rows are not positions of cells, each once"):
        streamed(rows=np.array([1, 1]))
    with pytest.raises(DataError, match="fewer cells than one step takes; expected at least 500, got 230"):
        streamed(batch_size=500).steps()


def test_inference_keeps_the_order_over_processes() -> None:
    blocks = open_blocks(make())
    parts = [in_order(blocks, batch_size=32, rank=rank, world=3) for rank in range(3)]
    assert np.concatenate([one.rows for part in parts for one in part]).tolist() == list(range(230))


def test_cells_without_counts_are_refused_before_a_batch_is_read(tmp_path) -> None:  # type: ignore[no-untyped-def]
    cells = make(40)
    counts = cells.X.toarray()
    counts[[7, 31]] = 0
    counts[12, 1:] = 0  # only GENE0, which the second vocabulary lacks
    cells = AnnData(sparse.csr_matrix(counts), obs=cells.obs, var=cells.var)
    cells.write_h5ad(tmp_path / "cells.h5ad")
    message = (
        r"2 of 40 cells of .* have no counts of any gene of the vocabulary; expected at least one .* got none in row 7"
    )
    for source in (cells, tmp_path / "cells.h5ad", [cells, cells.copy()]):
        blocks = open_blocks(source)
        wanted = message.replace("2 of 40", "4 of 80") if isinstance(source, list) else message
        for start in (lambda: Stream(blocks, batch_size=8, seed=0), lambda: in_order(blocks, batch_size=8)):  # noqa: B023
            with pytest.raises(DataError, match=wanted):
                start()
        filled = blocks.filled(at_once=11)
        assert len(filled) == len(blocks) * 38 // 40
        assert sorted(Stream(blocks, batch_size=2, seed=0, rows=filled).order(0)) == filled.tolist()

    narrow = open_blocks(tmp_path / "cells.h5ad", genes=[f"GENE{i}" for i in range(1, 12)])
    known = np.setdiff1d(np.arange(40), [7, 31])
    with pytest.raises(DataError, match="1 of 38 cells .* got none in row 12"):
        Stream(narrow, batch_size=8, seed=0, rows=known).batch(0, 0)
    with pytest.raises(DataError, match=r"got none in row 12; .*Stream\(rows=blocks.filled\(\)\)|got none in row 12"):
        list(in_order(narrow, batch_size=8, rows=known))
    assert narrow.filled().tolist() == np.setdiff1d(known, [12]).tolist()


def test_batches_are_not_overwritten_by_later_ones() -> None:
    stream = streamed()
    batches = list(stream.batches(0))
    for step, one in enumerate(batches):
        assert (one.matrix != stream.batch(0, step).matrix).nnz == 0
        np.testing.assert_array_equal(one.matrix[:, 0].toarray().ravel(), one.rows)
