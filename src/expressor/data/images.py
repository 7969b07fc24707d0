"""Tissue images: opened once, read by region, always with a known scale in micrometres per pixel.

Coordinates are full-resolution pixels, x to the right and y down. They are continuous: pixel ``i`` covers ``[i, i + 1)``.
"""

import hashlib
import os
from pathlib import Path
from types import TracebackType
from typing import Self

import numpy as np
from PIL import Image
from scipy import ndimage

from expressor.core.errors import DataError, FormatError, check_range
from expressor.core.log import logger
from expressor.data.pixels import MAX_PIXELS, ArraySource, PixelSource, WholeSource

SLIDE_SUFFIXES = (".svs", ".ndpi", ".mrxs", ".scn", ".bif", ".vms", ".vmu", ".svslide", ".dcm", ".czi")
"""File name endings that are read through openslide."""

_MAGIC = {
    b"\xff\xd8\xff": "JPEG",
    b"\x89PNG\r\n\x1a\n": "PNG",
    b"II*\x00": "TIFF",
    b"MM\x00*": "TIFF",
    b"II+\x00": "TIFF",
    b"MM\x00+": "TIFF",
}
_SCALE_TOLERANCE = 0.05
# Regions above this many source pixels are resampled in strips, so that no second copy of a slide is ever made.
_STRIP_PIXELS = 16_000_000
# Half-width, in output pixels, of the bicubic kernel.
_KERNEL = 2.0

_digests: dict[tuple[str, int, int, int], str] = {}


