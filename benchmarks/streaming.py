"""Cells from disk and cells to tokens, each against the plain way; and the peak of memory as the number of cells grows.

    python benchmarks/streaming.py    # Linux

Cells are drawn with replacement from the 2,638 of `EXPRESSOR_DATA/singlecell/pbmc3k_labelled.h5ad` and written, uncompressed, to a
temporary folder, so that the system's file cache holds them for every reader alike. All figures are of one run; rates are the best
of three (of one where a rival is slow). Where annbatch can be imported (it needs Python 3.12), it writes a collection, which both
then read, in chunks of as many cells and buffers of as many chunks.
"""

import itertools
import os
import subprocess
import sys
import tempfile
import time
import warnings
from pathlib import Path

import numpy as np

FEW, MANY, BATCH, LENGTH = 6_000, 60_000, 64, 1024


def rate(work, repeats=3):
    """Return the best rate of ``work``, which returns how many cells it saw."""
    best = 0.0
    for _ in range(repeats):
        start = time.perf_counter()
        best = max(best, work() / (time.perf_counter() - start))
    return best


def write(folder, cells):
    import anndata

    source = anndata.read_h5ad(Path(os.environ["EXPRESSOR_DATA"]) / "singlecell" / "pbmc3k_labelled.h5ad")
    drawn = np.random.default_rng(0).integers(source.n_obs, size=cells)
    adata = anndata.AnnData(source.X[drawn].astype(np.float32), var=source.var[[]].copy())
    adata.obs_names = [f"cell{i}" for i in range(cells)]
    path = Path(folder) / f"{cells}.h5ad"
    adata.write_h5ad(path)
    return path


def collate_plainly(cells, names):
    """One cell after the other: lists of gene names, shuffled, normalised, looked up, padded."""
    import random

    ids = {name: at for at, name in enumerate(names)}
    batch = []
    for row in cells:
        genes = [names[at] for at in row.indices]
        values = [float(one) for one in row.data]
        order = list(range(len(genes)))
        random.shuffle(order)
        total = sum(values)
        genes, values = [genes[at] for at in order[:LENGTH]], [values[at] for at in order[:LENGTH]]
        values = np.log1p(1e4 * np.array(values) / total).tolist()
        batch.append(([ids[name] for name in genes], values))
    width = max(len(genes) for genes, _ in batch)
    return (np.array([genes + [-1] * (width - len(genes)) for genes, _ in batch]),
            np.array([values + [0.0] * (width - len(values)) for _, values in batch]))  # fmt: skip


def collate(path):
    from expressor.data import Tokeniser, open_blocks

    blocks = open_blocks(path)
    matrix, size = blocks.load(slice(0, 512))
    names, rows = list(blocks.genes), [matrix[at] for at in range(512)]
    tokeniser, rng = Tokeniser(max_length=LENGTH), np.random.default_rng(0)
    tokeniser(matrix, size, rng=rng)  # compiled or taken from the cache
    ours = rate(lambda: len(tokeniser(matrix, size, rng=rng)))
    plain = rate(lambda: len(collate_plainly(rows, names)[0]))
    tokens = tokeniser(matrix, size, rng=rng).lengths.mean()
    print(
        f"collate, {tokens:.0f} tokens a cell: {ours:,.0f} cells/s, plain lists {plain:,.0f}; {ours / plain:.1f}x",
        flush=True,
    )


def load(path):
    import anndata
    from anndata.experimental import AnnLoader

    from expressor.data import Stream, open_blocks

    stream = Stream(open_blocks(path), batch_size=BATCH, seed=0)
    epochs = itertools.count()  # a new order each time: nothing that was read before is still held
    ours = rate(lambda: sum(len(one) for one in stream.batches(next(epochs))))
    backed = anndata.read_h5ad(path, backed="r")

    def theirs():
        seen = 0
        for batch in AnnLoader(backed, batch_size=BATCH, shuffle=True):
            seen += batch.X.shape[0]
            if seen >= 10 * BATCH:
                break
        return seen

    plain = rate(theirs, repeats=1)
    quality = stream.shuffle_quality()
    print(f"load: {ours:,.0f} cells/s, AnnLoader backed {plain:,.0f} (ten batches); {ours / plain:.0f}x; "
          f"entropy of place {quality['ratio']:.3f} of a full shuffle's", flush=True)  # fmt: skip


def load_collection(path, folder):
    """The same, on a collection that annbatch wrote."""
    import zarr

    try:
        from annbatch import DatasetCollection, Loader
    except ImportError:
        print("annbatch is not installed")
        return
    import anndata

    from expressor.data import Stream, open_blocks

    where = Path(folder) / "collection"
    DatasetCollection(zarr.open(where)).add_adatas([path])
    blocks, source = open_blocks(where), anndata.read_h5ad(path)
    rows = np.arange(0, len(blocks), 37)
    names = blocks.obs.index[rows]
    same = blocks.load(rows)[0].toarray() == source[names, list(blocks.genes)].X.toarray()
    settings = {"batch_size": BATCH, "seed": 0, "chunk": 64, "buffer": 64}
    stream, epochs = Stream(blocks, **settings), itertools.count()
    ours = rate(lambda: sum(len(one) for one in stream.batches(next(epochs))))

    def theirs():
        loader = Loader(batch_size=BATCH, chunk_size=64, preload_nchunks=64, shuffle=True, preload_to_gpu=False)
        loader.use_collection(DatasetCollection(zarr.open(where, mode="r")))
        return sum(one["X"].shape[0] for one in loader)

    plain = rate(theirs)
    print(f"load a collection of annbatch: {ours:,.0f} cells/s, annbatch {plain:,.0f}; {ours / plain:.2f}x; "
          f"{len(rows)} cells compared, {same.mean():.3f} of their counts alike", flush=True)  # fmt: skip


def measure_memory(path):
    """Read an epoch, make tokens of it, and print the peak of this process in MiB."""
    from expressor.data import Stream, Tokeniser, open_blocks

    stream, tokeniser = (
        Stream(open_blocks(path), batch_size=BATCH, seed=0, chunk=32, buffer=64),
        Tokeniser(max_length=LENGTH),
    )
    for batch in stream.batches(0):
        tokeniser(batch.matrix, batch.library_size, rng=batch.seeds)
    # Not ru_maxrss, which a started program takes over from the one that started it.
    status = Path("/proc/self/status").read_text()
    print(int(status.split("VmHWM:")[1].split()[0]) / 1024)


def main():
    warnings.simplefilter("ignore")
    with tempfile.TemporaryDirectory() as folder:
        few, many = write(folder, FEW), write(folder, MANY)
        collate(few)
        load(many)
        load_collection(many, folder)
        peaks = []
        for path in (few, many):
            done = subprocess.run([sys.executable, __file__, str(path)], capture_output=True, text=True, check=True)
            peaks.append(float(done.stdout))
        print(f"peak memory of an epoch: {peaks[0]:.0f} MiB for {FEW:,} cells, {peaks[1]:.0f} MiB for {MANY:,}; "
              f"{peaks[1] / peaks[0]:.3f}x")  # fmt: skip


if __name__ == "__main__":
    measure_memory(sys.argv[1]) if len(sys.argv) > 1 else main()
