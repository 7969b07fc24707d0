"""Where an image's pixels come from: one small reader per kind of file, all with the same three members.

A source gives the pixels of a box at one of its resolution levels. It knows nothing of micrometres, patches or padding;
:class:`expressor.data.images.TissueImage` adds those.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Protocol

import numpy as np
from PIL import Image, JpegImagePlugin, PngImagePlugin, TiffImagePlugin

from expressor.core.errors import DataError, FormatError
from expressor.data.guard import reading

MAX_PIXELS = 500_000_000
"""Largest image that is decoded whole (JPEG, PNG): 500 million pixels, about 2 GB in memory."""

AN_IMAGE = "an image"

_WHOLE: dict[str, Callable[[str], Image.Image]] = {
    "JPEG": JpegImagePlugin.JpegImageFile,
    "PNG": PngImagePlugin.PngImageFile,
    "TIFF": TiffImagePlugin.TiffImageFile,
}


class PixelSource(Protocol):
    """The pixels of one image at one or more resolution levels.

    Attributes
    ----------
    sizes
        ``(width, height)`` of each level in pixels, the full resolution first.
    um_per_px
        What the file itself says about its full resolution; None where it says nothing that can be trusted.
    """

    sizes: tuple[tuple[int, int], ...]
    um_per_px: float | None

    def read(self, level: int, x0: int, y0: int, width: int, height: int) -> Image.Image:
        """Return an RGB picture of a box that lies inside the level."""
        ...

    def preview(self, max_px: int) -> Image.Image | None:
        """Return the whole image in RGB with a longer side of at least ``max_px``, where that is cheap; else None."""
        ...

    def close(self) -> None:
        """Release the file and the memory."""
        ...


def check_extent(width: int, height: int, *, path: object, max_pixels: int) -> None:
    """Refuse a declared size before anything is allocated for it."""
    if width < 1 or height < 1 or width * height > max_pixels:
        raise FormatError(
            f"{path} declares an image of {width} x {height} pixels",
            expected=f"at most {max_pixels} pixels",
            got=width * height,
            fix="Convert the image to a tiled TIFF, or raise max_pixels if the size is real and memory suffices.",
        )


def to_rgb(picture: Image.Image) -> Image.Image:
    """Convert a picture of any mode to 8-bit RGB; transparent pixels become white."""
    if picture.mode == "RGB":
        return picture
    if picture.mode in ("I;16", "I;16B", "I;16L", "I"):
        values = np.asarray(picture).astype(np.float32) / 257.0
        return Image.fromarray(np.clip(np.rint(values), 0, 255).astype(np.uint8)).convert("RGB")
    if picture.mode in ("RGBA", "LA", "PA", "La", "RGBa") or "transparency" in picture.info:
        picture = picture.convert("RGBA")
        ground = Image.new("RGBA", picture.size, (255, 255, 255, 255))
        return Image.alpha_composite(ground, picture).convert("RGB")
    return picture.convert("RGB")


class WholeSource:
    """A JPEG, PNG or small TIFF, decoded once when the first pixel is asked for and held once.

    The picture stays in the decoder's own memory (4 bytes a pixel); boxes are copied out of it, so there is never a second
    full copy. Orientation tags are ignored: coordinates count the stored pixels.
    """

    um_per_px: float | None = None

    def __init__(self, path: Path, *, kind: str, max_pixels: int = MAX_PIXELS) -> None:
        self.path, self.kind = path, kind
        self._decoded = False
        with reading(path, AN_IMAGE):
            # The plugin's class and not Image.open: its limit on pixels is a global of the user's process, ours is explicit.
            self._picture: Image.Image = _WHOLE[kind](str(path))
        try:
            check_extent(*self._picture.size, path=path, max_pixels=max_pixels)
        except FormatError:
            self._picture.close()
            raise
        self.sizes: tuple[tuple[int, int], ...] = (self._picture.size,)

    def read(self, level: int, x0: int, y0: int, width: int, height: int) -> Image.Image:
        """See :class:`PixelSource`."""
        if not self._decoded:
            with reading(self.path, AN_IMAGE):
                self._picture.load()
            self._decoded = True
        return to_rgb(self._picture.crop((x0, y0, x0 + width, y0 + height)))

    def preview(self, max_px: int) -> Image.Image | None:
        """Decode a JPEG at a half, a quarter or an eighth, which costs a fraction of the time and memory."""
        if self.kind != "JPEG":
            return None
        with reading(self.path, AN_IMAGE), _WHOLE["JPEG"](str(self.path)) as picture:
            picture.draft(None, (max_px, max_px))
            picture.load()
            return to_rgb(picture)

    def close(self) -> None:
        """See :class:`PixelSource`."""
        self._picture.close()


class ArraySource:
    """Pixels that are already in memory: ``(height, width)``, ``(height, width, 3)`` or ``(height, width, 4)``, uint8."""

    um_per_px: float | None = None

    def __init__(self, pixels: np.ndarray) -> None:
        pixels = np.asarray(pixels)
        if (
            pixels.dtype != np.uint8
            or pixels.ndim not in (2, 3)
            or (pixels.ndim == 3 and pixels.shape[2] not in (3, 4))
        ):
            raise DataError(
                "the array is not an image",
                expected="uint8 of shape (height, width, 3)",
                got=f"{pixels.dtype} of shape {pixels.shape}",
                fix="Give 8-bit pixels with the colour channels last.",
            )
        if min(pixels.shape[:2]) < 1:
            raise DataError("the image has no pixels", got=f"shape {pixels.shape}")
        self.pixels = pixels
        self.sizes: tuple[tuple[int, int], ...] = ((pixels.shape[1], pixels.shape[0]),)

    def read(self, level: int, x0: int, y0: int, width: int, height: int) -> Image.Image:
        """See :class:`PixelSource`."""
        return to_rgb(Image.fromarray(np.ascontiguousarray(self.pixels[y0 : y0 + height, x0 : x0 + width])))

    def preview(self, max_px: int) -> Image.Image | None:
        """See :class:`PixelSource`."""
        return None

    def close(self) -> None:
        """Nothing to release: the array belongs to the caller."""
