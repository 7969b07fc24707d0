"""Encoders from model hubs: any timm or transformers model, and CONCH through its own package.

Weights are downloaded by those libraries, into their caches, under their own terms; nothing is shipped here. What can go wrong
between a name and its weights (no package, no network, a gated repository, other weights than the card says) ends in an error
that says which of these it was and what to do.
"""

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from expressor.core.errors import DataError, ExpressorError, FormatError, MissingExtra
from expressor.core.log import logger
from expressor.core.optional import need
from expressor.encoders.network import NetworkEncoder, Read, choose_device
from expressor.encoders.registry import EncoderCard

_DENIED = ("GatedRepoError", "401", "403", "gated repo", "awaiting a review", "authorized list")
_UNREACHABLE = (
    "LocalEntryNotFoundError", "OfflineModeIsEnabled", "ConnectionError", "ConnectError", "ConnectTimeout", "gaierror",
    "couldn't connect", "Max retries", "timed out", "offline mode",
)  # fmt: skip
_UNKNOWN = (
    "RepositoryNotFoundError",
    "EntryNotFoundError",
    "404",
    "is not a local folder",
    "not a valid model",
    "Unknown model",
)


def load_timm(card: EncoderCard, device: str = "auto") -> NetworkEncoder:
    """Load a timm model; see :func:`expressor.encoders.encoder`.

    ``options``: ``model``, ``arguments`` (of ``timm.create_model``; ``mlp_layer`` and ``act_layer`` by name) and ``pool``:
    ``"model"`` for what the model returns, ``"class+mean"`` for its class token beside the mean of its patch tokens.
    """
    timm = need("timm", extra="encoders", purpose=f"load {card.name!r}")
    arguments = dict(card.options.get("arguments", {}))
    if "mlp_layer" in arguments:
        arguments["mlp_layer"] = getattr(
            need("timm.layers", extra="encoders", purpose="build it"), arguments["mlp_layer"]
        )
    if "act_layer" in arguments:
        arguments["act_layer"] = getattr(nn, arguments["act_layer"])
    name = card.options["model"]
    if "/" in name and not name.startswith(("hf-hub:", "hf_hub:", "local-dir:")):
        name = f"local-dir:{name}" if Path(name).is_dir() else f"hf-hub:{name}"
    if card.revision != "main" and name.startswith(("hf-hub:", "hf_hub:")):
        name = f"{name}@{card.revision}"
    with _loading(card):
        network = timm.create_model(name, pretrained=True, num_classes=0, **arguments)
    if not card.dim:
        known = timm.data.resolve_model_data_config(network)
        card = replace(card, input_px=known["input_size"][-1], mean=tuple(known["mean"]), std=tuple(known["std"]))
    prefix = int(getattr(network, "num_prefix_tokens", 0))
    beside_mean = card.options.get("pool", "model") == "class+mean"

    def pooled(x: torch.Tensor) -> torch.Tensor:
        return _class_and_mean(network(x), prefix) if beside_mean else network(x)

    return _built(card, network, pooled, lambda x: _spatial(network.forward_features(x), prefix), device)


def load_transformers(card: EncoderCard, device: str = "auto") -> NetworkEncoder:
    """Load a vision model of transformers by its hub name or from a folder; code from the hub is never run.

    ``options``: ``model``, ``arguments`` (of ``from_pretrained``) and ``pool``: ``"class"`` for the class token where there is one
    and the mean of the map otherwise, ``"class+mean"`` for both beside each other.
    """
    transformers = need("transformers", extra="encoders", purpose=f"load {card.name!r}")
    name = card.options["model"]
    with _loading(card):
        network = transformers.AutoModel.from_pretrained(
            name, revision=card.revision, trust_remote_code=False, **dict(card.options.get("arguments", {}))
        )
    if not card.dim:
        card = _with_preprocessing(card, transformers, network)
    has_class = getattr(getattr(network, "embeddings", None), "cls_token", None) is not None
    prefix = (1 + int(getattr(network.config, "num_register_tokens", 0) or 0)) if has_class else 0
    beside_mean = card.options.get("pool", "class") == "class+mean"

    def run(x: torch.Tensor) -> torch.Tensor:
        return network(pixel_values=x).last_hidden_state

    def pooled(x: torch.Tensor) -> torch.Tensor:
        states = run(x)
        if not prefix:
            return _spatial(states, 0).mean(dim=1)
        return _class_and_mean(states, prefix) if beside_mean else states[:, 0]

    return _built(card, network, pooled, lambda x: _spatial(run(x), prefix), device)


def load_conch(card: EncoderCard, device: str = "auto") -> NetworkEncoder:
    """Load CONCH through its authors' package, which is not on PyPI."""
    try:
        import conch.open_clip_custom as conch  # type: ignore[import-not-found]
    except ImportError as error:
        raise MissingExtra(
            f"the authors' package 'conch' is needed to load {card.name!r} and could not be imported ({error})",
            fix="Install it with: pip install git+https://github.com/mahmoodlab/CONCH.git",
        ) from error
    with _loading(card):
        network, _ = conch.create_model_from_pretrained("conch_ViT-B-16", f"hf_hub:{card.options['model']}")
    return _built(card, network, lambda x: network.encode_image(x, proj_contrast=False, normalize=False), None, device)


