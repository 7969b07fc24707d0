"""Damaged files: every reader answers with one of the package's own errors, quickly and within bounded memory."""

import importlib.util
import shutil
import time
import tracemalloc
from dataclasses import dataclass
from pathlib import Path

import anndata
import numpy as np
import pandas as pd
import pytest
from anndata import AnnData
from scipy import sparse

from expressor.core.errors import ExpressorError
from expressor.data import expression, read
from expressor.data.readers import read_hest, read_legacy_st, read_visium, read_visium_hd
from expressor.genes import GeneVocab

MAX_SECONDS = 20.0
MAX_BYTES = 400 * 2**20


@dataclass
class Subject:
    """A reader, a good folder that it reads, and the files in it that get damaged."""

    read: object
    files: tuple


def write_h5ad(folder, folders):
    rng = np.random.default_rng(0)
    obs = pd.DataFrame(
        {"section": pd.Categorical(["a", "b"] * 10), "score": rng.random(20)}, index=[f"s{i}" for i in range(20)]
    )
    adata = AnnData(sparse.csr_matrix(rng.poisson(1, (20, 9)).astype(np.float32)), obs=obs)
    adata.var_names = [f"G{i}" for i in range(9)]
    adata.obsm["spatial"] = rng.random((20, 2))
    adata.layers["dense"] = adata.X.toarray()
    adata.uns["spatial"] = {
        "a": {"scalefactors": {"microns_per_pixel": 0.5}, "images": {"hires": np.zeros((4, 4, 3), np.uint8)}}
    }
    adata.uns["words"] = ["x", "y"]
    return adata


def make_h5ad(folder, folders):
    write_h5ad(folder, folders).write_h5ad(folder / "a.h5ad")
    return Subject(lambda at: expression(read(at / "a.h5ad"), ["G1", "G2"], scale="log1p_cp10k"), ("a.h5ad",))


def make_h5ad_gzip(folder, folders):
    write_h5ad(folder, folders).write_h5ad(folder / "a.h5ad", compression="gzip")
    return Subject(lambda at: expression(read(at / "a.h5ad"), ["G1", "G2"], scale="log1p_cp10k"), ("a.h5ad",))


def make_zarr(folder, folders):
    with anndata.settings.override(zarr_write_format=2):
        write_h5ad(folder, folders).write_zarr(folder / "a.zarr")
    files = tuple(str(one.relative_to(folder)) for one in sorted((folder / "a.zarr").rglob("*")) if one.is_file())
    return Subject(lambda at: read(at / "a.zarr"), files)


def make_zarr3(folder, folders):
    with anndata.settings.override(zarr_write_format=3):
        write_h5ad(folder, folders).write_zarr(folder / "a.zarr")
    files = tuple(str(one.relative_to(folder)) for one in sorted((folder / "a.zarr").rglob("*")) if one.is_file())
    return Subject(lambda at: read(at / "a.zarr"), files)


def make_vocab(folder, folders):
    GeneVocab([f"GENE{i}" for i in range(30)]).write(folder / "genes.tsv")
    return Subject(lambda at: GeneVocab.read(at / "genes.tsv"), ("genes.tsv",))


def make_legacy(folder, folders, packed):
    made = folders.legacy(folder, packed=packed)
    counts = "counts.tsv.gz" if packed else "counts.tsv"

    def run(at):
        read_legacy_st(at / counts, at / "spots.tsv", at / made.image.name, section="s", um_per_px=made.um_per_px)

    return Subject(run, (counts, "spots.tsv", made.image.name))


def make_visium(folder, folders, matrix):
    made = folders.visium(folder / "outs", matrix=matrix, header=matrix == "h5", image=True)
    files = [str(one.relative_to(folder)) for one in sorted((folder / "outs").rglob("*")) if one.is_file()]
    return Subject(lambda at: read_visium(at / "outs", image=at / "outs" / made.image.name), tuple(files))


def make_visium_hd(folder, folders, parquet=False):
    folders.visium_hd(folder / "outs", parquet=parquet)
    files = [str(one.relative_to(folder)) for one in sorted((folder / "outs").rglob("*")) if one.is_file()]
    return Subject(lambda at: read_visium_hd(at / "outs"), tuple(files))


def make_hest(folder, folders):
    made = folders.hest(folder)

    def run(at):
        _, patches = read_hest(at / "TENX1.h5ad", at / "patches.h5", metadata=at / "TENX1.json", patch_um=8.0)
        for _ in patches.batches(5):
            pass

    assert made.path == folder
    return Subject(run, ("TENX1.h5ad", "patches.h5", "TENX1.json"))


