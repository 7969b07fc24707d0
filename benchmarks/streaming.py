"""Cells from disk and cells to tokens, each against the plain way; and the peak of memory as the number of cells grows.

    python benchmarks/streaming.py    # Linux

Cells are drawn with replacement from the 2,638 of `EXPRESSOR_DATA/singlecell/pbmc3k_labelled.h5ad` and written, uncompressed, to a
temporary folder, so that the system's file cache holds them for every reader alike. All figures are of one run; rates of tokens are
the best of three, of reading the medians of five rounds in which all take turns. Where annbatch can be imported (it needs Python
3.12), it writes a collection, which both then read, in chunks of as many cells and buffers of as many chunks.
"""

import itertools
import os
import subprocess
import sys
import tempfile
import time
import warnings
from importlib.util import find_spec
from pathlib import Path

import numpy as np

FEW, MANY, BATCH, LENGTH, ROUNDS = 6_000, 60_000, 64, 1024, 5


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


def race(ours, theirs):
    """Let all run in turn, so that they meet the same machine; return median rates, and median ratios of ours to each."""
    rates = np.array([[rate(ours, repeats=1), *(rate(one, repeats=1) for one in theirs)] for _ in range(ROUNDS)])
    return np.median(rates, axis=0), np.median(rates[:, :1] / rates[:, 1:], axis=0)


def load(path):
    if not find_spec("torch"):
        print("AnnLoader needs torch")
        return
    import anndata
    from anndata.experimental import AnnLoader

    from expressor.data import Stream, open_blocks

    stream = Stream(open_blocks(path), batch_size=BATCH, seed=0)
    epochs = itertools.count()  # a new order each time: nothing that was read before is still held
    backed = AnnLoader(anndata.read_h5ad(path, backed="r"), batch_size=BATCH, shuffle=True)

    def ours():
        return sum(len(one) for one in stream.batches(next(epochs)))

    ours()
    rates, ratios = race(ours, [lambda: sum(one.X.shape[0] for one in itertools.islice(backed, 20))])
    quality = stream.shuffle_quality()
    print(f"load: {rates[0]:,.0f} cells/s, AnnLoader backed {rates[1]:,.0f} (twenty batches); {ratios[0]:.1f}x; "
          f"entropy of place {quality['ratio']:.3f} of a full shuffle's", flush=True)  # fmt: skip


def load_collection(path, folder):
    """The same, on a collection that annbatch wrote; annbatch reads as zarr does, and with zarrs where that can be imported."""
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

    def ours():
        return sum(len(one) for one in stream.batches(next(epochs)))

    def theirs(**how):
        with zarr.config.set(how):
            loader = Loader(batch_size=BATCH, chunk_size=64, preload_nchunks=64, shuffle=True, preload_to_gpu=False)
            loader.use_collection(DatasetCollection(zarr.open(where, mode="r")))
            return sum(one["X"].shape[0] for one in loader)

    ways = {"annbatch": theirs}
    if find_spec("zarrs"):
        ways["annbatch by zarrs"] = lambda: theirs(**{"codec_pipeline.path": "zarrs.ZarrsCodecPipeline"})
    ours()
    rates, ratios = race(ours, list(ways.values()))
    rivals = "; ".join(f"{name} {rate:,.0f}, {ratio:.2f}x" for name, rate, ratio in zip(ways, rates[1:], ratios))
    print(f"load a collection of annbatch: {rates[0]:,.0f} cells/s; {rivals}; "
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
