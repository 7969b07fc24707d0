"""Pixels of TIFF files (through tifffile) and whole-slide formats (through openslide), read tile by tile."""

import math
import re
import struct
from collections import OrderedDict
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from expressor.core.errors import ExpressorError, FormatError, MissingExtra
from expressor.core.optional import need
from expressor.data.guard import reading
from expressor.data.pixels import AN_IMAGE, PixelSource, WholeSource, check_extent

# Decoded tiles that are kept, because neighbouring patches share them.
_KEPT_BYTES = 128 * 2**20
_LARGEST_TILE = 64_000_000
_MOST_LEVELS = 32
_MOST_PIXELS = 10**11
_MOST_DIRECTORIES = 4096
# Rows of an uncompressed image without tiles that are read at a time.
_ROWS = 64
_NUMBERS = (
    "imagewidth", "imagelength", "imagedepth", "samplesperpixel", "bitspersample", "planarconfig", "compression", "predictor",
    "fillorder", "photometric", "tilewidth", "tilelength", "rowsperstrip",
)  # fmt: skip
_LZW = 5
_OME_SIZE = re.compile(r'PhysicalSizeX="([0-9.eE+-]+)"')
_OME_UNIT = re.compile(r'PhysicalSizeXUnit="([^"]*)"')


def open_tiff(path: Path, *, max_pixels: int) -> PixelSource:
    """Open a TIFF in the way that can decode it.

    tifffile where it has the codec; else openslide for tiled files where it is installed; else Pillow, which decodes the whole
    image at once.

    Raises
    ------
    FormatError
        The file is damaged, or not a colour or grey image of 8 or 16 bits.
    MissingExtra
        tifffile is not installed, or the file is large and its compression needs the package imagecodecs.
    """
    tifffile = need("tifffile", extra="histology", purpose="read TIFF images")
    with reading(path, AN_IMAGE):
        file = tifffile.TiffFile(path)
    try:
        return TiffSource(path, file)
    except _NoCodec as error:
        file.close()
        missing = error
    except BaseException:
        file.close()
        raise
    if missing.is_tiled:
        try:
            return SlideSource(path)
        except (MissingExtra, FormatError):
            # Not installed, or not a layout that it reads: Pillow may still decode the whole.
            pass
    if missing.pixels > max_pixels and missing.needs_imagecodecs:
        raise MissingExtra(
            f"{path} has {missing.pixels} pixels in {missing} compression, which needs 'imagecodecs' to be read tile by tile",
            fix="Install it with: pip install imagecodecs",
        )
    return WholeSource(path, kind="TIFF", max_pixels=max_pixels)


class _NoCodec(ExpressorError):
    """The installed tifffile cannot decode this compression."""

    def __init__(self, name: str, *, is_tiled: bool, pixels: int, needs_imagecodecs: bool = False) -> None:
        super().__init__(name)
        self.is_tiled, self.pixels, self.needs_imagecodecs = is_tiled, pixels, needs_imagecodecs


