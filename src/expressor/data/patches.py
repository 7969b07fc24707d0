"""Square patches of a tissue image, cut at a stated size in micrometres and handed out in batches.

A patch source is anything with ``len``, ``px``, ``um_per_px``, ``origin``, ``keys``, ``take`` and ``batches``; the encoders ask
for no more than that.
"""

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import numpy as np

from expressor.core.errors import DataError, FormatError, check_range, nearest_names
from expressor.core.log import logger
from expressor.data.files import check_hdf5, reading
from expressor.data.images import TissueImage, file_digest

# Within this relative difference of scales, pixels are cut as they are: resampling would blur them and gain nothing, because
# the scale itself is known no better.
_SAME_SCALE = 0.02
_PATCH_FILE = "a patch file"


@dataclass(frozen=True, kw_only=True)
class PatchSpec:
    """The geometry of a patch.

    Attributes
    ----------
    size_um
        Side in micrometres, more than 0. The default, 154 um, is 224 px at 0.69 um/px: a 100-um spot and its surroundings.
    px
        Side in pixels after resampling, at least 8.
    """

    size_um: float = 154.0
    px: int = 224

    def __post_init__(self) -> None:
        check_range(self.size_um, name="size_um", low=0, open_low=True, high=1e5)
        check_range(self.px, name="px", low=8, high=4096, integer=True)

    @property
    def um_per_px(self) -> float:
        """Micrometres per pixel of the patch."""
        return self.size_um / self.px


class Patches:
    """Patches around given centres of one image, cut when they are asked for.

    Parameters
    ----------
    image
        An open image.
    centres_px
        float (patch, 2): x and y of the centres in full-resolution pixels.
    spec
        Geometry of the patches. Where the image's scale is within 2 % of the patch's, pixels are cut as they are; otherwise
        they are resampled with antialiasing. White outside the image.

    Raises
    ------
    DataError
        Centres are not finite or lie outside the image.
    """

    def __init__(self, image: TissueImage, centres_px: np.ndarray, spec: PatchSpec | None = None) -> None:
        self.image = image
        self.spec = PatchSpec() if spec is None else spec
        self.centres_px = _check_centres(image, centres_px)
        self._cut_px = self.spec.size_um / image.um_per_px
        self.is_resampled = abs(self._cut_px / self.spec.px - 1.0) > _SAME_SCALE
        if self._cut_px * 2.0 < self.spec.px:
            logger.info(
                "%s: patches of %g um are %.0f px of the image, enlarged %.1f-fold to %d px; they hold no more detail than that",
                image, self.spec.size_um, self._cut_px, self.spec.px / self._cut_px, self.spec.px,
            )  # fmt: skip

    def __len__(self) -> int:
        return len(self.centres_px)

    @property
    def px(self) -> int:
        """Side of the patches, pixels."""
        return self.spec.px

    @property
    def um_per_px(self) -> float:
        """Micrometres per pixel of the patches."""
        return self.spec.um_per_px

    @property
    def origin(self) -> str:
        """SHA-256 (hex) of what all patches share: content of the image, its scale, geometry and way of cutting."""
        shared = ("cut-1", self.image.fingerprint, self.image.um_per_px, self.spec.size_um, self.spec.px)
        return hashlib.sha256(repr(shared).encode()).hexdigest()

    @property
    def keys(self) -> np.ndarray:
        """What tells the patches of one origin apart: uint8 (patch, 16), the bytes of the two coordinates."""
        return np.ascontiguousarray(self.centres_px, dtype="<f8").view(np.uint8).reshape(len(self), 16)

    @property
    def fingerprint(self) -> str:
        """SHA-256 (hex) of the content of the image, the geometry and all centres in their order."""
        return hashlib.sha256(self.origin.encode() + self.keys.tobytes()).hexdigest()

    def take(self, rows: np.ndarray) -> "Patches":
        """Return the patches of some rows, as indices or a mask, in that order."""
        chosen = object.__new__(Patches)
        chosen.__dict__.update(self.__dict__, centres_px=self.centres_px[rows])
        return chosen

    def batches(self, size: int = 32) -> Iterator[np.ndarray]:
        """Cut the patches in row order: uint8 (patch, px, px, 3), at most ``size`` at a time."""
        check_range(size, name="size", low=1, integer=True)
        for start in range(0, len(self), size):
            centres = self.centres_px[start : start + size]
            yield np.stack([self._cut(x, y) for x, y in centres])

    def _cut(self, x: float, y: float) -> np.ndarray:
        px = self.spec.px
        if self.is_resampled:
            half = self._cut_px / 2
            return self.image.region(x - half, y - half, self._cut_px, self._cut_px, out=(px, px))
        return self.image.region(round(x - px / 2), round(y - px / 2), px, px)


