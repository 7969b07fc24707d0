"""Features of other tools: files as TRIDENT, HEST and LazySlide lay them out, matched by name and by place."""

import contextlib
import struct

import h5py
import numpy as np
import pytest

from expressor.core.errors import DataError, ExpressorError, FormatError
from expressor.data.precomputed import read_features

RNG = np.random.default_rng(0)
FEATURES = RNG.normal(size=(12, 5)).astype(np.float32)
CORNERS = np.array([[x * 256, y * 256] for y in range(3) for x in range(4)], dtype=np.int64)


def write_trident(path, features=FEATURES, coords=CORNERS, **attributes):
    with h5py.File(path, "w") as file:
        stored = file.create_dataset("features", data=features, chunks=(1, *features.shape[1:]))
        stored.attrs["encoder"] = "uni_v1"
        places = file.create_dataset("coords", data=coords)
        for key, value in (
            {"patch_size": 224, "patch_size_level0": 256, "level0_magnification": 40} | attributes
        ).items():
            if value is not None:
                places.attrs[key] = value


def write_hest(path, **replaced):
    content = {
        "embeddings": FEATURES.astype(np.float16),
        "barcodes": np.array([[f"spot-{i}".encode()] for i in range(12)]),
        "coords": CORNERS,
    } | replaced
    with h5py.File(path, "w") as file:
        for key, value in content.items():
            if value is not None:
                file[key] = value


def test_trident(tmp_path):
    folder = tmp_path / "features_uni_v1"
    folder.mkdir()
    write_trident(folder / "x.h5")
    found = read_features(folder / "x.h5")
    np.testing.assert_array_equal(found.features, FEATURES)
    np.testing.assert_array_equal(found.centres_px, CORNERS + 128)
    assert (found.encoder, found.names, len(found)) == ("uni_v1", None, 12)
    spots = np.array([[640.0, 130.0], [130.0, 120.0]])
    np.testing.assert_array_equal(found.for_centres(spots, within_px=20), FEATURES[[2, 0]])
    with pytest.raises(
        DataError, match=r"1 of 2 spots have no patch .*expected a patch centre within 20 px, got 100.0 px"
    ):
        found.for_centres(spots + [[0, 0], [0, 108]], within_px=20)
    with pytest.raises(DataError, match="carry no spot names.*for_centres"):
        found.for_names(["spot-1"])


def test_the_leading_axis_of_some_writers(tmp_path):
    write_trident(tmp_path / "x.h5", features=FEATURES[None])
    np.testing.assert_array_equal(read_features(tmp_path / "x.h5").features, FEATURES)


def test_hest(tmp_path):
    write_hest(tmp_path / "x.h5")
    found = read_features(tmp_path / "x.h5")
    assert found.features.dtype == np.float32
    np.testing.assert_array_equal(
        found.for_names(["spot-7", "spot-0", "spot-7"]), FEATURES.astype(np.float16).astype(np.float32)[[7, 0, 7]]
    )
    with pytest.raises(DataError, match="no features for 1 of 2 spots, for example 'spot-70'; nearest: 'spot-7'"):
        found.for_names(["spot-7", "spot-70"])
    write_hest(tmp_path / "y.h5", coords=None)
    with pytest.raises(DataError, match="carry no places.*for_names"):
        read_features(tmp_path / "y.h5").for_centres(np.zeros((1, 2)), within_px=1)
    write_hest(tmp_path / "z.h5", barcodes=np.array([b"a"] * 12))
    with pytest.raises(DataError, match="11 spot names occur twice"):
        read_features(tmp_path / "z.h5").for_names(["a"])


def polygon(x, y, side, order="<"):
    corners = [(x, y), (x + side, y), (x + side, y + side), (x, y + side), (x, y)]
    flat = [value for corner in corners for value in corner]
    return struct.pack(order + "B", order == "<") + struct.pack(order + "III10d", 3, 1, 5, *map(float, flat))


def write_lazyslide(folder, *, tables=("uni_tiles",), drop=0):
    zarr = pytest.importorskip("zarr")
    pyarrow = pytest.importorskip("pyarrow", reason="pyarrow is not installed")
    parquet = pytest.importorskip("pyarrow.parquet", reason="pyarrow is not installed")
    store = zarr.open_group(str(folder), mode="w")
    order = np.random.default_rng(1).permutation(12)
    for name in tables:
        group = store.create_group(f"tables/{name}")
        group.create_array("X", data=FEATURES[order])
        group.attrs["region"] = "tiles"
        group.create_group("obs").create_array("tile_id", data=order)
    (folder / "shapes" / "tiles").mkdir(parents=True)
    shapes = [polygon(*corner, 256, order=">" if i % 2 else "<") for i, corner in enumerate(CORNERS.tolist())]
    table = pyarrow.table({"tile_id": list(range(12 - drop)), "geometry": shapes[: 12 - drop]})
    parquet.write_table(table, folder / "shapes" / "tiles" / "shapes.parquet")
    return order


