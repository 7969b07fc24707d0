"""The parts of the saved-model format: arrays, tables, tensors, and folders that appear whole or not at all."""

import errno
import os
import shutil
import struct
import subprocess
import sys
import tempfile
import tracemalloc
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst

from expressor.core.errors import DataError, FormatError
from expressor.estimator import storage

names = st.text(st.characters(blacklist_categories=("Cs", "Cc")), min_size=1, max_size=8)
kinds = st.sampled_from([np.float32, np.float64, np.int64, np.uint8, np.bool_, np.dtype("<U3"), np.dtype(">f4")])
arrays = kinds.flatmap(
    lambda kind: npst.arrays(kind, npst.array_shapes(min_dims=0, max_dims=3, min_side=0, max_side=3))
)


def through_a_file(values: dict[str, Any], path: Path) -> dict[str, Any]:
    storage.write_npz(path, storage.pack_arrays(values))
    return storage.unpack_arrays(storage.read_npz(path))


@given(st.dictionaries(names, arrays, max_size=3))
@settings(max_examples=40)
def test_arrays_survive_to_the_bit(tmp_path_factory: pytest.TempPathFactory, values: dict[str, np.ndarray]) -> None:
    again = through_a_file(values, tmp_path_factory.mktemp("npz") / "x.npz")
    assert list(again) == list(values)
    for name, value in values.items():
        assert again[name].dtype == value.dtype
        assert again[name].shape == value.shape
        assert again[name].tobytes() == value.tobytes()
        assert again[name].flags.writeable


def test_tables_series_and_indexes_survive(tmp_path: Path) -> None:
    table = pd.DataFrame(
        {"pcc": np.array([0.5, np.nan], dtype=np.float32), "trusted": [True, False], "note:with:colons": ["a", "β"]},
        index=["ERBB2", "GNAS"],
    )
    series = pd.Series([1.5, 2.5], index=["x", "y"])
    texts = pd.Series(["a", "b"], index=[3, 4])
    index = pd.Index(["MKI67", "ESR1"])
    empty = pd.DataFrame({"epoch": np.zeros(0, dtype=np.int64), "what": pd.Series([], dtype=object)})
    again = through_a_file(
        {"t": table, "s": series, "u": texts, "i": index, "e": empty, "no:colon": np.arange(2)}, tmp_path / "x"
    )
    pd.testing.assert_frame_equal(again["t"], table)
    pd.testing.assert_series_equal(again["s"], series)
    pd.testing.assert_series_equal(again["u"], texts)
    pd.testing.assert_index_equal(again["i"], index)
    assert list(again["e"].columns) == ["epoch", "what"]
    assert len(again["e"]) == 0
    assert again["no:colon"].tolist() == [0, 1]


def test_columns_keep_their_order_beyond_ten(tmp_path: Path) -> None:
    table = pd.DataFrame({f"c{i}": [i] for i in (11, 3, 0, 7, 2, 9, 1, 4, 10, 8, 5, 6)})
    assert list(through_a_file({"t": table}, tmp_path / "x")["t"].columns) == list(table.columns)


@pytest.mark.parametrize(
    "value",
    [np.array([1j]), np.array(["2020-01-01"], dtype="M8[D]"), np.array([b"x"]), np.zeros(2, dtype=[("a", "f4")])],
)
def test_other_kinds_of_arrays_are_refused(value: np.ndarray) -> None:
    with pytest.raises(FormatError, match="'x' cannot be saved; expected numbers, booleans or strings, got"):
        storage.pack_arrays({"x": value})


def test_files_are_plain_npz_and_depend_on_their_content_alone(tmp_path: Path) -> None:
    packed = storage.pack_arrays({"a": np.arange(3), "t": pd.DataFrame({"c": [1.0]})})
    storage.write_npz(tmp_path / "one.npz", packed)
    storage.write_npz(tmp_path / "two.npz", packed)
    assert (tmp_path / "one.npz").read_bytes() == (tmp_path / "two.npz").read_bytes()
    with np.load(tmp_path / "one.npz", allow_pickle=False) as found:
        assert sorted(found.files) == ["array:a", "table:t:0:c", "table:t:index"]