class TissueImage:
    """An image of a tissue section that is read region by region; made by :func:`open_image`.

    Attributes
    ----------
    path
        Absolute path, or None for pixels in memory.
    width, height
        Full resolution, pixels.
    um_per_px
        Micrometres per full-resolution pixel.
    """

    def __init__(self, source: PixelSource, *, um_per_px: float, path: Path | None = None) -> None:
        self._source = source
        self._stamp = None if path is None else _stamp(path)
        self.path = path
        self.width, self.height = source.sizes[0]
        self.um_per_px = float(um_per_px)

    def region(
        self, x0: float, y0: float, width: float, height: float, *, out: tuple[int, int] | None = None
    ) -> np.ndarray:
        """Read one rectangle.

        Parameters
        ----------
        x0, y0
            Upper left corner in full-resolution pixels; may lie outside the image.
        width, height
            Extent in full-resolution pixels, more than 0.
        out
            ``(width, height)`` of the result; by default the extent itself, rounded. Where it differs from the extent the
            pixels are resampled (bicubic, antialiased), from the coarsest level of the file that is fine enough.

        Returns
        -------
        uint8 (height, width, 3). What lies outside the image is white.

        Raises
        ------
        FormatError
            The file is damaged.
        """
        check_range(width, name="width", low=0, open_low=True)
        check_range(height, name="height", low=0, open_low=True)
        out = (max(1, round(width)), max(1, round(height))) if out is None else out
        level = self._level_for(min(width / out[0], height / out[1]))
        fx, fy = (full / size for full, size in zip(self._source.sizes[0], self._source.sizes[level]))
        box = (x0 / fx, y0 / fy, (x0 + width) / fx, (y0 + height) / fy)
        return self._resample(level, box, out)

    def thumbnail(self, max_px: int = 1024) -> np.ndarray:
        """Return the whole image, uint8 (height, width, 3), shrunk so that its longer side is at most ``max_px``."""
        check_range(max_px, name="max_px", low=1, integer=True)
        shrink = max(1.0, max(self.width, self.height) / max_px)
        out = (max(1, round(self.width / shrink)), max(1, round(self.height / shrink)))
        preview = self._source.preview(max(out))
        if preview is not None:
            return np.asarray(preview.resize(out, Image.Resampling.BICUBIC))
        return self.region(0, 0, self.width, self.height, out=out)

    def tissue_mask(self, max_px: int = 1024) -> np.ndarray:
        """Tell tissue from glass by Otsu's threshold on the colour saturation of the thumbnail.

        Returns
        -------
        bool (height, width), on the grid of :meth:`thumbnail`; True is tissue. Specks below 1/5,000 of the picture are
        dropped and holes of that size are filled. Black surroundings count as background.
        """
        picture = ndimage.gaussian_filter(self.thumbnail(max_px).astype(np.float32), (1.0, 1.0, 0.0))
        saturation = picture.max(axis=2) - picture.min(axis=2)
        # Below 12 of 255 it is the scanner's noise and the slide's tint, not a stain.
        mask = saturation > max(_otsu(saturation), 12.0)
        mask = ndimage.binary_closing(np.pad(mask, 4), iterations=3)[4:-4, 4:-4]
        smallest = max(16, mask.size // 5000)
        return ~_drop_small(~_drop_small(mask, smallest), smallest)

    @property
    def fingerprint(self) -> str:
        """SHA-256 (hex) of the file's bytes, or of the pixels in memory.

        Raises
        ------
        DataError
            The file was changed after it was opened.
        """
        if isinstance(self._source, ArraySource):
            digest = hashlib.sha256(repr(self._source.pixels.shape).encode())
            digest.update(np.ascontiguousarray(self._source.pixels).data)
            return digest.hexdigest()
        if self.path is None:
            raise DataError("this image has neither a file nor pixels in memory, so its content has no fingerprint")
        if _stamp(self.path) != self._stamp:
            raise DataError(f"the image {self.path} was changed while it was open", fix="Open it again.")
        return file_digest(self.path)

    def close(self) -> None:
        """Release the file and the decoded pixels."""
        self._source.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"TissueImage({self.path or 'array'}, {self.width} x {self.height} px, {self.um_per_px:.4g} um/px)"

    def _level_for(self, shrink: float) -> int:
        full = self._source.sizes[0][0]
        fine = [i for i, (width, _) in enumerate(self._source.sizes) if full / width <= shrink * 1.001]
        return fine[-1] if fine else 0

    def _resample(self, level: int, box: tuple[float, float, float, float], out: tuple[int, int]) -> np.ndarray:
        x0, y0, x1, y1 = box
        if (x1 - x0) * (y1 - y0) > _STRIP_PIXELS and out[1] > 1:
            top = out[1] // 2
            cut = y0 + (y1 - y0) * top / out[1]
            upper = self._resample(level, (x0, y0, x1, cut), (out[0], top))
            return np.concatenate([upper, self._resample(level, (x0, cut, x1, y1), (out[0], out[1] - top))])
        corners = tuple(round(edge) for edge in box)
        if max(abs(edge - corner) for edge, corner in zip(box, corners)) < 1e-6 and out == (
            corners[2] - corners[0],
            corners[3] - corners[1],
        ):
            return np.asarray(self._padded(level, *corners))
        margin_x = int(np.ceil(_KERNEL * max(1.0, (x1 - x0) / out[0]))) + 1
        margin_y = int(np.ceil(_KERNEL * max(1.0, (y1 - y0) / out[1]))) + 1
        left, upper_edge = int(np.floor(x0)) - margin_x, int(np.floor(y0)) - margin_y
        canvas = self._padded(level, left, upper_edge, int(np.ceil(x1)) + margin_x, int(np.ceil(y1)) + margin_y)
        inner = (x0 - left, y0 - upper_edge, x1 - left, y1 - upper_edge)
        return np.asarray(canvas.resize(out, Image.Resampling.BICUBIC, box=inner))

    def _padded(self, level: int, x0: int, y0: int, x1: int, y1: int) -> Image.Image:
        width, height = self._source.sizes[level]
        left, upper, right, lower = max(x0, 0), max(y0, 0), min(x1, width), min(y1, height)
        if (left, upper, right, lower) == (x0, y0, x1, y1):
            return self._source.read(level, x0, y0, x1 - x0, y1 - y0)
        canvas = Image.new("RGB", (x1 - x0, y1 - y0), (255, 255, 255))
        if left < right and upper < lower:
            canvas.paste(self._source.read(level, left, upper, right - left, lower - upper), (left - x0, upper - y0))
        return canvas


def open_image(
    image: str | Path | np.ndarray, *, um_per_px: float | None = None, max_pixels: int = MAX_PIXELS
) -> TissueImage:
    """Open a tissue image; the kind of file is told from its content.

    JPEG and PNG are decoded once, at the first pixel asked for. TIFF is read tile by tile (extra ``histology``), whole-slide
    formats through openslide (extra ``slides``).

    Parameters
    ----------
    image
        Path of the file, or uint8 pixels ``(height, width, 3)``.
    um_per_px
        Micrometres per pixel at full resolution. May be left out only where the file itself states it (whole-slide formats,
        OME-TIFF); where both are known and differ by more than 5 %, the file is refused.
    max_pixels
        Largest size that is accepted for files that are decoded whole. A larger declared size is refused before anything is
        allocated.

    Raises
    ------
    DataError
        The file does not exist, or the scale is missing, impossible, or contradicted by the file.
    FormatError
        The file is damaged, too large, or of a kind that is not read.
    MissingExtra
        The package that reads this kind of file is not installed.
    """
    if isinstance(image, np.ndarray):
        return TissueImage(ArraySource(image), um_per_px=_scale(um_per_px, None, where="the image"))
    path = Path(image).absolute()
    source = _open_source(path, max_pixels)
    try:
        scale = _scale(um_per_px, source.um_per_px, where=str(path))
    except DataError:
        source.close()
        raise
    return TissueImage(source, um_per_px=scale, path=path)


def measure_image(path: str | Path, *, max_pixels: int = MAX_PIXELS) -> tuple[int, int]:
    """Return (width, height) in full-resolution pixels without decoding the image and without knowing its scale.

    Raises
    ------
    DataError, FormatError, MissingExtra
        As :func:`open_image`.
    """
    source = _open_source(Path(path).absolute(), max_pixels)
    try:
        return source.sizes[0]
    finally:
        source.close()


def file_digest(path: Path) -> str:
    """Return the SHA-256 (hex) of a file's bytes, remembered within this process while the file stays untouched.

    For formats that keep their pixels in a folder of the same name beside the file (MIRAX), the folder's files count too.
    """
    files = [path]
    folder = path.with_suffix("")
    if path.suffix.lower() == ".mrxs" and folder.is_dir():
        files += sorted(one for one in folder.rglob("*") if one.is_file())
    digests = [_one_digest(one) for one in files]
    return digests[0] if len(digests) == 1 else hashlib.sha256("".join(digests).encode()).hexdigest()


def _one_digest(path: Path) -> str:
    key = _stamp(path)
    if key not in _digests:
        with path.open("rb") as stream:
            _digests[key] = hashlib.file_digest(stream, "sha256").hexdigest()
    return _digests[key]


def _stamp(path: Path) -> tuple[str, int, int, int]:
    try:
        found = os.stat(path)
    except OSError as error:
        raise DataError(f"the image {path} cannot be read ({error.strerror})") from error
    return str(path), found.st_size, found.st_mtime_ns, found.st_ino


def _open_source(path: Path, max_pixels: int) -> PixelSource:
    try:
        with path.open("rb") as stream:
            head = stream.read(16)
    except OSError as error:
        raise DataError(
            f"the image {path} cannot be read ({error.strerror})",
            fix="Give the path of the image file, or mount its folder.",
        ) from error
    kind = next((kind for magic, kind in _MAGIC.items() if head.startswith(magic)), None)
    if path.suffix.lower() in SLIDE_SUFFIXES:
        from expressor.data.slides import SlideSource

        return SlideSource(path)
    if kind == "TIFF":
        from expressor.data.slides import open_tiff

        return open_tiff(path, max_pixels=max_pixels)
    if kind is None:
        raise FormatError(
            f"{path} is not an image of a kind that is read",
            expected="JPEG, PNG, TIFF, or a slide (" + ", ".join(SLIDE_SUFFIXES) + ")",
            got="an empty file" if not head else f"a file that begins with {head[:8]!r}",
        )
    return WholeSource(path, kind=kind, max_pixels=max_pixels)


def _scale(stated: float | None, found: float | None, *, where: str) -> float:
    if stated is None and found is None:
        raise DataError(
            f"the scale of {where} is unknown",
            fix="Give um_per_px, the micrometres per full-resolution pixel (for example 0.5 at 20x).",
        )
    if stated is None:
        logger.info("%s: %.4g um/px, read from the file", where, found)
        return float(found)  # type: ignore[arg-type]
    check_range(stated, name="um_per_px", low=0.01, high=1000.0)
    if found is not None and abs(found / stated - 1.0) > _SCALE_TOLERANCE:
        raise DataError(
            f"the stated scale of {where} contradicts the file",
            expected=f"{found:.4g} um/px, as the file says",
            got=f"um_per_px={stated:.4g}",
            fix="Leave um_per_px out to use the file's own value, or export the image with the right one.",
        )
    return float(stated)


def _otsu(values: np.ndarray) -> float:
    counts, edges = np.histogram(values, bins=256, range=(0.0, 255.0))
    centres = (edges[:-1] + edges[1:]) / 2
    below = np.cumsum(counts)
    above = below[-1] - below
    sums = np.cumsum(counts * centres)
    with np.errstate(divide="ignore", invalid="ignore"):
        between = below * above * (sums / below - (sums[-1] - sums) / above) ** 2
    between = np.nan_to_num(between)
    # A gap between the two classes is a plateau of equally good thresholds: take its middle.
    best = np.flatnonzero(between >= between.max() * (1 - 1e-12))
    return float(edges[1:][best].mean())


def _drop_small(mask: np.ndarray, smallest: int) -> np.ndarray:
    labels, _ = ndimage.label(mask)
    keep = np.bincount(labels.ravel()) >= smallest
    keep[0] = False
    return keep[labels]
