"""Stretches of arrays on disk are those of the whole array, however it is kept; damage is refused; memory is used again."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from expressor.core.errors import FormatError
from expressor.data.entries import ChunkEntries, NodeEntries, Room, open_entries

VALUES = np.random.default_rng(0).integers(0, 200, 1000)
LOWS, HIGHS = np.array([0, 7, 130, 990]), np.array([3, 120, 131, 1000])


def keep(folder: Path, kind: str, values: np.ndarray) -> Any:
    """Write an array in one of the ways that are met, and open it."""
    import h5py
    import zarr
    from zarr.codecs import BloscCodec, GzipCodec, ShardingCodec, ZstdCodec

    if kind.startswith("h5"):
        with h5py.File(folder / "a.h5", "w") as file:
            file.create_dataset("a", data=values, compression="gzip" if "gzip" in kind else None)
        return h5py.File(folder / "a.h5", "r")["a"]
    how: dict[str, Any] = {"chunks": (64,)}
    packers = {"blosc": BloscCodec(), "zstd": ZstdCodec(), "gzip": GzipCodec(), "plain": None}
    if "v3" in kind:
        how["compressors"] = packers[kind.split()[-1]]
    if "shards" in kind:
        how["shards"] = (64,) if "of one" in kind else (256,)
    if "first" in kind:
        how["serializer"] = ShardingCodec(chunk_shape=(32,), index_location="start")
        del how["compressors"]
        how["chunks"], how["compressors"] = (256,), None
    group = zarr.open_group(folder / "a.zarr", mode="w", zarr_format=3 if "v3" in kind else 2)
    group.create_array("a", data=values, **how)
    return zarr.open_group(folder / "a.zarr", mode="r")["a"]


@pytest.mark.parametrize("width", [np.uint16, np.float32, np.int64])
@pytest.mark.parametrize("kind", ["h5", "h5 gzip", "v2", *(f"v3 {one}" for one in (
    "blosc", "zstd", "gzip", "plain", "shards blosc", "shards zstd", "shards of one zstd", "first plain"))])  # fmt: skip
def test_stretches_are_those_of_the_whole(tmp_path: Path, kind: str, width: type) -> None:
    values = VALUES.astype(width)
    found = open_entries(keep(tmp_path, kind, values))
    assert isinstance(found, NodeEntries if "h5" in kind or "gzip" in kind else ChunkEntries)
    assert len(found) == 1000
    for lows, highs in ((LOWS, HIGHS), (LOWS[2:], HIGHS[2:]), (np.array([5]), np.array([5])), (LOWS[:0], HIGHS[:0])):
        out = np.empty(int((highs - lows).sum()), dtype=found.dtype)
        found.fill(lows, highs, out)
        np.testing.assert_array_equal(out, [values[at] for low, high in zip(lows, highs) for at in range(low, high)])


def test_chunks_that_are_not_stored_hold_the_fill_value(tmp_path: Path) -> None:
    values = VALUES.astype(np.float32)
    values[64:192] = 0
    for kind in ("v2", "v3 blosc", "v3 shards zstd"):
        keep(tmp_path, kind, values)
        for shard in (tmp_path / "a.zarr" / "a").rglob("*"):
            if shard.name in ("3", "15"):
                shard.unlink()
        import zarr

        found = open_entries(zarr.open_group(tmp_path / "a.zarr", mode="r")["a"])
        out = np.empty(1000, dtype=np.float32)
        found.fill(np.array([0]), np.array([1000]), out)
        expected = zarr.open_group(tmp_path / "a.zarr", mode="r")["a"][:]
        np.testing.assert_array_equal(out, expected)
        assert (expected != values).any()


@pytest.mark.parametrize("where", ["index", "chunk", "cut"])
def test_damaged_shards_are_refused(tmp_path: Path, where: str) -> None:
    found = keep(tmp_path, "v3 shards blosc", VALUES.astype(np.float32))
    shard = tmp_path / "a.zarr" / "a" / "c" / "0"
    content = bytearray(shard.read_bytes())
    if where == "index":
        content[-30] ^= 255
    elif where == "chunk":
        content[4:8] = (2**31 - 1).to_bytes(4, "little")  # says that it unpacks to two gigabytes
    shard.write_bytes(content[: len(content) // 2] if where == "cut" else content)
    with (
        pytest.raises(FormatError, match="is damaged")
        if where == "chunk"
        else pytest.raises((FormatError, RuntimeError))
    ):
        open_entries(found).fill(np.array([0]), np.array([9]), np.empty(9, dtype=np.float32))


def test_room_is_used_again() -> None:
    room = Room()
    first = room.take("a", 1000, np.dtype(np.float32))
    assert np.shares_memory(first, room.take("a", 1040, np.dtype(np.float32)))
    assert not np.shares_memory(first, room.take("b", 1000, np.dtype(np.float32)))
    assert not np.shares_memory(first, room.take("a", 1000, np.dtype(np.int32)))
    assert len(room.take("a", 5000, np.dtype(np.int32))) == 5000
