"""The image encoders: one record each, and the function that loads one by its name.

The records are data, so the documentation, the command line and the tests iterate them; nothing is imported to list them.
"""

import importlib
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from types import MappingProxyType
from typing import Any, Protocol

import numpy as np

from expressor.core.errors import DataError, nearest_names

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)


@dataclass(frozen=True, kw_only=True)
class EncoderCard:
    """Who an encoder is and what it eats.

    Attributes
    ----------
    name
        Key of the registry.
    loader
        ``"module:function"``; the function takes the card and the device and returns an :class:`Encoder`.
    input_px
        Side of the square input, pixels.
    um_per_px
        Scale of the input it was made for, micrometres per pixel (0.5 is 20x). For networks trained on photographs, which
        have no scale, the one at which they are offered here.
    mean, std
        Channel normalisation of pixels in [0, 1].
    dim
        Length of the pooled feature; 0 where only the loaded model knows it.
    tokens
        Number of spatial tokens of :meth:`Encoder.tokens`; 0 where there are none.
    licence
        Of the weights.
    gated
        True where the download needs an account and an agreement.
    commercial
        True where the licence allows commercial use.
    source
        Where code and weights come from; what to cite.
    revision
        Version of the weights. It is part of every cache key, so a new revision never meets old features.
    options
        Arguments of the loader, for example those with which the network is built.
    """

    name: str
    loader: str
    input_px: int
    um_per_px: float
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    dim: int
    licence: str
    gated: bool
    commercial: bool
    source: str
    revision: str
    tokens: int = 0
    options: Mapping[str, Any] = field(default_factory=lambda: MappingProxyType({}))

    @property
    def patch_um(self) -> float:
        """Side in micrometres of the patch it was made for."""
        return self.input_px * self.um_per_px


class Encoder(Protocol):
    """A loaded encoder.

    Attributes
    ----------
    card
        Its record.
    identity
        All that its features depend on beyond the pixels: name, revision, preprocessing, precision, device. Part of the cache
        key.
    """

    card: EncoderCard
    identity: tuple[str, ...]

    def __call__(self, pixels: np.ndarray) -> np.ndarray:
        """Encode patches, uint8 (patch, px, px, 3), into one vector each: float32 (patch, dim)."""
        ...

    def tokens(self, pixels: np.ndarray) -> np.ndarray:
        """Encode patches into spatial tokens, row by row from the upper left: float32 (patch, token, dim).

        Raises
        ------
        DataError
            The encoder has no spatial tokens.
        """
        ...


def encoders() -> dict[str, EncoderCard]:
    """Return the records of all encoders by name, the offline ones first."""
    from expressor.encoders import cards, descriptor

    return {card.name: card for card in (descriptor.CARD, *cards.CARDS)}


def encoder_card(name: str) -> EncoderCard:
    """Return the record of one encoder; ``"timm:<model>"`` and ``"hf:<model>"`` make one for any model of those libraries.

    Raises
    ------
    DataError
        No encoder has that name; the message gives the nearest ones.
    """
    known = encoders()
    if name in known:
        return known[name]
    library, _, model = name.partition(":")
    if library in ("timm", "hf") and model:
        from expressor.encoders.cards import card_for

        return card_for(library, model)
    if library == "precomputed":
        raise DataError(
            f"{name!r} names features that are already there, not an encoder",
            fix="Read them from the AnnData: adata.obsm[...], or give the name to image_features or to an estimator.",
        )
    raise DataError(
        f"no image encoder is called {name!r}",
        nearest=nearest_names(name, known),
        fix='The choices are the keys of expressor.encoders.encoders(), "timm:<model>", "hf:<model>" and "precomputed:<obsm key>".',
    )


def encoder(name: str, *, device: str = "auto", revision: str | None = None) -> Encoder:
    """Load an image encoder.

    Parameters
    ----------
    name
        A key of :func:`encoders`, ``"timm:<model>"`` or ``"hf:<model or folder>"``.
    device
        ``"cpu"``, ``"cuda"``, or ``"auto"``: the first GPU where there is one.
    revision
        Another version of hub weights (branch, tag or commit) than the card's.

    Raises
    ------
    DataError
        The name is unknown, or the weights are gated, cannot be downloaded, or are not the expected ones.
    MissingExtra
        The package that carries the encoder is not installed.
    """
    card = encoder_card(name)
    if revision is not None:
        card = replace(card, revision=revision)
    module, _, function = card.loader.partition(":")
    return getattr(importlib.import_module(module), function)(card, device)
