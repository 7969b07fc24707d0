"""Features that other tools computed: files of TRIDENT, of HEST's benchmark and of LazySlide, matched to spots by name or place."""

import struct
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from expressor.core.errors import DataError, FormatError, check_choice, check_range, nearest_names
from expressor.core.optional import need
from expressor.data.files import check_hdf5, check_zarr, reading
from expressor.data.patches import dataset, texts

KINDS = ("trident", "hest", "lazyslide")
"""The layouts that are read."""


@dataclass(frozen=True, kw_only=True, eq=False)
class PrecomputedFeatures:
    """Features of the patches of one slide.

    Attributes
    ----------
    features
        float32 (patch, dim), finite.
    centres_px
        float64 (patch, 2): centres of the patches, x and y in full-resolution pixels; None where the file has none.
    names
        Spot names (barcodes) of the patches, or None.
    encoder
        The encoder as the file names it; empty where it does not.
    source
        The file.
    """

    features: np.ndarray
    centres_px: np.ndarray | None
    names: tuple[str, ...] | None
    encoder: str
    source: str

    def __len__(self) -> int:
        return len(self.features)

    def for_names(self, names: Sequence[str]) -> np.ndarray:
        """Return float32 (spot, dim) of the spots with these names, in this order.

        Raises
        ------
        DataError
            The file has no names, a name twice, or no features for a name.
        """
        if self.names is None:
            raise DataError(
                f"the features in {self.source} carry no spot names", fix="Match them by place: for_centres."
            )
        rows = {name: row for row, name in enumerate(self.names)}
        if len(rows) != len(self.names):
            raise DataError(f"{len(self.names) - len(rows)} spot names occur twice in {self.source}")
        absent = [name for name in names if name not in rows]
        if absent:
            raise DataError(
                f"{self.source} has no features for {len(absent)} of {len(names)} spots, for example {absent[0]!r}",
                nearest=nearest_names(str(absent[0]), rows),
                fix="Leave these spots out, or match by place: for_centres.",
            )
        return self.features[[rows[name] for name in names]]

    def for_centres(self, centres_px: np.ndarray, *, within_px: float) -> np.ndarray:
        """Return float32 (spot, dim): for each spot the features of the patch with the nearest centre.

        Parameters
        ----------
        centres_px
            (spot, 2), x and y in full-resolution pixels.
        within_px
            Farthest accepted distance.

        Raises
        ------
        DataError
            The file has no places, or a spot has no patch near enough.
        """
        check_range(within_px, name="within_px", low=0)
        if self.centres_px is None or not len(self):
            raise DataError(f"the features in {self.source} carry no places", fix="Match them by name: for_names.")
        from scipy.spatial import cKDTree

        distance, rows = cKDTree(self.centres_px).query(np.asarray(centres_px, dtype=np.float64))
        far = distance > within_px
        if far.any():
            raise DataError(
                f"{int(far.sum())} of {len(far)} spots have no patch in {self.source} near enough",
                expected=f"a patch centre within {within_px:g} px",
                got=f"{float(distance.max()):.1f} px at the farthest",
                fix="Check that both are full-resolution pixels of the same image, or raise within_px.",
            )
        return self.features[rows]


def read_features(path: str | Path, *, kind: str | None = None, table: str | None = None) -> PrecomputedFeatures:
    """Read features that another tool computed.

    Parameters
    ----------
    path
        An HDF5 file of TRIDENT (``features`` and ``coords``, upper left corners at full resolution) or of HEST's benchmark
        (``embeddings``, ``barcodes``, ``coords``), or a SpatialData zarr folder of LazySlide (a table ``<model>_tiles`` beside
        the shapes of the tiles).
    kind
        ``"trident"``, ``"hest"`` or ``"lazyslide"``; told from the content where it is not given.
    table
        Which table of a LazySlide folder; needed where there are several.

    Raises
    ------
    DataError
        The file or the table does not exist, or the values are not finite.
    FormatError
        The file is damaged or laid out otherwise.
    MissingExtra
        zarr or pyarrow is needed and not installed.
    """
    path = Path(path).absolute()
    if not path.exists():
        raise DataError(f"there is no feature file {path}")
    if kind is not None:
        check_choice(kind, KINDS, name="kind")
    if path.is_dir():
        kind = kind or "lazyslide"
    if kind == "lazyslide":
        found = _read_lazyslide(path, table)
    else:
        found = _read_hdf5(path, kind)
    bad = ~np.isfinite(found.features).all(axis=1)
    if bad.any():
        raise DataError(f"the features of {int(bad.sum())} of {len(bad)} patches in {path} are not finite")
    return found


