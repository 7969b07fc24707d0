"""A description of a patch in 46 numbers, with no network and no weights: colour, stain, nuclear density, texture.

Every number has a name in :data:`COLOUR_FEATURES`. It is a strong baseline, not a toy: on breast tumour it comes within a few
hundredths of a network trained on photographs. Optical density is ``-log10((I + 1) / 256)``; haematoxylin, eosin and a residual
are unmixed from it with the fixed stain vectors of Ruifrok and Johnston (2001, Anal Quant Cytol Histol 23:291).
"""

import numpy as np

from expressor.core.errors import DataError
from expressor.encoders.registry import EncoderCard

_STATISTICS = ("mean", "std", "p10", "p50", "p90")

COLOUR_FEATURES: tuple[str, ...] = (
    *(f"{channel}_{one}" for channel in ("red", "green", "blue") for one in ("mean", "std", "p10", "p90")),
    *(f"density_{one}" for one in _STATISTICS),
    *(f"haematoxylin_{one}" for one in _STATISTICS),
    *(f"eosin_{one}" for one in _STATISTICS),
    *("residual_mean", "residual_std"),
    *("nuclear_fraction", "nuclear_edges", "glass_fraction"),
    *(
        f"{name}_{scale}"
        for scale in ("fine", "coarse")
        for name in ("gradient", "laplacian", "correlation", "bright_codes", "edge_codes")
    ),
    *(f"{name}_centre" for name in ("density", "haematoxylin", "eosin", "nuclear_fraction")),
)
"""Names of the numbers, in their order.

``red_mean`` ... ``blue_p90``: statistics of the channels in [0, 1]. ``density_*``: optical density, mean of the channels.
``haematoxylin_*``, ``eosin_*``, ``residual_*``: amounts of stain. ``nuclear_fraction``: share of pixels with haematoxylin above
0.35. ``nuclear_edges``: share of neighbouring pixels where that changes, a stand-in for the number of nuclei.
``glass_fraction``: share of pixels with density below 0.1. Texture of the haematoxylin amount at two scales (2 and 4 input
pixels): root mean square ``gradient`` and ``laplacian``, ``correlation`` with the pixel two steps away, and from local binary
codes over 4 neighbours the share of local maxima (``bright_codes``) and of edge-like patterns (``edge_codes``). ``*_centre``: the
mean inside the inscribed circle of 0.65 sides less that of the whole patch.
"""

CARD = EncoderCard(
    name="colour",
    loader="expressor.encoders.descriptor:load",
    input_px=224,
    um_per_px=0.6875,
    mean=(0.0, 0.0, 0.0),
    std=(1.0, 1.0, 1.0),
    dim=len(COLOUR_FEATURES),
    licence="BSD-3-Clause",
    gated=False,
    commercial=True,
    source="computed; stain vectors of Ruifrok and Johnston 2001",
    revision="1",
)

# Unit optical-density vectors of haematoxylin and eosin; the residual is perpendicular to both.
_H = np.array([0.650, 0.704, 0.286])
_E = np.array([0.072, 0.990, 0.105])
_STAINS = np.stack(
    [_H / np.linalg.norm(_H), _E / np.linalg.norm(_E), np.cross(_H, _E) / np.linalg.norm(np.cross(_H, _E))]
)
_UNMIX = np.linalg.inv(_STAINS).astype(np.float32)
_NUCLEAR, _GLASS = 0.35, 0.1
_CENTRE = 0.65
_CHUNK, _SMALLEST = 16, 16


class ColourDescriptor:
    """The descriptor as an :class:`~expressor.encoders.registry.Encoder`."""

    def __init__(self, card: EncoderCard = CARD) -> None:
        self.card = card
        self.identity = (card.name, card.revision, "none", "float32", "cpu")

    def __call__(self, pixels: np.ndarray) -> np.ndarray:
        """Describe patches, uint8 (patch, px, px, 3): float32 (patch, 46), columns as in :data:`COLOUR_FEATURES`."""
        if min(pixels.shape[1:3]) < _SMALLEST:
            raise DataError(
                "the patches are too small to describe", expected=f"{_SMALLEST} px or more", got=pixels.shape[1]
            )
        parts = [_describe(pixels[start : start + _CHUNK]) for start in range(0, len(pixels), _CHUNK)]
        return np.concatenate(parts) if parts else np.empty((0, self.card.dim), dtype=np.float32)

    def tokens(self, pixels: np.ndarray) -> np.ndarray:
        """Raise: the descriptor has one vector a patch."""
        raise DataError(
            "the colour descriptor has no spatial tokens", fix='Use an encoder that has, such as "efficientnet_lite0".'
        )


def load(card: EncoderCard, device: str = "auto") -> ColourDescriptor:
    """Return the descriptor; it always computes on the processor."""
    return ColourDescriptor(card)


