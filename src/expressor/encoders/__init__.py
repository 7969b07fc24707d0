"""Image encoders: from patches to features, frozen, with a registry and a cache."""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from expressor.encoders.cache import FeatureCache
    from expressor.encoders.descriptor import COLOUR_FEATURES
    from expressor.encoders.encoding import PatchSource, encode
    from expressor.encoders.registry import Encoder, EncoderCard, encoder, encoder_card, encoders

_NAMES = {
    "COLOUR_FEATURES": "descriptor",
    "Encoder": "registry",
    "EncoderCard": "registry",
    "FeatureCache": "cache",
    "PatchSource": "encoding",
    "encode": "encoding",
    "encoder": "registry",
    "encoder_card": "registry",
    "encoders": "registry",
}

__all__ = [
    "COLOUR_FEATURES",
    "Encoder",
    "EncoderCard",
    "FeatureCache",
    "PatchSource",
    "encode",
    "encoder",
    "encoder_card",
    "encoders",
]


def __getattr__(name: str) -> Any:
    if name in _NAMES:
        return getattr(importlib.import_module(f"expressor.encoders.{_NAMES[name]}"), name)
    raise AttributeError(f"module 'expressor.encoders' has no attribute {name!r}")


def __dir__() -> list[str]:
    return list(__all__)