class HestPatches:
    """Patches that were cut before and stand in an HDF5 file: ``img`` uint8 (patch, px, px, 3), ``coords``, ``barcode``.

    Parameters
    ----------
    path
        The file, as HEST writes it.
    size_um
        Side of its patches in micrometres: 112 in HEST (224 px at 0.5 um/px).

    Attributes
    ----------
    names
        Spot names (barcodes) in the order of the rows.
    coords
        float64 (patch, 2): x and y of the centres as the file gives them.

    Raises
    ------
    FormatError
        The file is damaged or laid out otherwise.
    """

    def __init__(self, path: str | Path, *, size_um: float = 112.0) -> None:
        import h5py

        self.path = Path(path).absolute()
        if not self.path.is_file():
            raise DataError(f"there is no patch file {self.path}")
        check_hdf5(self.path)
        with reading(self.path, _PATCH_FILE), h5py.File(self.path, "r") as file:
            missing = [key for key in ("img", "barcode") if key not in file]
            if missing:
                raise FormatError(
                    f"{self.path} holds no patches", expected="datasets 'img', 'coords' and 'barcode'", got=sorted(file)
                )
            pixels = dataset(file, "img", self.path)
            shape = pixels.shape
            if len(shape) != 4 or shape[1] != shape[2] or shape[3] != 3 or pixels.dtype != np.uint8:
                raise FormatError(
                    f"'img' of {self.path} is not a stack of patches",
                    expected="uint8 (patch, px, px, 3)",
                    got=f"{pixels.dtype} {shape}",
                )
            self.names = np.array(texts(file, "barcode", self.path), dtype=object)
            coords = np.full((shape[0], 2), np.nan)
            if "coords" in file:
                coords = np.asarray(dataset(file, "coords", self.path, kinds="fiu"), dtype=np.float64)
        if len(self.names) != shape[0] or coords.shape != (shape[0], 2):
            raise FormatError(
                f"the datasets of {self.path} differ in length",
                expected=f"{shape[0]} barcodes and coordinates",
                got=f"{len(self.names)} and {coords.shape}",
            )
        self.coords = coords
        self.spec = PatchSpec(size_um=size_um, px=int(shape[1]))
        self._rows = np.arange(shape[0])

    def __len__(self) -> int:
        return len(self._rows)

    @property
    def px(self) -> int:
        """Side of the patches, pixels."""
        return self.spec.px

    @property
    def um_per_px(self) -> float:
        """Micrometres per pixel of the patches."""
        return self.spec.um_per_px

    @property
    def origin(self) -> str:
        """SHA-256 (hex) of the file's bytes and the scale."""
        shared = ("hest-1", file_digest(self.path), self.spec.size_um, self.spec.px)
        return hashlib.sha256(repr(shared).encode()).hexdigest()

    @property
    def keys(self) -> np.ndarray:
        """What tells the patches of one file apart: uint8 (patch, 16), from the row number."""
        wide = np.stack([self._rows, np.zeros_like(self._rows)], axis=1)
        return np.ascontiguousarray(wide, dtype="<i8").view(np.uint8).reshape(len(self), 16)

    @property
    def fingerprint(self) -> str:
        """SHA-256 (hex) of the file's content, the scale and the chosen rows."""
        return hashlib.sha256(self.origin.encode() + self.keys.tobytes()).hexdigest()

    def take(self, rows: np.ndarray) -> Self:
        """Return the patches of some rows, as indices or a mask, in that order."""
        chosen = object.__new__(type(self))
        chosen.__dict__.update(self.__dict__, _rows=self._rows[rows], names=self.names[rows], coords=self.coords[rows])
        return chosen

    def named(self, names: list[str] | np.ndarray) -> Self:
        """Return the patches of these spots, in this order.

        Raises
        ------
        DataError
            The file has no patch, or more than one, for a name.
        """
        known = {name: row for row, name in enumerate(self.names)}
        if len(known) != len(self.names):
            raise DataError(
                f"spot names occur twice in {self.path}", got=f"{len(self.names) - len(known)} repeated names"
            )
        absent = [name for name in names if name not in known]
        if absent:
            raise DataError(
                f"{self.path} has no patch for {len(absent)} of {len(names)} spots, for example {absent[0]!r}",
                nearest=nearest_names(str(absent[0]), known),
                fix="Leave out the spots without a patch first.",
            )
        return self.take(np.array([known[name] for name in names], dtype=np.int64))

    def batches(self, size: int = 32) -> Iterator[np.ndarray]:
        """Read the patches in row order: uint8 (patch, px, px, 3), at most ``size`` at a time."""
        import h5py

        check_range(size, name="size", low=1, integer=True)
        for start in range(0, len(self), size):
            # HDF5 wants rising, distinct rows; put them back in the asked order.
            distinct, back = np.unique(self._rows[start : start + size], return_inverse=True)
            with reading(self.path, _PATCH_FILE), h5py.File(self.path, "r") as file:
                pixels = file["img"][distinct][back]
            yield pixels


