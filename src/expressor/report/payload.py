"""Packs the values of spots into the page: sixteen bits a number, compressed gene by gene, within a byte budget.

Each layer of a gene is scaled to its own least and greatest value and stored as unsigned integers, the greatest integer meaning
"no value"; a gene's layers stand one after the other, high bytes before low bytes (which compresses better), then deflated and
written in base64. The interval is stored as distances below and above the prediction, which are often constant and then cost
nothing. The page unpacks a gene when it is first shown.
"""

import base64
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

WORDS = {16: np.dtype("<u2"), 8: np.dtype("u1")}
# Differences of float32 numbers carry noise of this relative size; below it, a layer is constant.
TOLERANCE = 1e-5


@dataclass(frozen=True)
class Packed:
    """Genes packed for the page.

    Attributes
    ----------
    bits
        16, or 8 where 16 would not fit the budget.
    layers
        Names of the layers, in the order in which a gene's values stand.
    genes
        Gene -> ``{"data": base64, "ranges": [[low, high] a layer]}``; fewer genes than given where even 8 bits would not fit.
    """

    bits: int
    layers: tuple[str, ...]
    genes: Mapping[str, Mapping[str, Any]]

    @property
    def size(self) -> int:
        """Characters that the values take in the page."""
        return sum(len(one["data"]) for one in self.genes.values())


def pack(layers: Mapping[str, np.ndarray], genes: list[str], *, budget: int) -> Packed:
    """Pack the layers, (spot, gene) each, of ``genes`` (best first) into at most ``budget`` characters.

    The first gene is always packed.
    """
    names = tuple(layers)
    packed: dict[str, dict[str, Any]] = {}
    for bits in (16, 8):
        packed, used = {}, 0
        for position, gene in enumerate(genes):
            one = _pack_gene([layers[name][:, position] for name in names], bits)
            used += len(one["data"])
            if used > budget and packed:
                break
            packed[gene] = one
        if len(packed) == len(genes):
            return Packed(bits, names, packed)
    return Packed(8, names, packed)


def unpack(packed: Packed, gene: str, *, count: int) -> dict[str, np.ndarray]:
    """Undo :func:`pack` for one gene of ``count`` spots: layer -> float64 (spot,), NaN where there is no value."""
    one = packed.genes[gene]
    width = packed.bits // 8
    planes = np.frombuffer(zlib.decompress(base64.b64decode(one["data"]), wbits=-15), np.uint8)
    top = 2**packed.bits - 1
    found = {}
    for position, name in enumerate(packed.layers):
        start = position * count * width
        part = planes[start : start + count * width].reshape(width, count).astype(np.int64)
        steps = part[0] if width == 1 else part[0] * 256 + part[1]
        low, high = one["ranges"][position]
        found[name] = np.where(steps == top, np.nan, low + (high - low) * steps / (top - 1))
    return found


def intervals(predicted: np.ndarray, lower: np.ndarray | None, upper: np.ndarray | None) -> dict[str, np.ndarray]:
    """Return the layers ``below`` and ``above``: how far the interval reaches from the prediction; empty without intervals."""
    if lower is None or upper is None:
        return {}
    return {"below": predicted - lower, "above": upper - predicted}


def pack_floats(values: np.ndarray) -> str:
    """Return numbers as base64 of little-endian float32."""
    return base64.b64encode(np.ascontiguousarray(values, dtype="<f4").tobytes()).decode("ascii")


def _pack_gene(columns: list[np.ndarray], bits: int) -> dict[str, Any]:
    top = 2**bits - 1
    ranges, parts = [], []
    for values in columns:
        known = np.isfinite(values)
        low, high = (float(values[known].min()), float(values[known].max())) if known.any() else (0.0, 0.0)
        span = high - low if high - low > TOLERANCE * max(abs(low), abs(high), 1e-300) else 0.0
        fraction = (np.where(known, values, low) - low) / span if span else np.zeros(len(values))
        steps = np.where(known, np.rint(fraction * (top - 1)), top).astype(WORDS[bits])
        planes = steps.view(np.uint8).reshape(len(values), bits // 8)[:, ::-1]
        parts.append(np.ascontiguousarray(planes.T).tobytes())
        ranges.append([low, low + span])
    deflate = zlib.compressobj(level=6, wbits=-15)
    data = deflate.compress(b"".join(parts)) + deflate.flush()
    return {"data": base64.b64encode(data).decode("ascii"), "ranges": ranges}