class TiffSource:
    """A TIFF or OME-TIFF, pyramidal or not; only the tiles or strips under a box are decoded."""

    def __init__(self, path: Path, file: Any) -> None:
        self.path = path
        self._file = file
        self._kept: OrderedDict[tuple[int, int], np.ndarray] = OrderedDict()
        self._kept_bytes = 0
        with reading(path, AN_IMAGE):
            if not file.series:
                raise FormatError(f"{path} holds no picture")
            series = file.series[0]
            levels = [
                level for level in list(series.levels)[:_MOST_LEVELS] if level.axes == series.axes and level.pages
            ]
            if series.axes not in ("YXS", "SYX", "YX"):
                raise FormatError(
                    f"{path} is not a colour or grey picture",
                    expected="axes YXS, SYX or YX",
                    got=f"axes {series.axes}, shape {series.shape}",
                    fix="Export the H&E image as an RGB picture.",
                )
            self._layers = [_Layer(file, level.pages[0].keyframe, path) for level in levels]
            self.um_per_px = _ome_scale(file)
        self.sizes: tuple[tuple[int, int], ...] = tuple((layer.width, layer.height) for layer in self._layers)
        if list(self.sizes) != sorted(self.sizes, reverse=True):
            raise FormatError(f"the resolution levels of {path} are out of order", got=list(self.sizes))

    def read(self, level: int, x0: int, y0: int, width: int, height: int) -> Image.Image:
        """See :class:`~expressor.data.pixels.PixelSource`."""
        layer = self._layers[level]
        out = np.zeros((height, width, layer.samples), dtype=layer.dtype)
        for row in range(y0 // layer.tile_height, (y0 + height - 1) // layer.tile_height + 1):
            for column in range(x0 // layer.tile_width, (x0 + width - 1) // layer.tile_width + 1):
                top, left = row * layer.tile_height, column * layer.tile_width
                tile = self._tile(level, row, column)
                lower, right = min(top + tile.shape[0], y0 + height), min(left + tile.shape[1], x0 + width)
                upper, first = max(top, y0), max(left, x0)
                out[upper - y0 : lower - y0, first - x0 : right - x0] = tile[
                    upper - top : lower - top, first - left : right - left
                ]
        if layer.dtype == np.uint16:
            out = np.rint(out / 257.0).astype(np.uint8)
        return Image.fromarray(out[..., 0] if layer.samples == 1 else out[..., :3]).convert("RGB")

    def preview(self, max_px: int) -> Image.Image | None:
        """See :class:`~expressor.data.pixels.PixelSource`."""
        return None

    def close(self) -> None:
        """See :class:`~expressor.data.pixels.PixelSource`."""
        self._kept.clear()
        self._file.close()

    def _tile(self, level: int, row: int, column: int) -> np.ndarray:
        layer = self._layers[level]
        key = (level, row * layer.across + column)
        if key in self._kept:
            self._kept.move_to_end(key)
            return self._kept[key]
        with reading(self.path, AN_IMAGE):
            tile = layer.decode(row, column)
        self._kept[key] = tile
        self._kept_bytes += tile.nbytes
        while self._kept_bytes > _KEPT_BYTES and len(self._kept) > 1:
            self._kept_bytes -= self._kept.popitem(last=False)[1].nbytes
        return tile


class _Layer:
    """One resolution level: its grid of tiles or strips, and how to decode one."""

    def __init__(self, file: Any, page: Any, path: Path) -> None:
        self._file, self._page, self._path = file, page, path
        self._number = {name: _number_of(page, name, path) for name in _NUMBERS}
        self.width, self.height = self._number["imagewidth"], self._number["imagelength"]
        self.samples = self._number["samplesperpixel"]
        if page.dtype not in ("uint8", "uint16") or self.samples not in (1, 3, 4) or self._number["imagedepth"] != 1:
            raise FormatError(
                f"{path} is not a colour or grey picture",
                expected="1, 3 or 4 channels of 8 or 16 bits",
                got=f"{self.samples} of {page.dtype}",
            )
        self.dtype = np.dtype(page.dtype)
        self._planes = self.samples if self._number["planarconfig"] == 2 and self.samples > 1 else 1
        pixel_bytes = self.dtype.itemsize * self.samples // self._planes
        self._row_bytes = self.width * pixel_bytes
        self._is_plain = self._lies_in_one_run()
        if self._is_plain:
            self.tile_width, self.tile_height = self.width, min(_ROWS, self.height)
        elif page.is_tiled:
            self.tile_width, self.tile_height = self._number["tilewidth"], self._number["tilelength"]
        else:
            self.tile_width, self.tile_height = self.width, self._number["rowsperstrip"]
        self._check_sides()
        self.across, self.down = -(-self.width // self.tile_width), -(-self.height // self.tile_height)
        self._most_bytes = 2 * self.tile_width * self.tile_height * pixel_bytes + 4096
        self._check_places()
        self._check_codec()

    def _lies_in_one_run(self) -> bool:
        plain = {"compression": 1, "predictor": 1, "fillorder": 1, "bitspersample": self.dtype.itemsize * 8}
        return (
            all(self._number[name] == value for name, value in plain.items())
            and not self._page.is_tiled
            and self._planes == 1
            and bool(self._page.is_contiguous)
        )

    def _check_sides(self) -> None:
        pixels, tile = self.width * self.height, self.tile_width * self.tile_height
        if min(self.width, self.height, self.tile_width, self.tile_height) < 1:
            raise FormatError(f"{self._path} declares tiles or levels without pixels")
        if tile > max(4 * pixels, 2**20) or pixels > _MOST_PIXELS:
            raise FormatError(
                f"{self._path} declares {self.width} x {self.height} pixels in tiles of {self.tile_width} x {self.tile_height}",
                expected=f"at most {_MOST_PIXELS} pixels, in tiles of about the image's size or less",
            )
        if self._number["photometric"] not in (1, 2, 6):
            # White-is-zero, palettes and CMYK: Pillow knows them.
            raise _NoCodec(f"colour model {self._number['photometric']}", is_tiled=False, pixels=pixels)
        if tile > _LARGEST_TILE:
            raise _NoCodec("one-piece", is_tiled=False, pixels=pixels)

    def _check_places(self) -> None:
        offsets, sizes, held = self._page.dataoffsets, self._page.databytecounts, self._file.filehandle.size
        wanted = 1 if self._is_plain else self.across * self.down * self._planes
        if min(len(offsets), len(sizes)) < wanted:
            raise FormatError(f"{self._path} lacks tiles", expected=wanted, got=min(len(offsets), len(sizes)))
        if self._is_plain and offsets[0] + self.height * self._row_bytes > held:
            raise FormatError(
                f"{self._path} is shorter than the image that it declares",
                expected=f"{self.height * self._row_bytes} bytes of pixels",
                got=f"{held} bytes in all",
            )

    def decode(self, row: int, column: int) -> np.ndarray:
        """Return one tile, cut to the image: (row, column, sample)."""
        if self._is_plain:
            return self._plain_rows(row * self.tile_height)
        area = self.across * self.down
        planes = [self._segment(plane * area + row * self.across + column) for plane in range(self._planes)]
        tile = planes[0] if len(planes) == 1 else np.concatenate(planes, axis=2)
        return tile[: self.height - row * self.tile_height, : self.width - column * self.tile_width]

    def _plain_rows(self, top: int) -> np.ndarray:
        rows = min(self.tile_height, self.height - top)
        self._file.filehandle.seek(self._page.dataoffsets[0] + top * self._row_bytes)
        data = self._file.filehandle.read(rows * self._row_bytes)
        stored = self.dtype.newbyteorder(self._file.byteorder)
        return np.frombuffer(data, dtype=stored).reshape(rows, self.width, self.samples).astype(self.dtype)

    def _segment(self, index: int) -> np.ndarray:
        page, size = self._page, self._page.databytecounts[index]
        if size == 0:
            # Scanners leave out empty tiles: glass.
            shape = (self.tile_height, self.tile_width, self.samples // self._planes)
            return np.full(shape, np.iinfo(self.dtype).max, dtype=self.dtype)
        # No codec needs twice the raw size: more is damage, or a file made to fill the memory.
        if size > self._most_bytes:
            raise FormatError(
                f"tile {index} of {self._path} is too large", expected=f"at most {self._most_bytes} bytes", got=size
            )
        self._file.filehandle.seek(page.dataoffsets[index])
        data = self._file.filehandle.read(size)
        tables = {"jpegtables": page.jpegtables} if self._number["compression"] in (6, 7, 34892, 33007) else {}
        values, _, _ = page.decode(data, index, **tables)
        return np.asarray(values)[0]

    def _check_codec(self) -> None:
        compression, predictor = self._number["compression"], self._number["predictor"]
        if self._is_plain or compression == 1:
            return
        import tifffile

        try:
            if compression == _LZW:
                # Its decoder in imagecodecs may end the process on damaged data; those of Pillow and openslide do not.
                raise KeyError(compression)
            tifffile.TIFF.DECOMPRESSORS[compression]
            if predictor != 1:
                tifffile.TIFF.UNPREDICTORS[predictor]
        except (KeyError, ImportError) as error:
            name = getattr(self._page.compression, "name", str(compression))
            raise _NoCodec(
                name,
                is_tiled=bool(self._page.is_tiled),
                pixels=self.width * self.height,
                needs_imagecodecs=compression != _LZW,
            ) from error


def _number_of(page: Any, name: str, path: Path) -> int:
    """One of the page's numbers; a damaged directory may hold anything in its place."""
    value = getattr(page, name, None)
    if not isinstance(value, int) or value < 0:
        raise FormatError(
            f"the directory of {path} is damaged", expected=f"a number for {name!r}", got=repr(value)[:40]
        )
    return int(value)


class SlideSource:
    """A slide in a scanner's format; tiles are decoded and kept by openslide."""

    def __init__(self, path: Path) -> None:
        openslide = need("openslide", extra="slides", purpose="read whole-slide images")
        self.path = path
        _check_declared_tiles(path)
        with reading(path, AN_IMAGE):
            self._slide = openslide.OpenSlide(str(path))
            self.sizes: tuple[tuple[int, int], ...] = tuple(self._slide.level_dimensions)
            self.um_per_px = _slide_scale(self._slide.properties)
        check_extent(*self.sizes[0], path=path, max_pixels=_MOST_PIXELS)

    def read(self, level: int, x0: int, y0: int, width: int, height: int) -> Image.Image:
        """See :class:`~expressor.data.pixels.PixelSource`."""
        (full_width, full_height), (level_width, level_height) = self.sizes[0], self.sizes[level]
        corner = (round(x0 * full_width / level_width), round(y0 * full_height / level_height))
        with reading(self.path, AN_IMAGE):
            picture = self._slide.read_region(corner, level, (width, height))
        # Where the scanner recorded nothing, pixels are transparent: glass.
        canvas = Image.new("RGB", picture.size, (255, 255, 255))
        canvas.paste(picture, mask=picture.getchannel("A"))
        return canvas

    def preview(self, max_px: int) -> Image.Image | None:
        """See :class:`~expressor.data.pixels.PixelSource`."""
        return None

    def close(self) -> None:
        """See :class:`~expressor.data.pixels.PixelSource`."""
        self._slide.close()


def _check_declared_tiles(path: Path) -> None:
    """Refuse a TIFF-based slide that declares gigantic tiles: openslide ends the process when it cannot allocate one."""
    with reading(path, AN_IMAGE), path.open("rb") as stream:
        head = stream.read(16)
        order = {b"II": "<", b"MM": ">"}.get(head[:2])
        if order is None or len(head) < 16:
            return
        is_big = struct.unpack(order + "H", head[2:4])[0] == 43
        count_format, entry_format, offset_format = ("Q", "HHQ8s", "Q") if is_big else ("H", "HHI4s", "I")
        entry_size = struct.calcsize(order + entry_format)
        offset = struct.unpack_from(order + offset_format, head, 8 if is_big else 4)[0]
        seen: set[int] = set()
        while offset and offset not in seen and len(seen) < _MOST_DIRECTORIES:
            seen.add(offset)
            stream.seek(offset)
            raw = stream.read(struct.calcsize(order + count_format))
            if len(raw) < struct.calcsize(order + count_format):
                return
            count = min(struct.unpack(order + count_format, raw)[0], 4096)
            raw = stream.read(count * entry_size + struct.calcsize(order + offset_format))
            values = {}
            for tag, kind, number, value in struct.iter_unpack(
                order + entry_format, raw[: len(raw) // entry_size * entry_size]
            ):
                if number == 1 and kind in (3, 4, 16):
                    values[tag] = struct.unpack_from(order + {3: "H", 4: "I", 16: "Q"}[kind], value.ljust(8, b"\0"))[0]
            # Tags 256 and 257 are the sides of the image, 322 and 323 those of its tiles; slides in one strip have none.
            width, height = values.get(256, 0), values.get(257, 0)
            tile = values.get(322, 0) * values.get(323, 0)
            if tile > max(4 * width * height, 2**20) or tile > _LARGEST_TILE or width * height > _MOST_PIXELS:
                raise FormatError(f"{path} declares {width} x {height} pixels in tiles of {tile} pixels")
            if len(raw) < count * entry_size + struct.calcsize(order + offset_format):
                return
            offset = struct.unpack_from(order + offset_format, raw, count * entry_size)[0]


def _slide_scale(properties: Any) -> float | None:
    try:
        x, y = float(properties["openslide.mpp-x"]), float(properties["openslide.mpp-y"])
    except (KeyError, ValueError):
        return None
    mean = (x + y) / 2
    return mean if math.isfinite(mean) and mean > 0 and abs(x - y) < 0.05 * mean else None


def _ome_scale(file: Any) -> float | None:
    text = str(file.ome_metadata or "") if file.is_ome else ""
    size = _OME_SIZE.search(text)
    if size is None:
        return None
    unit = _OME_UNIT.search(text)
    factor = {"µm": 1.0, "um": 1.0, "nm": 1e-3, "mm": 1e3, "cm": 1e4}.get(unit.group(1) if unit else "µm")
    try:
        value = float(size.group(1)) * factor if factor else math.nan
    except ValueError:
        return None
    return value if math.isfinite(value) and value > 0 else None