def _read_hdf5(path: Path, kind: str | None) -> PrecomputedFeatures:
    import h5py

    check_hdf5(path)
    readers: dict[str, Callable[[Any, Path], PrecomputedFeatures]] = {"trident": _read_trident, "hest": _read_hest}
    with reading(path, "a feature file"), h5py.File(path, "r") as file:
        told = "hest" if "embeddings" in file else "trident" if "features" in file else None
        if kind is None and told is None:
            raise FormatError(
                f"{path} holds no features of a known layout",
                expected="datasets 'features' and 'coords' (TRIDENT) or 'embeddings' and 'barcodes' (HEST)",
                got=sorted(file),
            )
        return readers[kind or str(told)](file, path)


def _read_trident(file: Any, path: Path) -> PrecomputedFeatures:
    features = _table(file, "features", path)
    corners = _table(file, "coords", path, dtype=np.float64)
    stated = file["coords"].attrs
    side = _positive(stated.get("patch_size_level0", stated.get("patch_size")))
    if corners.shape != (len(features), 2) or side is None:
        raise FormatError(
            f"'coords' of {path} does not place its patches",
            expected=f"shape ({len(features)}, 2) and the attribute 'patch_size_level0'",
            got=f"shape {corners.shape} and {sorted(stated)}",
        )
    return PrecomputedFeatures(
        features=features,
        centres_px=corners + side / 2,
        names=None,
        # Its files name the encoder in a text of variable length, whose stated length HDF5 would trust; the folder says it too.
        encoder=path.parent.name.removeprefix("features_") if path.parent.name.startswith("features_") else "",
        source=str(path),
    )


def _read_hest(file: Any, path: Path) -> PrecomputedFeatures:
    features = _table(file, "embeddings", path)
    key = "barcodes" if "barcodes" in file else "barcode"
    if key not in file:
        raise FormatError(f"{path} does not name its spots", expected="a dataset 'barcodes'", got=sorted(file))
    names = tuple(texts(file, key, path))
    if len(names) != len(features):
        raise FormatError(f"{path} does not name its spots", expected=f"{len(features)} barcodes", got=len(names))
    centres = _table(file, "coords", path, dtype=np.float64) if "coords" in file else None
    if centres is not None and centres.shape != (len(features), 2):
        raise FormatError(
            f"'coords' of {path} does not place its patches", expected=f"({len(features)}, 2)", got=centres.shape
        )
    return PrecomputedFeatures(features=features, centres_px=centres, names=names, encoder="", source=str(path))


def _table(file: Any, key: str, path: Path, *, dtype: type = np.float32) -> np.ndarray:
    stored = dataset(file, key, path)
    shape = tuple(stored.shape)
    # TRIDENT writes one slide, some tools with a leading axis of length 1.
    if len(shape) == 3 and shape[0] == 1:
        shape = shape[1:]
    if len(shape) != 2 or stored.dtype.kind not in "fiu":
        raise FormatError(
            f"{key!r} of {path} is not a table of numbers",
            expected="(patch, number)",
            got=f"{stored.dtype} {shape}",
        )
    return np.asarray(stored[()], dtype=dtype).reshape(shape)


