"""Reading what may be damaged: every failure of an outside library becomes a FormatError, and no file makes us allocate at will.

Sizes that a file declares are compared with the bytes that it has before anything is allocated from them.
"""

import json
import math
import os
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any

from expressor.core.errors import DataError, ExpressorError, FormatError, nearest_names

FREE_BYTES = 256 * 2**20
"""Declared sizes below this are never questioned."""
MAX_RATIO = 2000
"""Largest believable ratio of declared to stored bytes; deflate reaches 1032."""

_ONE_FILE = "Copy the data into one file first."
# Raised by our own code these are bugs, which must stay visible; damaged bytes make it raise ValueError and the like.
_BUGS = (TypeError, AttributeError, LookupError, NameError, AssertionError, NotImplementedError)


@contextmanager
def reading(path: str | os.PathLike[str], what: str) -> Iterator[None]:
    """Turn whatever goes wrong inside the block into a :class:`~expressor.core.errors.FormatError` that names the file.

    Errors of this package pass, and so do ``MemoryError``, ``KeyboardInterrupt``, and errors that only a bug in this
    package's own code raises. Warnings of the reading library are silenced: what matters in them is checked here.

    Parameters
    ----------
    path
        The file or folder that is read.
    what
        What it should be, to complete "cannot be read as ...".
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    except (ExpressorError, MemoryError):
        raise
    except Exception as error:
        if isinstance(error, _BUGS) and _is_raised_here(error.__traceback__):
            raise
        reason = " ".join(str(error).split())[:200]
        raise FormatError(
            f"{os.fspath(path)} cannot be read as {what} ({type(error).__name__}: {reason})",
            fix="The file is damaged or of another format; get it again from its source.",
        ) from error


def _is_raised_here(trace: TracebackType | None) -> bool:
    """Whether the innermost frame belongs to this package rather than to an outside library."""
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    return trace is not None and trace.tb_frame.f_globals.get("__name__", "").startswith("expressor.")


def find(path: str | os.PathLike[str], *, what: str) -> Path:
    """Return ``path`` as a Path, or raise :class:`~expressor.core.errors.DataError` when nothing is there."""
    path = Path(path)
    try:
        there = path.exists()
    except (OSError, ValueError) as error:
        raise DataError(f"{str(path)[:200]!r} is no usable path ({error})") from error
    if there:
        return path
    siblings = [one.name for one in path.parent.iterdir()] if path.parent.is_dir() else []
    raise DataError(
        f"there is no {what} at {path}",
        nearest=nearest_names(path.name, siblings),
        fix="Check the path." if siblings else f"The folder {path.parent} does not exist or is empty.",
    )


def check_size(declared: int, stored: int, *, what: str) -> None:
    """Refuse a declared size that the stored bytes cannot hold, or that does not fit in this machine's memory.

    Raises
    ------
    FormatError
        More than ``MAX_RATIO`` declared bytes for each stored one, beyond ``FREE_BYTES``.
    DataError
        More bytes than the machine has memory.
    """
    if declared <= FREE_BYTES:
        return
    if declared > MAX_RATIO * stored:
        raise FormatError(
            f"{what} declares more than it can hold",
            expected=f"at most {MAX_RATIO} times the {stored:,} bytes stored", got=f"{declared:,} bytes",
            fix="The file is damaged or was made to exhaust memory; get it again from its source.",
        )  # fmt: skip
    memory = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") if hasattr(os, "sysconf") else math.inf
    if declared > memory:
        raise DataError(
            f"{what} does not fit into memory",
            expected=f"at most {memory / 2**30:.0f} GiB", got=f"{declared / 2**30:.0f} GiB",
            fix="Take a part of it: fewer sections, larger bins, fewer genes.",
        )  # fmt: skip


def check_hdf5(path: str | os.PathLike[str]) -> None:
    """Check that a file is HDF5, links to no other file, and declares no more than it holds.

    Raises
    ------
    FormatError
        It is not HDF5 or is damaged; or it holds external links, external storage, or datasets larger than it can hold.
    """
    import h5py

    with reading(path, "HDF5"):
        size = Path(path).stat().st_size
        with h5py.File(path, "r") as file:
            links: list[tuple[str, Any]] = []
            sets: list[tuple[str, Any]] = []
            # What a callback raises comes back garbled, so the callbacks only collect.
            file.visititems_links(lambda name, link: links.append((name, link)))
            file.visititems(lambda name, node: sets.append((name, node)) if isinstance(node, h5py.Dataset) else None)
            for name, link in links:
                if isinstance(link, h5py.ExternalLink):
                    raise FormatError(
                        f"{os.fspath(path)} links to another file at {name!r}", fix="Copy the data into one file first."
                    )
            declared = sum(
                _check_dataset(node, size, what=f"{os.fspath(path)}, dataset {name!r},") for name, node in sets
            )
    check_size(declared, size, what=os.fspath(path))


def _check_dataset(node: Any, size: int, *, what: str) -> int:
    """Check where a dataset's values are and how many it declares; return the bytes that it declares."""
    if node.external:
        raise FormatError(f"{what} keeps its values in another file", fix=_ONE_FILE)
    width = node.dtype.itemsize
    declared = math.prod(node.shape or ()) * width
    if node.chunks:
        check_size(math.prod(node.chunks) * width, size, what=what + " by its chunks")
    check_size(declared, min(node.id.get_storage_size(), size), what=what)
    return declared