def test_tensors_survive_and_may_share_memory(tmp_path: Path) -> None:
    whole = torch.arange(12.0).reshape(3, 4)
    storage.write_tensors(tmp_path / "x", {"a": whole, "b": whole, "c": whole.T, "d": whole[:, 1]})
    again = storage.read_tensors(tmp_path / "x")
    assert torch.equal(again["c"], whole.T)
    assert torch.equal(again["d"], whole[:, 1])
    assert storage.read_tensors(tmp_path / "gone") == {}


# What a damaged or hostile npz may hold -------------------------------------------------------------------------------


def npy(header: str, body: bytes = b"", *, version: tuple[int, int] = (1, 0)) -> bytes:
    text = header.encode()
    size = struct.pack("<H" if version == (1, 0) else "<I", len(text))
    return b"\x93NUMPY" + bytes(version) + size + text + body


def pack(path: Path, *members: tuple[str, bytes], compression: int = zipfile.ZIP_STORED) -> Path:
    with zipfile.ZipFile(path, "w", compression) as archive:
        for name, content in members:
            archive.writestr(name, content)
    return path


HEADER = "{'descr': %s, 'fortran_order': %s, 'shape': %s}\n"
BAD_MEMBERS = {
    "empty": b"",
    "no magic": b"hello world",
    "cut in the magic": b"\x93NUM",
    "cut in the header": npy(HEADER % ("'<f4'", False, "(3,)"))[:30],
    "fewer bytes than declared": npy(HEADER % ("'<f4'", False, "(3,)"), b"\0" * 8),
    "more bytes than declared": npy(HEADER % ("'<f4'", False, "(3,)"), b"\0" * 16),
    "an enormous shape": npy(HEADER % ("'<f8'", False, "(10**12,)".replace("10**12", str(10**12))), b"\0" * 8),
    "a shape beyond 64 bits": npy(HEADER % ("'<f8'", False, f"({10**30},)"), b"\0" * 8),
    "a negative shape": npy(HEADER % ("'<f4'", False, "(-1, -2)"), b"\0" * 8),
    "items of no size": npy(HEADER % ("'<U0'", False, f"({10**15},)")),
    "items of enormous size": npy(HEADER % ("'<U2000000000'", False, "(1,)")),
    "objects": npy(HEADER % ("'|O'", False, "(1,)"), b"\x80\x04N."),
    "objects inside records": npy(HEADER % ("[('a', '|O')]", False, "(1,)"), b"\x80\x04N."),
    "an unknown type": npy(HEADER % ("'<q9x'", False, "(1,)"), b"\0"),
    "no dictionary": npy("[1, 2]\n"),
    "another dictionary": npy("{'descr': '<f4'}\n"),
    "a header of code": npy("__import__('os').system('touch owned')\n"),
    "a header that is no expression": npy("{'descr': \n"),
    "an indented header": npy("  {'a'\n }: 1\n"),
    "a header of the old kind": npy("{'descr': '<f4', 'fortran_order': False, 'shape': (1L,), }\n", b"\0" * 4),
    "deep nesting": npy("(" * 9000),
    "deep signs": npy("-" * 9000 + "1"),
    "a header of an unknown version": npy(HEADER % ("'<f4'", False, "(1,)"), b"\0" * 4, version=(9, 0)),
    "a header longer than the file": b"\x93NUMPY\x02\x00" + struct.pack("<I", 2**31) + b"{}",
    "a pickle": b"\x80\x04\x95cos\nsystem\n(S'touch owned'\ntR.",
}


@pytest.mark.parametrize("member", BAD_MEMBERS)
def test_a_bad_member_is_refused_without_allocating_or_running_anything(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, member: str
) -> None:
    monkeypatch.chdir(tmp_path)
    path = pack(tmp_path / "x.npz", ("array:a.npy", BAD_MEMBERS[member]))
    tracemalloc.start()
    with pytest.raises(FormatError) as caught:
        storage.read_npz(path)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert len(str(caught.value)) > 20
    assert peak < 20 * 2**20
    assert [one.name for one in tmp_path.iterdir()] == ["x.npz"]


def test_records_fortran_order_and_other_byte_orders_are_read(tmp_path: Path) -> None:
    body = np.arange(6, dtype=">i4").reshape(2, 3)
    content = npy(HEADER % ("'>i4'", True, "(2, 3)"), body.tobytes(order="F"), version=(2, 0))
    assert np.array_equal(storage.read_npz(pack(tmp_path / "x", ("array:a.npy", content)))["array:a"], body)


