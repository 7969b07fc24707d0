import json

import h5py
import numpy as np
import pytest
from anndata import AnnData

from expressor.core.errors import DataError, FormatError
from expressor.data import files, read


def test_failures_of_outside_libraries_become_format_errors(tmp_path):
    with pytest.raises(
        FormatError, match=r"t.json cannot be read as JSON \(JSONDecodeError.*damaged or of another format"
    ):
        with files.reading(tmp_path / "t.json", "JSON"):
            json.loads("{")


def outside(error):
    """Raise from a module that is not ours, as a library would."""
    raise error


@pytest.mark.parametrize(
    "error", [KeyError("X"), TypeError("x"), RuntimeError("h5"), EOFError(), IndexError(), AssertionError()]
)
def test_every_kind_of_outside_error_is_turned(error):
    with pytest.raises(FormatError):
        with files.reading("f", "thing"):
            outside(error)


@pytest.mark.parametrize("error", [KeyboardInterrupt(), MemoryError(), DataError("ours")])
def test_interrupts_memory_and_our_own_errors_pass(error):
    with pytest.raises(type(error)) as caught:
        with files.reading("f", "thing"):
            outside(error)
    assert caught.value is error


def test_bugs_of_our_own_code_are_not_hidden():
    namespace = {"__name__": "expressor.data.imaginary"}
    exec("def bug(): return {}['absent']\ndef parse(): return int('x')", namespace)
    with pytest.raises(KeyError):
        with files.reading("f", "thing"):
            namespace["bug"]()
    with pytest.raises(FormatError):
        with files.reading("f", "thing"):
            namespace["parse"]()


def test_declared_sizes_are_bounded():
    files.check_size(2**27, 1, what="x")
    files.check_size(2**30, 2**20, what="x")
    with pytest.raises(
        FormatError, match="x declares more than it can hold; expected at most 2000 times the 100 bytes stored"
    ):
        files.check_size(2**30, 100, what="x")
    with pytest.raises(DataError, match="does not fit into memory.*got 1048576 GiB"):
        files.check_size(2**50, 2**49, what="x")


def test_hdf5_that_declares_too_much_is_refused_before_it_is_read(tmp_path):
    path = tmp_path / "a.h5ad"
    AnnData(np.ones((3, 2), dtype=np.float32)).write_h5ad(path)
    with h5py.File(path, "r+") as file:
        del file["X"]
        file.create_dataset("X", shape=(2**40, 2**10), chunks=(64, 64), dtype="f8")
    with pytest.raises(FormatError, match="dataset 'X', declares more than it can hold"):
        read(path)


@pytest.mark.parametrize("kind", ["link", "storage"])
def test_hdf5_that_reaches_into_other_files_is_refused(tmp_path, kind):
    path = tmp_path / "a.h5ad"
    (tmp_path / "secret").write_bytes(bytes(48))
    AnnData(np.ones((3, 2), dtype=np.float32)).write_h5ad(path)
    with h5py.File(path, "r+") as file:
        del file["X"]
        if kind == "link":
            file["X"] = h5py.ExternalLink(str(tmp_path / "secret"), "/X")
        else:
            file.create_dataset("X", shape=(3, 2), dtype="f8", external=[(str(tmp_path / "secret"), 0, 48)])
    with pytest.raises(FormatError, match="links to another file at 'X'|keeps its values in another file"):
        read(path)


def write_zarr(folder, zarr_format):
    import anndata

    adata = AnnData(np.ones((3, 2), dtype=np.float32))
    adata.var_names = ["A", "B"]
    with anndata.settings.override(zarr_write_format=zarr_format):
        adata.write_zarr(folder)
    return {one.name for one in folder.rglob("*")}