def dataset(group: Any, key: str, path: Path, *, kinds: str = "") -> Any:
    """Return an array of an HDF5 or zarr group, or raise :class:`FormatError` where it is anything else.

    Parameters
    ----------
    group, key
        Where it stands.
    path
        The file, for the message.
    kinds
        Accepted NumPy kinds of its values, for example ``"fiu"`` for numbers; any where empty.
    """
    if key not in group:
        raise FormatError(f"{path} has no dataset {key!r}", got=sorted(group))
    found = group[key]
    if getattr(found, "shape", None) is None or getattr(found, "dtype", None) is None:
        raise FormatError(f"{key!r} of {path} is no dataset", got=type(found).__name__)
    if kinds and found.dtype.kind not in kinds:
        raise FormatError(f"{key!r} of {path} holds the wrong kind of values", got=f"{found.dtype} {found.shape}")
    return found


def texts(group: Any, key: str, path: Path) -> list[str]:
    """Return the names in an array of fixed or variable length texts, flat."""
    stored = np.asarray(dataset(group, key, path, kinds="SOU")).reshape(-1)
    return [one.decode() if isinstance(one, bytes) else str(one) for one in stored]


def _check_centres(image: TissueImage, centres_px: np.ndarray) -> np.ndarray:
    centres = np.array(centres_px, dtype=np.float64)
    if centres.ndim != 2 or centres.shape[1] != 2:
        raise DataError("the patch centres are not points", expected="shape (patch, 2)", got=f"shape {centres.shape}")
    if not np.isfinite(centres).all():
        row = int(np.flatnonzero(~np.isfinite(centres).all(axis=1))[0])
        raise DataError(f"the centre of patch {row} is not finite", got=centres[row].tolist())
    outside = ((centres < 0) | (centres > [image.width, image.height])).any(axis=1)
    if outside.any():
        row = int(np.flatnonzero(outside)[0])
        raise DataError(
            f"{int(outside.sum())} of {len(centres)} patch centres lie outside {image}, the first in row {row}",
            expected=f"x in [0, {image.width}] and y in [0, {image.height}]",
            got=f"({centres[row, 0]:.1f}, {centres[row, 1]:.1f})",
            fix="Check that x and y are not swapped and that the coordinates are full-resolution pixels of this very image.",
        )
    return centres