def _read_lazyslide(path: Path, table: str | None) -> PrecomputedFeatures:
    zarr = need("zarr", extra="spatial", purpose="read a SpatialData folder")
    check_zarr(path)
    with reading(path, "a SpatialData folder"):
        tables = _member(zarr, zarr.open_group(str(path), mode="r"), "tables", path)
        known = sorted(tables.group_keys())
        if table is None:
            tiles = [name for name in known if name.endswith("_tiles")]
            if len(tiles) != 1:
                raise DataError(
                    f"{path} has {len(tiles)} tables of tile features",
                    got=known,
                    fix="Name the one to read with table=.",
                )
            table = tiles[0]
        if table not in known:
            raise DataError(f"{path} has no table {table!r}", nearest=nearest_names(table, known), got=known)
        group = _member(zarr, tables, table, path)
        features = _table(group, "X", path)
        tile_ids = np.asarray(dataset(_member(zarr, group, "obs", path), "tile_id", path, kinds="iu")[()]).reshape(-1)
        region = _text(group.attrs.get("region", "")) or "tiles"
    if len(tile_ids) != len(features) or "/" in region or region.startswith("."):
        raise FormatError(
            f"the tiles of {table!r} in {path} are not told", got=f"{len(tile_ids)} of {len(features)}, in {region!r}"
        )
    centres = _tile_centres(path / "shapes" / region / "shapes.parquet", tile_ids)
    return PrecomputedFeatures(
        features=features,
        centres_px=centres,
        names=None,
        encoder=table.removesuffix("_tiles"),
        source=f"{path}::{table}",
    )


def _member(zarr: Any, group: Any, key: str, path: Path) -> Any:
    found = group[key] if key in group else None
    if not isinstance(found, zarr.Group):
        raise FormatError(f"{path} has no group {key!r}", got=sorted(group))
    return found


def _tile_centres(path: Path, tile_ids: np.ndarray) -> np.ndarray:
    parquet = need("pyarrow.parquet", extra="spatial", purpose="read where the tiles of a slide are")
    with reading(path, "a SpatialData folder"):
        stored = parquet.read_table(path)
        if "geometry" not in stored.column_names:
            raise FormatError(f"{path} holds no shapes", expected="a column 'geometry'", got=stored.column_names)
        shapes = [_centre(one.as_py()) for one in stored["geometry"]]
        ids = stored["tile_id"].to_pylist() if "tile_id" in stored.column_names else range(len(shapes))
    places = dict(zip(ids, shapes))
    absent = [one for one in tile_ids.tolist() if one not in places]
    if absent:
        raise FormatError(f"{path} has no shape for {len(absent)} of {len(tile_ids)} tiles, for example {absent[0]!r}")
    return np.array([places[one] for one in tile_ids.tolist()], dtype=np.float64).reshape(-1, 2)


def _centre(shape: bytes) -> tuple[float, float]:
    """Middle of the bounding box of a polygon in well-known binary."""
    if not isinstance(shape, bytes) or len(shape) < 13 + 16:
        raise FormatError("a tile has no shape", got=repr(shape)[:40])
    order = "<" if shape[0] == 1 else ">"
    kind, rings, points = struct.unpack_from(order + "III", shape, 1)
    if kind != 3 or rings < 1 or points < 1:
        raise FormatError("a tile is not a flat polygon", got=f"well-known binary of type {kind}")
    values = np.frombuffer(shape, dtype=order + "f8", count=2 * points, offset=13).reshape(-1, 2)
    low, high = values.min(axis=0), values.max(axis=0)
    return float(low[0] + high[0]) / 2, float(low[1] + high[1]) / 2


def _positive(value: object) -> float | None:
    """The value as a number above 0, None where it is none."""
    array = np.asarray(value)
    if array.size != 1 or array.dtype.kind not in "fiu":
        return None
    number = float(array.reshape(-1)[0])
    return number if np.isfinite(number) and number > 0 else None


def _text(value: object) -> str:
    return str(value[0]) if isinstance(value, list | tuple) and value else str(value)