# Codecs that only transform bytes. Everything else, "pickle" above all, is refused: decoding it could run code.
_CODECS = frozenset(
    "adler32 astype bitround blosc bz2 categorize crc32 crc32c delta fixedscaleoffset fletcher32 gzip jenkins_lookup3 lz4 "
    "lzma packbits quantize shuffle vlen-array vlen-bytes vlen-utf8 zlib zstd bytes endian transpose sharding_indexed".split()
)


def check_zarr(folder: str | os.PathLike[str]) -> None:
    """Check that a folder is a zarr store whose arrays run no code to decode and declare no more than they hold.

    Raises
    ------
    FormatError
        Metadata are missing, unreadable, name an unknown codec, or declare arrays larger than the folder can hold.
    """
    folder = Path(folder)
    names = (".zarray", ".zmetadata", "zarr.json")
    with reading(folder, "zarr"):
        if not any((folder / name).is_file() for name in (".zgroup", ".zmetadata", "zarr.json")):
            raise FormatError(f"{folder} is no zarr store", expected=".zgroup or zarr.json in the folder")
        files = [Path(place) / name for place, _, held in os.walk(folder) for name in held]
        stored = sum(one.stat().st_size for one in files)
        declared = 0
        for one in files:
            if one.name in names:
                if one.stat().st_size > 64 * 2**20:
                    raise FormatError(f"{one} is too large for metadata", expected="at most 64 MiB")
                arrays = _arrays_of(json.loads(one.read_text(encoding="utf-8")))
                sizes = [_check_array(meta, stored=stored, where=one) for meta in arrays]
                declared += sum(sizes) if one.name == ".zarray" or (one.name == "zarr.json" and len(sizes) == 1) else 0
    check_size(declared, stored, what=os.fspath(folder))


def _arrays_of(node: Any, depth: int = 0) -> Iterator[dict[str, Any]]:
    """Yield every object that describes an array, at any depth: consolidated metadata repeat those of the arrays."""
    if isinstance(node, dict):
        if "shape" in node and ("dtype" in node or "data_type" in node):
            yield node
        children: Any = node.values()
    else:
        children = node if isinstance(node, list) else ()
    if depth < 40:
        for child in children:
            yield from _arrays_of(child, depth + 1)


def _check_array(meta: dict[str, Any], *, stored: int, where: Path) -> int:
    """Check one array's codecs and sizes; return the bytes that it declares."""
    for name in _codecs_of(meta):
        if name.removeprefix("numcodecs.") not in _CODECS:
            raise FormatError(
                f"{where} asks for the codec {name!r}", expected="a codec that only transforms bytes",
                fix="Write the data again with a standard compressor.",
            )  # fmt: skip
    chunk = meta.get("chunks")
    if chunk is None:
        grid = meta.get("chunk_grid")
        chunk = grid.get("configuration", {}).get("chunk_shape", []) if isinstance(grid, dict) else []
    declared = _count(meta["shape"], where) * 8
    check_size(_count(chunk, where) * 8, stored, what=f"{where} by its chunks")
    check_size(declared, stored, what=os.fspath(where))
    return declared


def _count(shape: Any, where: Path) -> int:
    if not isinstance(shape, list) or not all(isinstance(n, int) and 0 <= n < 2**62 for n in shape):
        raise FormatError(f"{where} has a bad shape", expected="a list of sizes", got=repr(shape)[:60])
    return math.prod(shape)


def _codecs_of(meta: dict[str, Any]) -> Iterator[str]:
    pending = [meta.get("compressor"), meta.get("filters"), meta.get("codecs")]
    while pending:
        one = pending.pop()
        if isinstance(one, list):
            pending.extend(one)
        elif isinstance(one, dict):
            yield str(one.get("id", one.get("name")))
            inner = one.get("configuration")
            if isinstance(inner, dict):
                pending.extend([inner.get("codecs"), inner.get("index_codecs")])
        elif isinstance(one, str):
            yield one
