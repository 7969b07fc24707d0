"""Checks that an HDF5 file is safe to open: whole, closed in itself, and no larger than it says.

The HDF5 library trusts what it reads. Some damage makes it loop for ever (a heap object of no size), other damage makes it
allocate whatever the file declares; both are looked for here, before anything else touches the file.
"""

import math
import mmap
import os
from pathlib import Path
from typing import Any

from expressor.core.errors import FormatError
from expressor.data.guard import DAMAGED, check_size, reading

_WINDOW = 16 * 2**20  # bytes of a file looked through before their memory is given back; a multiple of any page
_ONE_FILE = "Copy the data into one file first."
_HEAP, _HEAP_HEAD, _OBJECT_HEAD, _SMALLEST_HEAP = b"GCOL\x01\0\0\0", 16, 16, 4096


def check_hdf5(path: str | os.PathLike[str], *, whole: bool = True) -> None:
    """Check that a file is HDF5, its heaps are whole, it needs no other file, and it declares no more than it holds.

    Parameters
    ----------
    path
        The file.
    whole
        Whether all of it will be in memory at once. If not, each dataset may still declare no more than is stored.

    Raises
    ------
    FormatError
        It is not HDF5 or is damaged; or it holds external links, external storage, or datasets larger than it can hold.
    DataError
        Its datasets do not fit into this machine's memory.
    """
    import h5py

    with reading(path, "HDF5"):
        size = Path(path).stat().st_size
        _check_heaps(Path(path), size)
        with h5py.File(path, "r") as file:
            links: list[tuple[str, Any]] = []
            sets: list[tuple[str, Any]] = []
            # What a callback raises comes back garbled, so the callbacks only collect.
            file.visititems_links(lambda name, link: links.append((name, link)))
            file.visititems(lambda name, node: sets.append((name, node)) if isinstance(node, h5py.Dataset) else None)
            for name, link in links:
                if isinstance(link, h5py.ExternalLink):
                    raise FormatError(f"{os.fspath(path)} links to another file at {name!r}", fix=_ONE_FILE)
            declared = sum(
                _check_dataset(one, size, what=f"{os.fspath(path)}, dataset {name!r},", whole=whole)
                for name, one in sets
            )
    check_size(declared, size, what=os.fspath(path), in_memory=whole)


def _check_dataset(node: Any, size: int, *, what: str, whole: bool) -> int:
    """Check where a dataset's values are and how many it declares; return the bytes that it declares."""
    if node.external:
        raise FormatError(f"{what} keeps its values in another file", fix=_ONE_FILE)
    width = node.dtype.itemsize
    declared = math.prod(node.shape or ()) * width
    if node.chunks:
        check_size(math.prod(node.chunks) * width, size, what=what + " by its chunks")
    check_size(declared, min(node.id.get_storage_size(), size), what=what, in_memory=whole)
    return declared


def _check_heaps(path: Path, size: int) -> None:
    """Walk every global heap (where texts of variable length are kept) as the library would, and refuse one without an end."""
    if size == 0:
        raise FormatError(f"{path} is empty", fix=DAMAGED)
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
        for low in range(0, size, _WINDOW):
            high = min(size, low + _WINDOW + len(_HEAP) - 1)
            start = content.find(_HEAP, low, high)
            while start >= 0:
                _check_heap(content, start, path)
                start = content.find(_HEAP, start + 1, high)
            if hasattr(mmap, "MADV_DONTNEED"):
                content.madvise(mmap.MADV_DONTNEED, low, min(_WINDOW, size - low))


def _check_heap(content: mmap.mmap, start: int, path: Path) -> None:
    length = int.from_bytes(content[start + 8 : start + 16], "little")
    if not _SMALLEST_HEAP <= length <= len(content) - start:
        raise FormatError(
            f"a heap of {path} is damaged",
            expected=f"{_SMALLEST_HEAP} to {len(content) - start} bytes",
            got=length,
            fix=DAMAGED,
        )
    place, end = start + _HEAP_HEAD, start + length
    while place + _OBJECT_HEAD <= end:
        number = int.from_bytes(content[place : place + 2], "little")
        taken = int.from_bytes(content[place + 8 : place + 16], "little")
        # Free space (number 0) counts its own head; objects do not, and are padded to eight bytes.
        step = taken if number == 0 else _OBJECT_HEAD + -(-taken // 8) * 8
        if step < _OBJECT_HEAD or place + step > end:
            raise FormatError(
                f"a heap of {path} is damaged", expected=f"an object within {end - place} bytes", got=taken, fix=DAMAGED
            )
        place += step