SUBJECTS = {
    "h5ad": make_h5ad,
    "h5ad gzip": make_h5ad_gzip,
    "zarr 2": make_zarr,
    "zarr 3": make_zarr3,
    "vocabulary": make_vocab,
    "legacy ST": lambda folder, folders: make_legacy(folder, folders, packed=False),
    "legacy ST gzip": lambda folder, folders: make_legacy(folder, folders, packed=True),
    "Visium h5": lambda folder, folders: make_visium(folder, folders, "h5"),
    "Visium mtx": lambda folder, folders: make_visium(folder, folders, "mtx"),
    "Visium mtx plain": lambda folder, folders: make_visium(folder, folders, "plain"),
    "Visium HD": make_visium_hd,
    "HEST": make_hest,
}
if importlib.util.find_spec("pyarrow"):
    SUBJECTS["Visium HD parquet"] = lambda folder, folders: make_visium_hd(folder, folders, parquet=True)


def truncate(data, rng):
    return data[: int(rng.integers(0, len(data) + 1))]


def flip_bits(data, rng):
    changed = bytearray(data)
    for place in rng.integers(0, len(data), int(rng.integers(1, 20))):
        changed[place] ^= 1 << int(rng.integers(8))
    return bytes(changed)


def overwrite(data, rng):
    """A run of zeros, of ones, or of noise, as a bad sector leaves it."""
    start = int(rng.integers(0, len(data)))
    length = int(min(rng.integers(1, 600), len(data) - start))
    fill = [bytes(length), b"\xff" * length, rng.bytes(length)][int(rng.integers(3))]
    return data[:start] + fill + data[start + length :]


def cut_out(data, rng):
    start, length = int(rng.integers(0, len(data))), int(rng.integers(1, 200))
    return data[:start] + data[start + length :]


def enlarge(data, rng):
    """Make a number huge: a small integer in a binary header, or a digit in a text."""
    changed = bytearray(data)
    for _ in range(int(rng.integers(1, 4))):
        if rng.random() < 0.5:
            start = int(rng.integers(0, max(1, min(len(data), 4096) - 8)))
            changed[start : start + 8] = int(2 ** rng.uniform(20, 63)).to_bytes(8, "little")
        else:
            digits = [i for i in range(min(len(changed), 4096)) if 48 <= changed[i] <= 57]
            if digits:
                place = digits[int(rng.integers(len(digits)))]
                changed[place : place + 1] = b"9" * int(rng.integers(2, 25))
    return bytes(changed)


def retype(data, rng):
    """Something else altogether under the file's name."""
    texts = [b"", b"{}", b"[[[[" * 2000, b"a\tb\n1\t2\n", bytes(100)]
    heads = [b"\x89PNG\r\n\x1a\n", b"\x1f\x8b\x08", b"\x89HDF\r\n\x1a\n", b""]
    others = [*texts, *(head + rng.bytes(300) for head in heads)]
    return others[int(rng.integers(len(others)))]


DAMAGES = (truncate, flip_bits, overwrite, cut_out, enlarge, retype)


def damage(folder, target, files, seed):
    """Copy a good folder and damage one of its files; return what was done."""
    rng = np.random.default_rng(seed)
    if target.exists():
        shutil.rmtree(target)
    shutil.copytree(folder, target)
    path = target / files[int(rng.integers(len(files)))]
    way = DAMAGES[int(rng.integers(len(DAMAGES)))]
    data = path.read_bytes()
    if data:
        path.write_bytes(way(data, rng))
    return f"{way.__name__} of {path.name}, seed {seed}"


def survive(subject, folder, target, seed):
    """Read a damaged copy. Returns whether it was refused; fails on a foreign error, a long time, or much memory."""
    what = damage(folder, target, subject.files, seed)
    start = time.perf_counter()
    tracemalloc.start()
    try:
        subject.read(target)
        refused = False
    except ExpressorError:
        refused = True
    except Exception as error:
        raise AssertionError(f"{what} raised {type(error).__name__}: {error}") from error
    finally:
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
    assert time.perf_counter() - start < MAX_SECONDS, what
    assert peak < MAX_BYTES, f"{what} took {peak / 2**20:.0f} MiB"
    return refused


@pytest.fixture(scope="module")
def good(tmp_path_factory, folders):
    """Good folders by subject, made when first asked for."""
    made = {}

    def get(name) -> tuple[Subject, Path]:
        if name not in made:
            folder = tmp_path_factory.mktemp("good")
            made[name] = SUBJECTS[name](folder, folders), folder
        return made[name]

    return get


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", SUBJECTS)
def test_damaged_files_are_refused_in_our_own_words(name, good, tmp_path):
    subject, folder = good(name)
    subject.read(folder)
    refused = [survive(subject, folder, tmp_path / "bad", seed) for seed in range(10)]
    # Not every damage can be seen (a changed pixel), but some must be.
    assert sum(refused) >= 2


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", SUBJECTS)
def test_thousands_of_damaged_files_are_refused(name, good, tmp_path):
    subject, folder = good(name)
    for seed in range(1000, 1600):
        survive(subject, folder, tmp_path / "bad", seed)
