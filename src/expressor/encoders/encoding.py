"""From patches to features: batch by batch, through the cache where one is given."""

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from expressor.core.errors import DataError, check_range
from expressor.core.log import logger, progress
from expressor.encoders.cache import FeatureCache, open_cache
from expressor.encoders.registry import Encoder
from expressor.encoders.registry import encoder as load_encoder

# Beyond this ratio of scales an encoder sees tissue at another magnification than it was made for.
_SCALE_RATIO = 1.5
# So many patches are computed between two writes to the cache: what an interruption costs at most.
_SAVE_EVERY = 512


class PatchSource(Protocol):
    """What the encoders ask of patches; :class:`expressor.data.patches.Patches` is one.

    Attributes
    ----------
    px
        Side of the patches, pixels.
    um_per_px
        Scale of the patches, micrometres per pixel.
    origin
        Digest of all that the patches share: content of the image and geometry.
    keys
        uint8 (patch, 16), what tells them apart.
    """

    @property
    def px(self) -> int: ...  # noqa: D102

    @property
    def um_per_px(self) -> float: ...  # noqa: D102

    @property
    def origin(self) -> str: ...  # noqa: D102

    @property
    def keys(self) -> np.ndarray: ...  # noqa: D102

    def __len__(self) -> int: ...

    def take(self, rows: np.ndarray) -> Any:
        """Return the patches of some rows."""
        ...

    def batches(self, size: int) -> Iterator[np.ndarray]:
        """Yield uint8 (patch, px, px, 3) in row order."""
        ...


def encode(
    patches: PatchSource,
    encoder: str | Encoder,
    *,
    cache: FeatureCache | str | Path | None = None,
    batch_size: int = 32,
    pooled: bool = True,
    show: bool | None = None,
) -> np.ndarray:
    """Encode patches.

    Parameters
    ----------
    patches
        Where the pixels come from. Patches of another side than the encoder's input are resampled to it.
    encoder
        A loaded encoder or its name (see :func:`expressor.encoders.encoder`).
    cache
        A :class:`FeatureCache`, a folder, ``"auto"`` for the user's own cache, or None. Only patches that are not in it are cut
        and encoded.
    batch_size
        Patches held in memory at a time, at least 1. The features do not depend on it.
    pooled
        False for the encoder's spatial tokens (49 for EfficientNet-Lite0) instead of one vector.
    show
        Force the progress bar on or off.

    Returns
    -------
    float32 (patch, dim), or (patch, token, dim) for ``pooled=False``, in the order of the patches.

    Raises
    ------
    DataError
        The encoder is unknown or has no tokens, or a feature is not finite.
    """
    check_range(batch_size, name="batch_size", low=1, integer=True)
    model = load_encoder(encoder) if isinstance(encoder, str) else encoder
    _note_scale(patches, model)
    store = open_cache(cache)
    if store is None:
        return _joined(_compute(patches, model, batch_size, pooled, show), model, pooled)
    group = {"origin": patches.origin, "encoder": list(model.identity), "pooled": pooled, "px": model.card.input_px}
    keys = patches.keys
    found, features = store.read(group, keys)
    missing = np.flatnonzero(~found)
    done, fresh = 0, []
    for part in _compute(patches.take(missing), model, batch_size, pooled, show) if len(missing) else ():
        fresh.append(part)
        waiting = sum(map(len, fresh))
        if waiting >= _SAVE_EVERY or done + waiting == len(missing):
            rows, values = missing[done : done + waiting], np.concatenate(fresh)
            store.write(group, keys[rows], values)
            if features is None:
                features = np.empty((len(patches), *values.shape[1:]), dtype=np.float32)
            features[rows] = values
            done, fresh = done + waiting, []
    logger.info("%s: %d of %d patches from the cache", model.card.name, len(found) - len(missing), len(found))
    return _joined((), model, pooled) if features is None else features


def _compute(
    patches: PatchSource, model: Encoder, batch_size: int, pooled: bool, show: bool | None
) -> Iterator[np.ndarray]:
    run = model if pooled else model.tokens
    steps = -(-len(patches) // batch_size)
    for pixels in progress(patches.batches(batch_size), what=f"encoding ({model.card.name})", total=steps, show=show):
        part = run(_fit(pixels, model.card.input_px))
        if not np.isfinite(part).all():
            raise DataError(f"the encoder {model.card.name!r} returned values that are not finite")
        yield part


def _joined(parts: Iterable[np.ndarray], model: Encoder, pooled: bool) -> np.ndarray:
    together = list(parts)
    if together:
        return np.concatenate(together)
    # No patches: one blank patch tells the shape of a feature.
    run = model if pooled else model.tokens
    return run(np.zeros((1, model.card.input_px, model.card.input_px, 3), dtype=np.uint8))[:0]


def _fit(pixels: np.ndarray, px: int) -> np.ndarray:
    if pixels.shape[1] == px:
        return pixels
    from PIL import Image

    return np.stack([np.asarray(Image.fromarray(one).resize((px, px), Image.Resampling.BICUBIC)) for one in pixels])


def _note_scale(patches: PatchSource, model: Encoder) -> None:
    scale = patches.um_per_px * patches.px / model.card.input_px
    ratio = scale / model.card.um_per_px
    if max(ratio, 1 / ratio) > _SCALE_RATIO:
        logger.warning(
            "%s was made for %.3g um/px and is given patches at %.3g um/px",
            model.card.name, model.card.um_per_px, scale,
        )  # fmt: skip
