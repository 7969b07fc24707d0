"""Where a fit starts from: random weights, the data's principal loadings, a saved model, or a published checkpoint."""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from expressor.core.errors import DataError, FormatError
from expressor.core.log import logger
from expressor.core.serial import read_json
from expressor.data import files
from expressor.data.tokens import Tokeniser
from expressor.genes.vocab import GeneVocab
from expressor.systems.bmfm.architecture import Architecture
from expressor.systems.bmfm.network import CellNetwork
from expressor.systems.bmfm.objectives import Objective
from expressor.systems.bmfm.training import Learner

_GENES = "network.gene.weight"


@dataclass(eq=False)
class Start:
    """A trained network to go on from.

    Attributes
    ----------
    genes, architecture
        Its vocabulary, and what it is made of.
    tensors
        Weights by the names that a :class:`~expressor.systems.bmfm.training.Learner` gives them.
    objectives
        What its heads were trained for.
    tokeniser, pooling
        How its cells became tokens, and which vector stands for a cell: they belong to the weights.
    classes, below
        As in :class:`~expressor.systems.bmfm.corpus.Labels`.
    """

    genes: GeneVocab
    architecture: Architecture
    tensors: Mapping[str, Tensor]
    objectives: tuple[Objective, ...]
    tokeniser: Tokeniser
    pooling: str
    classes: dict[str, tuple[str, ...]] = field(default_factory=dict)
    below: dict[str, np.ndarray] = field(default_factory=dict)


def open_start(path: str, *, max_length: int) -> Start:
    """Read a saved BMFM, or a published checkpoint, whose cells become at most ``max_length`` tokens.

    Raises
    ------
    DataError
        Nothing is there, or it is a saved model of another system.
    FormatError
        It is neither, or damaged.
    """
    folder = files.find(path, what="model to start from")
    if not folder.is_dir():
        raise FormatError(f"{path} is no folder", expected="a saved model, or a checkpoint in Hugging Face's layout")
    config = read_json(folder / "config.json")
    if isinstance(config, dict) and "system" in config:
        return _saved(folder)
    if isinstance(config, dict) and "fields" in config:
        from expressor.systems.bmfm.published import read_published

        return read_published(folder, max_length=max_length)
    kind = config.get("model_type") if isinstance(config, dict) else None
    raise FormatError(
        f"{folder} is no saved model", expected="a folder that BMFM.save wrote, or a checkpoint of BMFM-RNA",
        got=f"a checkpoint of the type {kind!r}, without the fields of BMFM-RNA" if kind else None,
    )  # fmt: skip


def _saved(folder: Path) -> Start:
    from expressor.estimator.base import load

    model = load(folder)
    if model.card().name != "bmfm":
        raise DataError(f"{folder} holds a {type(model).__name__}", expected="a BMFM")
    fitted = model._fitted
    return Start(
        fitted.genes, fitted.architecture, fitted.learner.state_dict(), fitted.learner.objectives, fitted.tokeniser,
        fitted.pooling, fitted.classes, fitted.learner.below,
    )  # fmt: skip


def take_network(network: CellNetwork, genes: GeneVocab, start: Start) -> None:
    """Copy the weights of ``start``; genes that it does not have start from the mean vector of those that it has.

    Raises
    ------
    FormatError
        A weight is missing or has another shape.
    """
    weights = {name.removeprefix("network."): one for name, one in start.tensors.items() if name.startswith("network.")}
    table = start.tensors[_GENES]
    position = torch.from_numpy(start.genes.align(genes.names).index)
    old = torch.nonzero(position >= 0)[:, 0]
    vectors = table.mean(0).expand(len(genes), -1).clone()
    vectors[position[old]] = table[old]
    own = {"gene.weight": vectors}
    if network.mean is not None and "mean" in weights:
        own["mean"] = network.mean.clone()
        own["mean"][position[old]] = weights["mean"][old]
    try:
        network.load_state_dict(weights | own)
    except RuntimeError as error:
        raise FormatError("the weights to start from do not fit their own description", got=str(error)[:300]) from error


def take_heads(learner: Learner, genes: GeneVocab, classes: Mapping[str, tuple[str, ...]], start: Start) -> list[str]:
    """Copy those heads of ``start`` that fit, and return the names of the new ones."""
    own = learner.state_dict()
    new = set()
    for name, value in own.items():
        part = name.split(".")[0]
        if part == "network":
            continue
        fits = name in start.tensors and start.tensors[name].shape == value.shape and genes == start.genes
        if part == "labels":
            fits = fits and dict(classes) == start.classes
        if fits:
            value.copy_(start.tensors[name])
        elif part not in ("gene_weight", "log_theta"):
            new.add(part)
    if new:
        logger.info("new heads: %s", ", ".join(sorted(new)))
    return sorted(new)


def digest(tensors: Mapping[str, Tensor]) -> str:
    """Return a SHA-256 (hex) of names and weights."""
    found = hashlib.sha256()
    for name in sorted(tensors):
        found.update(name.encode())
        found.update(tensors[name].detach().cpu().contiguous().numpy().tobytes())
    return found.hexdigest()
