"""Checks that a zarr store is safe to open: whole, decoded without running code, and no larger than it says."""

import json
import math
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from expressor.core.errors import FormatError
from expressor.data.guard import DAMAGED, check_size, reading

METADATA = (".zarray", ".zmetadata", "zarr.json")
MAX_METADATA_BYTES = 64 * 2**20
# Codecs that only transform bytes. Everything else, "pickle" above all, is refused: decoding it could run code.
_CODECS = frozenset(
    "adler32 astype bitround blosc bz2 bytes categorize crc32 crc32c delta endian fixedscaleoffset fletcher32 gzip "
    "jenkins_lookup3 lz4 lzma packbits quantize sharding_indexed shuffle transpose vlen-bytes vlen-utf8 zlib zstd".split()
)
_TEXT = ("vlen-utf8", "vlen-bytes")


def check_zarr(folder: str | os.PathLike[str], *, whole: bool = True) -> None:
    """Check that a folder is a zarr store whose arrays run no code to decode and declare no more than they hold.

    Parameters
    ----------
    folder
        The store.
    whole
        Whether all of it will be in memory at once.

    Raises
    ------
    FormatError
        Metadata are missing, unreadable, or name an unknown codec; an array or a chunk of one is larger than the folder can hold.
    DataError
        The arrays do not fit into this machine's memory.
    """
    folder = Path(folder)
    with reading(folder, "zarr"):
        if not any((folder / name).is_file() for name in (".zgroup", ".zmetadata", "zarr.json")):
            raise FormatError(f"{folder} is no zarr store", expected=".zgroup or zarr.json in the folder")
        files = [Path(place) / name for place, _, held in os.walk(folder) for name in held]
        stored = sum(one.stat().st_size for one in files)
        declared = sum(_check_metadata(one, stored=stored, whole=whole) for one in files if one.name in METADATA)
    check_size(declared, stored, what=os.fspath(folder), in_memory=whole)


def _check_metadata(path: Path, *, stored: int, whole: bool) -> int:
    """Check all arrays that a metadata file describes and the chunks of its own; return the bytes that its own declares."""
    if path.stat().st_size > MAX_METADATA_BYTES:
        raise FormatError(f"{path} is too large for metadata", expected=f"at most {MAX_METADATA_BYTES} bytes")
    content = json.loads(path.read_text(encoding="utf-8"))
    for array in _arrays_of(content):
        _check_array(array, stored=stored, where=path, whole=whole)
    is_own = isinstance(content, dict) and "shape" in content and path.name != ".zmetadata"
    if not is_own:
        return 0
    for chunk in path.parent.rglob("*"):
        if chunk.is_file() and not chunk.name.startswith(".z") and chunk.name != "zarr.json":
            _check_chunk(chunk, content)
    return _count(content["shape"], path) * _width(content)


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


def _check_array(meta: dict[str, Any], *, stored: int, where: Path, whole: bool) -> None:
    for name in _codecs_of(meta):
        if name not in _CODECS:
            raise FormatError(
                f"{where} asks for the codec {name!r}", expected="a codec that only transforms bytes",
                fix="Write the data again with a standard compressor.",
            )  # fmt: skip
    width = _width(meta)
    check_size(_count(_chunk_shape(meta), where) * width, stored, what=f"{where} by its chunks")
    check_size(_count(meta["shape"], where) * width, stored, what=os.fspath(where), in_memory=whole)


def _chunk_shape(meta: dict[str, Any]) -> Any:
    if "chunks" in meta:
        return meta["chunks"]
    grid = meta.get("chunk_grid")
    inner = grid.get("configuration") if isinstance(grid, dict) else None
    return inner.get("chunk_shape") if isinstance(inner, dict) else None


def _count(shape: Any, where: Path) -> int:
    if not isinstance(shape, list) or not all(isinstance(n, int) and 0 <= n < 2**62 for n in shape):
        raise FormatError(f"{where} has a bad shape", expected="a list of sizes", got=repr(shape)[:60])
    return math.prod(shape)


def _width(meta: dict[str, Any]) -> int:
    """Bytes of one value in memory: at least 8, because text and unknown types are kept as references."""
    digits = "".join(letter for letter in str(meta.get("dtype", "")) if letter.isdigit())
    return max(8, min(int(digits[:6] or 8), 1 << 20))


def _codecs_of(meta: dict[str, Any]) -> Iterator[str]:
    pending = [meta.get("compressor"), meta.get("filters"), meta.get("codecs")]
    while pending:
        one = pending.pop()
        if isinstance(one, list):
            pending.extend(one)
        elif isinstance(one, dict):
            yield str(one.get("id", one.get("name"))).removeprefix("numcodecs.")
            inner = one.get("configuration")
            if isinstance(inner, dict):
                pending.extend([inner.get("codecs"), inner.get("index_codecs")])
        elif isinstance(one, str):
            yield one


def _check_chunk(path: Path, meta: dict[str, Any]) -> None:
    """Check the size that a chunk's first bytes declare, and of text the number of texts: decoders allocate both unasked."""
    codecs = list(_codecs_of(meta))
    stored = path.stat().st_size
    values = _count(_chunk_shape(meta), path)
    with path.open("rb") as file:
        head = file.read(32)
    is_text = any(name in _TEXT for name in codecs)
    limit = max(1 << 24, 2000 * stored) if is_text else values * _width(meta) + 64
    packer = next((name for name in codecs if name in ("blosc", "zstd", "lz4")), None)
    declared = declared_size(head, packer)
    if declared > limit:
        raise FormatError(
            f"{path} declares more than a chunk holds",
            expected=f"at most {limit:,} bytes",
            got=f"{declared:,}",
            fix=DAMAGED,
        )
    if is_text and "sharding_indexed" not in codecs:
        _check_texts(path, [name for name in codecs if name not in _TEXT], values)


def declared_size(head: bytes, packer: str | None) -> int:
    """Return the bytes that the head of a compressed chunk says it unpacks to; 0 where it does not say.

    Parameters
    ----------
    head
        The first 32 bytes of the chunk, or more.
    packer
        Name of the codec that packed it.
    """
    if packer == "blosc":
        return int.from_bytes(head[4:8], "little")
    if packer == "lz4":
        return int.from_bytes(head[:4], "little")
    if packer == "zstd" and len(head) > 5 and head[:4] == b"\x28\xb5\x2f\xfd":
        flags = head[4]
        single, kind = bool(flags & 32), flags >> 6
        start = 5 + (0 if single else 1) + (0, 1, 2, 4)[flags & 3]
        width = (1 if single else 0, 2, 4, 8)[kind]
        return int.from_bytes(head[start : start + width], "little") + (256 if kind == 1 else 0)
    return 0


def _check_texts(path: Path, packers: list[str], values: int) -> None:
    import numcodecs  # type: ignore[import-untyped]

    content = path.read_bytes()
    for name in packers:
        content = bytes(numcodecs.get_codec({"id": name}).decode(content))
    found = int.from_bytes(content[:4], "little") if len(content) >= 4 else -1
    if found != values:
        raise FormatError(
            f"{path} holds another number of texts than its array", expected=values, got=found, fix=DAMAGED
        )