def _built(card: EncoderCard, network: nn.Module, pooled: Read, tokens: Read | None, device: str) -> NetworkEncoder:
    """Run one blank patch, so that the card states the sizes that the model has."""
    network = network.float().eval()
    blank = torch.zeros(1, 3, card.input_px, card.input_px)
    with torch.inference_mode():
        vector = pooled(blank)
        grid = None if tokens is None else tokens(blank)
    if vector.ndim != 2 or (card.dim and vector.shape[1] != card.dim):
        raise FormatError(
            f"the weights of {card.name!r} are not the expected ones",
            expected=f"{card.dim} values a patch" if card.dim else "one vector a patch",
            got=f"shape {tuple(vector.shape)}",
            fix="Check the model's name and revision.",
        )
    card = replace(card, dim=vector.shape[1], tokens=0 if grid is None else grid.shape[1])
    chosen = choose_device(device)
    return NetworkEncoder(
        card, network, pooled=pooled, tokens=tokens, device=chosen, micro_batch=8 if chosen.type == "cpu" else 64
    )


def _class_and_mean(states: torch.Tensor, prefix: int) -> torch.Tensor:
    return torch.cat([states[:, 0], states[:, prefix:].mean(dim=1)], dim=1)


def _spatial(states: torch.Tensor, prefix: int) -> torch.Tensor:
    """Tokens (patch, token, dim) from a sequence with ``prefix`` others before, or from a map (patch, dim, row, column)."""
    return states.flatten(2).transpose(1, 2) if states.ndim == 4 else states[:, prefix:]


def _with_preprocessing(card: EncoderCard, transformers: Any, network: nn.Module) -> EncoderCard:
    path = transformers.utils.cached_file(
        card.options["model"],
        "preprocessor_config.json",
        revision=card.revision,
        _raise_exceptions_for_missing_entries=False,
        _raise_exceptions_for_connection_errors=False,
    )
    try:
        stated = json.loads(Path(path).read_text(encoding="utf-8")) if path else {}
    except (OSError, ValueError) as error:
        raise FormatError(f"the preprocessing of {card.name!r} cannot be read ({error})") from error
    if not stated:
        logger.warning("%s does not state its preprocessing; ImageNet's mean and deviation are used", card.name)
    side = (
        _side(stated.get("crop_size"))
        or _side(stated.get("size"))
        or _side(getattr(network.config, "image_size", None))
    )
    return replace(
        card,
        input_px=side or card.input_px,
        mean=tuple(stated.get("image_mean") or card.mean),
        std=tuple(stated.get("image_std") or card.std),
    )


def _side(value: object) -> int | None:
    if isinstance(value, Mapping):
        value = value.get("height") or value.get("shortest_edge")
    if isinstance(value, list | tuple) and value:
        value = value[-1]
    return int(value) if isinstance(value, int) and 8 <= value <= 4096 else None


@contextmanager
def _loading(card: EncoderCard) -> Iterator[None]:
    """Say why weights could not be had, whatever the library raised."""
    try:
        yield
    except ExpressorError:
        raise
    except Exception as error:
        told = " | ".join(_chain(error))
        where = f"https://huggingface.co/{card.options['model'].removeprefix('hf-hub:')}"
        offline = f'Without a network use "efficientnet_lite0" or precomputed features, or a local folder: "{_by_folder(card)}".'
        if any(sign in told for sign in _DENIED):
            problem = f"the weights of {card.name!r} are gated and this account has no access"
            fix = f"Accept the terms at {where} (licence: {card.licence}), then log in with: hf auth login"
        elif any(sign in told for sign in _UNREACHABLE):
            problem = f"the weights of {card.name!r} are not in the local cache and the model hub cannot be reached"
            terms = f" It is gated: accept the terms at {where} first." if card.gated else ""
            fix = f"Load it once with a network.{terms} {offline}"
        elif any(sign in told for sign in _UNKNOWN):
            problem, fix = f"there is no model {card.options['model']!r}", f"Check the name at {where}."
        else:
            raise FormatError(
                f"the encoder {card.name!r} could not be loaded ({type(error).__name__}: {str(error)[:300]})",
                fix="Check the versions of the packages of the extra 'encoders', and the model's files.",
            ) from error
        raise DataError(problem, fix=fix) from error


def _chain(error: BaseException | None) -> Iterator[str]:
    while error is not None:
        yield f"{type(error).__name__}: {error}"
        error = error.__cause__ or error.__context__


def _by_folder(card: EncoderCard) -> str:
    return ("timm" if card.loader.endswith("timm") else "hf") + ":/path/to/model"