def test_lazyslide(tmp_path):
    order = write_lazyslide(tmp_path / "x.zarr")
    found = read_features(tmp_path / "x.zarr")
    assert found.encoder == "uni"
    np.testing.assert_array_equal(found.features, FEATURES[order])
    np.testing.assert_array_equal(found.centres_px, CORNERS[order] + 128)
    np.testing.assert_array_equal(found.for_centres(CORNERS[[4]] + 130, within_px=5), FEATURES[[4]])


def test_lazyslide_with_several_tables_or_missing_tiles(tmp_path):
    write_lazyslide(tmp_path / "x.zarr", tables=("uni_tiles", "phikon_tiles"))
    with pytest.raises(
        DataError, match=r"has 2 tables of tile features; got \['phikon_tiles', 'uni_tiles'\]. Name the one"
    ):
        read_features(tmp_path / "x.zarr")
    assert read_features(tmp_path / "x.zarr", table="phikon_tiles").encoder == "phikon"
    with pytest.raises(DataError, match="has no table 'uni_tile'; got .*nearest: 'uni_tiles'"):
        read_features(tmp_path / "x.zarr", table="uni_tile")
    write_lazyslide(tmp_path / "y.zarr", drop=2)
    with pytest.raises(FormatError, match="has no shape for 2 of 12 tiles"):
        read_features(tmp_path / "y.zarr")


@pytest.mark.parametrize(
    ("write", "message"),
    [
        (
            lambda path: write_trident(path, coords=CORNERS[:5]),
            r"'coords' of .* does not place its patches; expected shape \(12, 2\)",
        ),
        (
            lambda path: write_trident(path, patch_size=None, patch_size_level0=None),
            "the attribute 'patch_size_level0'",
        ),
        (
            lambda path: write_trident(path, features=np.array([[b"a", b"b"]] * 12)),
            "'features' of .* is not a table of numbers",
        ),
        (lambda path: write_hest(path, barcodes=None), "does not name its spots"),
        (lambda path: write_hest(path, barcodes=np.array([b"a"])), "expected 12 barcodes, got 1"),
        (
            lambda path: write_hest(path, embeddings=None),
            r"no features of a known layout.*got \['barcodes', 'coords'\]",
        ),
        (lambda path: path.write_bytes(b"nonsense"), r"cannot be read as HDF5 \(OSError"),
    ],
)
def test_other_layouts_are_refused(tmp_path, write, message):
    write(tmp_path / "x.h5")
    with pytest.raises(FormatError, match=message):
        read_features(tmp_path / "x.h5")


def test_absent_files_wrong_kinds_and_values_that_are_not_finite(tmp_path):
    with pytest.raises(DataError, match="there is no feature file"):
        read_features(tmp_path / "x.h5")
    write_trident(tmp_path / "x.h5", features=np.where(np.arange(12)[:, None] == 3, np.nan, FEATURES))
    with pytest.raises(DataError, match="features of 1 of 12 patches in .* are not finite"):
        read_features(tmp_path / "x.h5")
    with pytest.raises(DataError, match="unknown kind 'tridents'"):
        read_features(tmp_path / "x.h5", kind="tridents")
    with pytest.raises(FormatError, match="has no dataset 'embeddings'"):
        read_features(tmp_path / "x.h5", kind="hest")


def test_a_file_that_declares_more_than_it_holds(tmp_path):
    with h5py.File(tmp_path / "x.h5", "w") as file:
        file.create_dataset("features", shape=(10**9, 1024), dtype="f4", chunks=(1, 1024))  # never written: no bytes
        file["coords"] = CORNERS
    with pytest.raises(FormatError, match="declares more than it can hold"):
        read_features(tmp_path / "x.h5")


@pytest.mark.parametrize("times", [80, pytest.param(3000, marks=pytest.mark.slow)])
@pytest.mark.parametrize("write", [write_trident, write_hest])
def test_damaged_files_raise_our_errors_only(tmp_path, write, times):
    write(tmp_path / "x.h5")
    whole, rng = (tmp_path / "x.h5").read_bytes(), np.random.default_rng(times)
    refused = 0
    for _ in range(times):
        data = bytearray(whole)
        for place in rng.integers(0, len(data), rng.integers(1, 12)):
            data[place] = rng.integers(256)
        if rng.random() < 0.2:
            data = data[: rng.integers(len(data))]
        (tmp_path / "y.h5").write_bytes(bytes(data))
        try:
            read_features(tmp_path / "y.h5")
        except ExpressorError:
            refused += 1
    assert refused > times // 10


def test_damaged_zarr_folders_raise_our_errors_only(tmp_path):
    write_lazyslide(tmp_path / "x.zarr")
    files = [path for path in (tmp_path / "x.zarr").rglob("*") if path.is_file()]
    rng = np.random.default_rng(0)
    for _ in range(60):
        path = files[rng.integers(len(files))]
        whole = path.read_bytes()
        data = bytearray(whole)
        for place in rng.integers(0, len(data), 4):
            data[place] = rng.integers(256)
        path.write_bytes(bytes(data[: rng.integers(len(data))] if rng.random() < 0.5 else data))
        with contextlib.suppress(ExpressorError):
            read_features(tmp_path / "x.zarr")
        path.write_bytes(whole)
    assert len(read_features(tmp_path / "x.zarr")) == 12
