"""Networks that are a list of plain layers: written as JSON and tensors, rebuilt from them without running any code of a file."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from expressor.core.errors import FormatError, nearest_names


class Standardise(nn.Module):
    """z = (x - mean) / scale, cut at ``reach`` standard deviations.

    Parameters
    ----------
    mean, scale
        (gene,); scale above 0.
    reach
        Where scores are cut, > 0; infinite for nowhere.
    """

    mean: Tensor
    scale: Tensor

    def __init__(
        self, mean: Float[Tensor, " gene"], scale: Float[Tensor, " gene"], reach: float = float("inf")
    ) -> None:
        super().__init__()
        self.reach = float(reach)
        self.register_buffer("mean", mean.clone())
        self.register_buffer("scale", scale.clone())

    def forward(self, x: Float[Tensor, "obs gene"]) -> Float[Tensor, "obs gene"]:
        """Return the scores."""
        return ((x - self.mean) / self.scale).clamp(-self.reach, self.reach)


class Pick(nn.Module):
    """Some columns of the input, in a given order.

    Parameters
    ----------
    columns
        Their positions, (gene,).
    """

    columns: Tensor

    def __init__(self, columns: Int[Tensor, " gene"]) -> None:
        super().__init__()
        self.register_buffer("columns", columns.clone())

    def forward(self, x: Float[Tensor, "obs column"]) -> Float[Tensor, "obs gene"]:
        """Return the columns."""
        return x[:, self.columns]


def dense_layer(weight: Any, offset: Any) -> nn.Linear:
    """Return a linear layer of given numbers, float32: weight (output, input) and offset (output,)."""
    with torch.device("meta"):
        layer = nn.Linear(weight.shape[1], weight.shape[0])
    numbers = {"weight": np.ascontiguousarray(weight, dtype=np.float32), "bias": np.array(offset, dtype=np.float32)}
    layer.load_state_dict({name: torch.from_numpy(one) for name, one in numbers.items()}, assign=True)
    return layer


_WITHOUT_SETTINGS: dict[str, type[nn.Module]] = {
    one.__name__: one for one in (nn.Identity, nn.ReLU, nn.SiLU, nn.Sigmoid, nn.Tanh, nn.Softplus)
}
_SETTINGS: dict[str, tuple[str, ...]] = {
    "Linear": ("in_features", "out_features", "bias"), "Dropout": ("p",), "BatchNorm1d": ("num_features", "eps"),
    "LayerNorm": ("normalized_shape", "eps"), "GELU": ("approximate",), "ELU": ("alpha",), "LeakyReLU": ("negative_slope",),
    "Standardise": ("genes", "reach"), "Pick": ("genes",),
}  # fmt: skip
PLAIN_LAYERS = tuple(sorted([*_WITHOUT_SETTINGS, *_SETTINGS]))
"""Layers that a plain network may have, by class name."""


def describe_layers(module: nn.Module) -> list[dict[str, Any]] | None:
    """Return the layers of a network as plain values, or None where it is more than a chain of :data:`PLAIN_LAYERS`.

    Parameters
    ----------
    module
        A layer, or an ``nn.Sequential`` of layers, nested or not.
    """
    if type(module) is nn.Sequential:
        parts = [describe_layers(one) for one in module]
        return None if any(one is None for one in parts) else [layer for one in parts for layer in one or []]
    kind = type(module).__name__
    own = {"Standardise": Standardise, "Pick": Pick}
    if type(module) is not own.get(kind, getattr(nn, kind, None)) or kind not in PLAIN_LAYERS:
        return None
    if kind in _WITHOUT_SETTINGS:
        # Softplus has settings that nobody changes; what does is no plain layer.
        return [{"kind": kind}] if repr(module) == repr(_WITHOUT_SETTINGS[kind]()) else None
    if kind == "Standardise":
        return [{"kind": kind, "genes": len(module.mean), "reach": module.reach}]  # type: ignore[arg-type]
    if kind == "Pick":
        return [{"kind": kind, "genes": len(module.columns)}]  # type: ignore[arg-type]
    layer: dict[str, Any] = {"kind": kind} | {name: getattr(module, name) for name in _SETTINGS[kind]}
    if kind == "Linear":
        layer["bias"] = module.bias is not None
    if kind == "LayerNorm":
        layer["normalized_shape"] = list(layer["normalized_shape"])
    changed = {"BatchNorm1d": ("affine", "track_running_stats"), "LayerNorm": ("elementwise_affine",)}.get(kind, ())
    return [layer] if all(getattr(module, name) for name in changed) else None


def flatten_layers(module: nn.Module) -> nn.Sequential:
    """Return the same layers as one chain without nesting: what :func:`build_layers` rebuilds."""
    if type(module) is nn.Sequential:
        return nn.Sequential(*[layer for one in module for layer in flatten_layers(one)])
    return nn.Sequential(module)


def build_layers(layers: Sequence[Mapping[str, Any]], tensors: Mapping[str, Tensor]) -> nn.Sequential:
    """Rebuild a network from what :func:`describe_layers` and the ``state_dict`` of its flat chain said.

    Nothing is allocated for sizes that the tensors do not have.

    Raises
    ------
    FormatError
        A layer is unknown, or layers and tensors do not fit.
    """
    try:
        with torch.device("meta"):
            network = nn.Sequential(*[_build(one) for one in layers])
        network.load_state_dict(dict(tensors), assign=True)
    except (RuntimeError, TypeError, ValueError, KeyError) as error:
        raise FormatError(f"layers and tensors of a network do not fit ({error})") from error
    return network.eval()


def _build(layer: Mapping[str, Any]) -> nn.Module:
    settings = dict(layer)
    kind = str(settings.pop("kind"))
    if kind in _WITHOUT_SETTINGS and not settings:
        return _WITHOUT_SETTINGS[kind]()
    if kind not in _SETTINGS or set(settings) != set(_SETTINGS[kind]):
        raise FormatError(f"a network has an unknown layer {kind!r}", nearest=nearest_names(kind, PLAIN_LAYERS))
    if kind == "Standardise":
        empty = torch.empty(settings["genes"])
        return Standardise(empty, empty, settings["reach"])
    if kind == "Pick":
        return Pick(torch.empty(settings["genes"], dtype=torch.int64))
    return getattr(nn, kind)(**settings)  # type: ignore[no-any-return]