def unmix(pixels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the optical density, float32 of the pixels' shape, and the amounts (haematoxylin, eosin, residual) in it.

    Parameters
    ----------
    pixels
        (..., 3), values in [0, 255].
    """
    density = -np.log10((pixels.astype(np.float32) + 1.0) / 256.0)
    return density, density @ _UNMIX


def _describe(pixels: np.ndarray) -> np.ndarray:
    small = _halve(pixels.astype(np.float32))
    density, stains = unmix(small)
    whole = density.mean(axis=3)
    nuclear = stains[..., 0] > _NUCLEAR
    changes = (nuclear[:, 1:] != nuclear[:, :-1]).mean(axis=(1, 2)) + (nuclear[:, :, 1:] != nuclear[:, :, :-1]).mean(
        axis=(1, 2)
    )
    columns = [
        *(column for channel in range(3) for column in _statistics(small[..., channel] / 255.0, median=False)),
        *_statistics(whole),
        *_statistics(stains[..., 0]),
        *_statistics(stains[..., 1]),
        stains[..., 2].mean(axis=(1, 2)),
        stains[..., 2].std(axis=(1, 2)),
        nuclear.mean(axis=(1, 2)),
        changes / 2.0,
        (whole < _GLASS).mean(axis=(1, 2)),
        *_texture(stains[..., 0]),
        *_texture(_halve(stains[..., :1])[..., 0]),
        *_centre_contrast(whole, stains[..., 0], stains[..., 1], nuclear.astype(np.float32)),
    ]
    return np.stack(columns, axis=1).astype(np.float32)


def _halve(values: np.ndarray) -> np.ndarray:
    """Average 2 x 2 pixels of (patch, row, column, channel); an odd last row or column is dropped."""
    rows, columns = values.shape[1] // 2 * 2, values.shape[2] // 2 * 2
    values = values[:, :rows, :columns]
    return (values[:, ::2, ::2] + values[:, 1::2, ::2] + values[:, ::2, 1::2] + values[:, 1::2, 1::2]) / 4.0


def _statistics(values: np.ndarray, *, median: bool = True) -> list[np.ndarray]:
    flat = values.reshape(len(values), -1)
    wanted = (10, 50, 90) if median else (10, 90)
    # The nearest rank, by partial sorting: exact interpolation between two of ten thousand pixels would change nothing.
    ranks = [round(q / 100 * (flat.shape[1] - 1)) for q in wanted]
    ordered = np.partition(flat, ranks, axis=1)
    return [flat.mean(axis=1), flat.std(axis=1), *(ordered[:, rank] for rank in ranks)]


def _texture(values: np.ndarray) -> list[np.ndarray]:
    middle = values[:, 1:-1, 1:-1]
    up, down, left, right = values[:, :-2, 1:-1], values[:, 2:, 1:-1], values[:, 1:-1, :-2], values[:, 1:-1, 2:]
    gradient = np.sqrt((((down - up) / 2) ** 2 + ((right - left) / 2) ** 2).mean(axis=(1, 2)))
    laplacian = np.sqrt(((up + down + left + right - 4 * middle) ** 2).mean(axis=(1, 2)))
    centred = values - values.mean(axis=(1, 2), keepdims=True)
    variance = (centred**2).mean(axis=(1, 2))
    lagged = (centred[:, 2:] * centred[:, :-2]).mean(axis=(1, 2)) + (centred[:, :, 2:] * centred[:, :, :-2]).mean(
        axis=(1, 2)
    )
    # A patch of one colour has no texture; its correlation is stated as 0.
    correlation = np.where(variance > 1e-8, lagged / 2.0 / np.maximum(variance, 1e-8), 0.0)
    above = [(middle > other).astype(np.int8) for other in (up, down, left, right)]
    count = above[0] + above[1] + above[2] + above[3]
    bright = (count == 4).mean(axis=(1, 2))
    edges = ((above[0] != above[1]) ^ (above[2] != above[3])).mean(axis=(1, 2))
    return [gradient, laplacian, correlation, bright, edges]


def _centre_contrast(*maps: np.ndarray) -> list[np.ndarray]:
    rows, columns = maps[0].shape[1:]
    y = (np.arange(rows) + 0.5) / rows - 0.5
    x = (np.arange(columns) + 0.5) / columns - 0.5
    inside = np.flatnonzero(y[:, None] ** 2 + x[None, :] ** 2 <= (_CENTRE / 2) ** 2)
    # take lays each patch out in one run, so that its sum is formed in the same order whatever the batch.
    return [one.reshape(len(one), -1).take(inside, axis=1).mean(axis=1) - one.mean(axis=(1, 2)) for one in maps]