def edit(path, change):
    meta = json.loads(path.read_text())
    change(meta)
    path.write_text(json.dumps(meta))


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("zarr_format", [2, 3])
def test_zarr_stores_are_checked_before_they_are_opened(tmp_path, zarr_format):
    folder = tmp_path / "a.zarr"
    names = write_zarr(folder, zarr_format)
    assert ("zarr.json" in names) == (zarr_format == 3)
    assert read(folder).shape == (3, 2)
    array = folder / "X" / ("zarr.json" if zarr_format == 3 else ".zarray")
    good = array.read_text()

    edit(array, lambda meta: meta.update(shape=[2**40, 2**20]))
    with pytest.raises(FormatError, match="declares more than it can hold"):
        read(folder)
    array.write_text(good)

    key = "codecs" if zarr_format == 3 else "filters"
    codec = {"name": "numcodecs.pickle"} if zarr_format == 3 else {"id": "pickle"}
    edit(array, lambda meta: meta.update({key: [*(meta[key] or []), codec]}))
    with pytest.raises(FormatError, match="asks for the codec .*pickle.*only transforms bytes"):
        read(folder)
    array.write_text(good)

    edit(array, lambda meta: meta.update(shape=["a", 2]))
    with pytest.raises(FormatError, match="bad shape"):
        read(folder)
    array.write_text(good[:-20])
    with pytest.raises(FormatError, match="cannot be read as zarr"):
        read(folder)


@pytest.mark.filterwarnings("ignore")
def test_a_pickled_object_in_consolidated_metadata_is_never_loaded(tmp_path):
    folder = tmp_path / "a.zarr"
    write_zarr(folder, 2)
    edit(folder / ".zmetadata", lambda meta: meta["metadata"]["X/.zarray"].update(filters=[{"id": "pickle"}]))
    with pytest.raises(FormatError, match="'pickle'"):
        read(folder)


HEAP = b"GCOL\x01\0\0\0"


BROKEN_HEAPS = {
    "free space of no size, over which the library loops for ever": (b"\0\0", 24, 0),
    "free space past the end": (b"\0\0", 24, 2**40),
    "an object past the end": (b"\1\0", 24, 2**40),
    "an object whose size wraps around": (b"\1\0", 24, 2**64 - 8),
    "a heap past the end": (b"\1\0", 8, 2**40),
    "a heap of no size": (b"\1\0", 8, 0),
}


@pytest.mark.parametrize("case", BROKEN_HEAPS)
def test_heaps_without_an_end_are_refused_before_the_library_walks_them(tmp_path, case):
    number, place, value = BROKEN_HEAPS[case]
    path = tmp_path / "a.h5ad"
    AnnData(np.ones((3, 2), dtype=np.float32)).write_h5ad(path)
    files.check_hdf5(path)
    content = bytearray(path.read_bytes())
    start = content.index(HEAP)
    content[start + 16 : start + 18] = number
    content[start + place : start + place + 8] = value.to_bytes(8, "little")
    path.write_bytes(content)
    with pytest.raises(FormatError, match="a heap of .*a.h5ad is damaged"):
        files.check_hdf5(path)


def test_good_files_with_many_texts_have_good_heaps(tmp_path):
    path = tmp_path / "a.h5"
    with h5py.File(path, "w") as file:
        file["texts"] = ["x" * (i % 900) for i in range(4000)]
        for i in range(50):
            file.attrs[f"a{i}"] = "y" * i
    with h5py.File(path, "r+") as file:
        del file["texts"]
        file["more"] = ["GCOL" * i for i in range(40)]
    files.check_hdf5(path)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("zarr_format", [2, 3])
def test_chunks_that_declare_too_much_are_refused_before_they_are_decoded(tmp_path, zarr_format):
    import numcodecs

    folder = tmp_path / "a.zarr"
    write_zarr(folder, zarr_format)
    names = folder / "var" / "_index" / ("c/0" if zarr_format == 3 else "0")
    packer = numcodecs.Zstd() if zarr_format == 3 else numcodecs.Blosc()
    good = names.read_bytes()
    names.write_bytes(packer.encode((2**31).to_bytes(4, "little") + packer.decode(good)[4:]))
    with pytest.raises(FormatError, match="holds another number of texts than its array; expected 2, got 2147483648"):
        read(folder)
    names.write_bytes(good)
    assert read(folder).shape == (3, 2)
    values = folder / "X" / ("c/0/0" if zarr_format == 3 else "0.0")
    if zarr_format == 2:
        content = bytearray(values.read_bytes())
        content[4:8] = (2**30).to_bytes(4, "little")
    else:
        content = packer.encode(bytes(2**20))
    values.write_bytes(content)
    with pytest.raises(FormatError, match="declares more than a chunk holds"):
        read(folder)