def test_compressed_members_are_refused_before_they_are_unpacked(tmp_path: Path) -> None:
    path = pack(tmp_path / "x", ("array:a.npy", b"\0" * 10**7), compression=zipfile.ZIP_DEFLATED)
    assert path.stat().st_size < 20_000
    with pytest.raises(FormatError, match="has compressed members; expected members stored as they are"):
        storage.read_npz(path)


def test_members_laid_over_one_another_are_refused(tmp_path: Path) -> None:
    """A directory of a hundred entries for one and the same bytes would unpack to a hundred times the file."""
    with zipfile.ZipFile(tmp_path / "x", "w") as archive:
        archive.writestr("array:0.npy", b"\0" * 10**6)
        info = archive.infolist()[0]
        for i in range(1, 100):
            copy = zipfile.ZipInfo(f"array:{i}.npy")
            copy.file_size, copy.compress_size, copy.CRC = info.file_size, info.compress_size, info.CRC
            copy.header_offset = info.header_offset
            archive.filelist.append(copy)
    with pytest.raises(FormatError, match="has members of false sizes"):
        storage.read_npz(tmp_path / "x")


@pytest.mark.parametrize("content", [b"", b"PK", b"PK\x05\x06" + b"\xff" * 18, b"\0" * 100])
def test_files_that_are_no_archives_are_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "x").write_bytes(content)
    with pytest.raises(FormatError, match="x cannot be read"):
        storage.read_npz(tmp_path / "x")


@pytest.mark.parametrize(
    ("packed", "message"),
    [
        ({"other:a": np.zeros(1)}, "unknown member 'other:a' in state.npz"),
        ({"table:t:0:c": np.zeros(1)}, "'t' in state.npz is incomplete"),
        ({"series:s:index": np.zeros(1)}, "'s' in state.npz is incomplete"),
        (
            {"table:t:index": np.arange(2), "table:t:0:c": np.zeros(3)},
            "the columns of 't' in state.npz differ in length",
        ),
    ],
)
def test_tables_with_parts_missing_are_refused(packed: dict[str, np.ndarray], message: str) -> None:
    with pytest.raises(FormatError, match=message):
        storage.unpack_arrays(packed)


# Folders ----------------------------------------------------------------------------------------------------------------


def fill(text: str) -> Callable[[Path], None]:
    def write(folder: Path) -> None:
        (folder / "mark").write_text(text)

    return write


def content(folder: Path) -> dict[str, str]:
    return {str(path.relative_to(folder)): path.read_text() for path in folder.rglob("*") if path.is_file()}


def test_a_folder_appears_with_what_was_written(tmp_path: Path) -> None:
    assert storage.write_folder(tmp_path / "new/deep/model", fill("1"), mark="mark") == tmp_path / "new/deep/model"
    assert content(tmp_path) == {"new/deep/model/mark": "1"}
    assert (tmp_path / "new/deep/model").stat().st_mode & 0o777 == 0o755


def test_an_empty_folder_and_an_older_result_are_replaced(tmp_path: Path) -> None:
    (tmp_path / "model").mkdir()
    storage.write_folder(tmp_path / "model", fill("1"), mark="mark")
    (tmp_path / "model" / "extra").write_text("of the older one")
    storage.write_folder(tmp_path / "model", fill("2"), mark="mark")
    assert content(tmp_path) == {"model/mark": "2"}
    assert [path.name for path in tmp_path.iterdir()] == ["model"]


def test_what_is_not_a_result_is_kept(tmp_path: Path) -> None:
    (tmp_path / "thesis").mkdir()
    (tmp_path / "thesis/chapter").write_text("precious")
    (tmp_path / "file").write_text("precious")
    for name in ("thesis", "file"):
        with pytest.raises(DataError) as caught:
            storage.write_folder(tmp_path / name, fill("1"), mark="mark")
        assert str(caught.value) == (
            f"{tmp_path / name} exists and is not a saved result. Choose a new folder; nothing was changed."
        )
    assert content(tmp_path) == {"thesis/chapter": "precious", "file": "precious"}


@pytest.mark.parametrize(
    "error", [OSError(errno.ENOSPC, "No space left on device"), KeyError("x"), KeyboardInterrupt()]
)
def test_a_failure_midway_leaves_the_older_result_and_no_rubbish(tmp_path: Path, error: BaseException) -> None:
    storage.write_folder(tmp_path / "model", fill("1"), mark="mark")

    def fail(folder: Path) -> None:
        (folder / "half").write_text("x")
        raise error

    with pytest.raises(DataError if isinstance(error, OSError) else type(error)) as caught:
        storage.write_folder(tmp_path / "model", fail, mark="mark")
    if isinstance(error, OSError):
        assert "No space left on device" in str(caught.value)
        assert str(caught.value).endswith("Free space or choose another folder; what stood there is unharmed.")
    assert content(tmp_path) == {"model/mark": "1"}
    assert [path.name for path in tmp_path.iterdir()] == ["model"]


@pytest.mark.parametrize("fails", [0, 1])
def test_a_failing_rename_leaves_the_older_result(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fails: int) -> None:
    storage.write_folder(tmp_path / "model", fill("1"), mark="mark")
    calls: list[Any] = []
    replace = os.replace

    def refuse(source: Any, target: Any) -> None:
        calls.append(source)
        if len(calls) == fails + 1:
            raise PermissionError(errno.EACCES, "Permission denied")
        replace(source, target)

    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", refuse)
        with pytest.raises(DataError, match="cannot be written .*Permission denied.*what stood there is unharmed"):
            storage.write_folder(tmp_path / "model", fill("2"), mark="mark")
    assert content(tmp_path) == {"model/mark": "1"}
    assert [path.name for path in tmp_path.iterdir()] == ["model"]


def test_a_read_only_place_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Simulated, because permissions do not bind the superuser that tests often run as."""

    def refuse(*_: Any, **__: Any) -> str:
        raise OSError(errno.EROFS, "Read-only file system")

    monkeypatch.setattr(tempfile, "mkdtemp", refuse)
    with pytest.raises(DataError, match="cannot be written .*Read-only file system.*choose another folder"):
        storage.write_folder(tmp_path / "model", fill("1"), mark="mark")
    assert not list(tmp_path.iterdir())


def test_a_file_in_the_place_of_a_parent_is_told(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("mine")
    with pytest.raises(DataError, match="cannot be written"):
        storage.write_folder(tmp_path / "file" / "model", fill("1"), mark="mark")
    assert content(tmp_path) == {"file": "mine"}


LIMITED = """
import resource, sys
from pathlib import Path
import numpy as np, torch
from expressor.core.errors import DataError
from expressor.estimator import storage

def write(folder):
    (folder / "mark").write_text("2")
    if sys.argv[2] == "arrays":
        storage.write_npz(folder / "state.npz", {"a": np.zeros(10**6)})
    else:
        storage.write_tensors(folder / "model.safetensors", {"a": torch.zeros(10**6)})

resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, resource.RLIM_INFINITY))
try:
    storage.write_folder(Path(sys.argv[1]) / "model", write, mark="mark")
except DataError as error:
    print(error)
"""


@pytest.mark.parametrize("what", ["arrays", "tensors"])
def test_a_write_that_the_system_stops_leaves_the_older_result(tmp_path: Path, what: str) -> None:
    storage.write_folder(tmp_path / "model", fill("1"), mark="mark")
    done = subprocess.run(
        [sys.executable, "-c", LIMITED, str(tmp_path), what], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert "cannot be written" in done.stdout
    assert "File too large" in done.stdout
    assert content(tmp_path) == {"model/mark": "1"}
    assert [path.name for path in tmp_path.iterdir()] == ["model"]


@pytest.mark.skipif(os.geteuid() != 0 or shutil.which("mount") is None, reason="mounting a small disk takes root")
@pytest.mark.parametrize("write", [
    lambda folder: storage.write_npz(folder / "a", {"a": np.zeros(10**5)}),
    lambda folder: storage.write_tensors(folder / "a", {"a": torch.zeros(10**5)}),
    lambda folder: (folder / "a").write_bytes(b"\0" * 10**5),
])  # fmt: skip
def test_a_disk_that_is_really_full(tmp_path: Path, write: Callable[[Path], None]) -> None:
    disk = tmp_path / "disk"
    disk.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(disk)], check=False).returncode:
        pytest.skip("this machine does not allow mounts")
    try:
        storage.write_folder(disk / "model", fill("1"), mark="mark")
        with pytest.raises(DataError, match="No space left on device"):
            storage.write_folder(disk / "model", write, mark="mark")
        assert content(disk) == {"model/mark": "1"}
        assert [path.name for path in disk.iterdir()] == ["model"]
    finally:
        subprocess.run(["umount", str(disk)], check=True)
