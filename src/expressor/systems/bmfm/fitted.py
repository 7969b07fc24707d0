"""A fitted model's parts, and what they give for cells: vectors, logits of classes, expected expression."""

import dataclasses
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from expressor.core.errors import DataError
from expressor.data.tokens import Tokeniser
from expressor.estimator.errors import NotFittedError
from expressor.genes.vocab import GeneVocab
from expressor.systems.bmfm.architecture import Architecture
from expressor.systems.bmfm.corpus import Corpus, Moments, Reading
from expressor.systems.bmfm.network import CellNetwork, places_of
from expressor.systems.bmfm.training import Learner, expected_values

_BATCH = 64  # cells at a time
_ASKED = 256  # genes that masked modelling is asked for at a time


@dataclass(eq=False)
class Head:
    """A linear layer from the vector of a cell to classes.

    Attributes
    ----------
    weight, bias
        (class, dim) and (class,).
    """

    weight: Tensor
    bias: Tensor


@dataclass(eq=False)
class Fitted:
    """What a fit leaves.

    Attributes
    ----------
    genes
        The model's genes.
    architecture, learner
        The network with its heads, and what they are made of.
    moments
        Of the genes, from the training cells.
    tokeniser
        How cells become tokens in use.
    pooling
        Which vector of the encoder's output stands for a cell.
    classes
        Column -> names of its classes, for the labels of pretraining.
    label_classes
        Classes of ``label``.
    head
        Tells them from the cell's vector; None where the network's own head does, or nothing.
    tuned
        The network after fine-tuning, which the head looks at; None: the pretrained one.
    history
        One row an epoch, or a head.
    counts
        Numbers of cells.
    report
        How the genes of the data line up with the model's.
    """

    genes: GeneVocab
    architecture: Architecture
    learner: Learner
    moments: Moments
    tokeniser: Tokeniser
    pooling: str
    classes: dict[str, tuple[str, ...]]
    label_classes: tuple[str, ...] = ()
    head: Head | None = None
    tuned: CellNetwork | None = None
    history: pd.DataFrame = field(default_factory=pd.DataFrame)
    counts: dict[str, int] = field(default_factory=dict)
    report: str = ""

    @property
    def network(self) -> CellNetwork:
        """The pretrained network."""
        return self.learner.network

    @property
    def restores(self) -> bool:
        """Whether an objective restores expression."""
        return self.learner.profile is not None or (self.learner.token is not None and self.learner.masks_values)

    def reading(self, corpus: Corpus) -> Reading:
        """Return how the cells of ``corpus`` become tensors in use."""
        return Reading(corpus, self.moments, self.tokeniser)


def for_use(tokeniser: Tokeniser, target_depth: float | None) -> Tokeniser:
    """Return how cells become tokens in use: nothing is dropped or thinned, and zeros do not depend on the batch."""
    return dataclasses.replace(
        tokeniser, dropout=0.0, expressed_only=0.0, zeros="none" if tokeniser.zeros == "none" else "random",
        read_depth=None if tokeniser.read_depth is None else "align", target_depth=target_depth,
    )  # fmt: skip


def device_of(plan: Any) -> torch.device:
    """Return where a network is used."""
    wants = plan.device in ("auto", "cuda") and torch.cuda.is_available()
    return torch.device("cuda" if wants else "mps" if plan.device == "mps" else "cpu")


def _batches(
    reading: Reading, rows: np.ndarray | None, device: torch.device, whole: bool
) -> Iterator[tuple[np.ndarray, np.ndarray, dict[str, Tensor]]]:
    """Yield places among the wanted cells, their rows, and their tensors; cells of like length together."""
    done = 0
    for part, counts in reading.corpus.parts(rows):
        reading.corpus.check_not_empty(counts, part)
        order = np.argsort(np.diff(counts.indptr), kind="stable")
        for start in range(0, len(order), _BATCH):
            mine = order[start : start + _BATCH]
            batch = reading.batch(part[mine], counts[mine], None, whole=whole)
            yield done + mine, part[mine], {name: one.to(device) for name, one in batch.items()}
        done += len(part)


def apply(
    reading: Reading,
    call: Callable[[dict[str, Tensor], np.ndarray], Tensor],
    *,
    rows: np.ndarray | None = None,
    device: torch.device,
    whole: bool = False,
) -> np.ndarray:
    """Return what ``call`` gives for batches of cells, float32 (cell, ...), in the order of ``rows``.

    Raises
    ------
    DataError
        A cell has no counts of the model's genes.
    """
    found: np.ndarray | None = None
    n = len(reading.corpus) if rows is None else len(rows)
    with torch.no_grad():
        for places, mine, batch in _batches(reading, rows, device, whole):
            values = call(batch, mine).float().cpu().numpy()
            if found is None:
                found = np.empty((n, *values.shape[1:]), dtype=np.float32)
            found[places] = values
    if found is None:
        raise DataError("there are no cells", fix="Give data with observations.")
    return found


def embed(
    network: CellNetwork, reading: Reading, pooling: str, *, rows: np.ndarray | None = None, device: torch.device
) -> np.ndarray:
    """Return the vectors of cells, float32 (cell, dim)."""
    network = network.to(device).eval()
    places = places_of(pooling, network)

    def call(batch: dict[str, Tensor], _: np.ndarray) -> Tensor:
        encoded = network(
            batch["genes"], batch["values"], depth=batch.get("depth"), places=places, measured=batch["measured"]
        )
        return network.pool(encoded, batch["genes"], pooling)

    try:
        return apply(reading, call, rows=rows, device=device)
    finally:
        network.cpu()


def logits(fitted: Fitted, reading: Reading, label: str, *, device: torch.device) -> np.ndarray:
    """Return the logits of the classes of ``label``, float32 (cell, class).

    Raises
    ------
    NotFittedError
        The model was fitted without that label.
    """
    if fitted.head is not None:
        vectors = embed(fitted.tuned or fitted.network, reading, fitted.pooling, device=device)
        return (vectors @ fitted.head.weight.numpy().T + fitted.head.bias.numpy()).astype(np.float32)
    heads = fitted.learner.labels
    if heads is None or label not in heads.columns:
        raise NotFittedError("this BMFM was fitted without labels",
                             fix="Fit it with label=, the column of obs that holds them.")  # fmt: skip
    token = next(one.cell_token for one in fitted.learner.objectives if one.column == label)
    vectors = embed(fitted.network, reading, str(token), device=device)
    with torch.no_grad():
        return heads(torch.from_numpy(vectors), label).numpy()


# Expected expression ----------------------------------------------------------------------------------------------------


def expected(fitted: Fitted, reading: Reading, *, device: torch.device) -> np.ndarray:
    """Return the expected value of every gene, float32 (cell, gene): log1p of counts per ten thousand.

    It comes from the head of the whole cell; where there is none, from the head of masked values, which is asked for the genes that
    were not measured (the others are then 0).

    Raises
    ------
    NotFittedError
        No objective of the fit restores expression.
    """
    learner = fitted.learner.to(device).eval()
    try:
        if learner.profile is not None:
            return apply(reading, lambda batch, _: _from_cell(learner, batch), device=device)
        if learner.token is not None and learner.masks_values:
            zero = torch.from_numpy(fitted.moments.zero).float().to(device)
            return apply(reading, lambda batch, rows: _from_tokens(learner, batch, reading, rows, zero), device=device)
    finally:
        learner.cpu()
    raise NotFittedError("this BMFM was fitted without an objective that restores expression",
                         fix='Fit it with objectives="wced" or "mlm".')  # fmt: skip


def _from_cell(learner: Learner, batch: dict[str, Tensor]) -> Tensor:
    network = learner.network
    encoded = network(
        batch["genes"], batch["values"], depth=batch.get("depth"), places=network.cells, measured=batch["measured"]
    )
    every = torch.ones(len(encoded), learner.network.gene.num_embeddings, dtype=torch.bool, device=encoded.device)
    return expected_values(learner, learner.decode(encoded), every).clamp(min=0)


def _from_tokens(
    learner: Learner, batch: dict[str, Tensor], reading: Reading, rows: np.ndarray, zero: Tensor
) -> Tensor:
    """Ask for the values of all genes that a cell lacks, some at a time, beside the tokens that it has."""
    genes, values = batch["genes"], batch["values"]
    absent = ~reading.corpus.measured(rows)
    found = torch.zeros(len(rows), reading.width, device=genes.device)
    wanted = [np.flatnonzero(one) for one in absent]
    for start in range(0, max(map(len, wanted)), _ASKED):
        part = [one[start : start + _ASKED] for one in wanted]
        asked = genes.new_full((len(rows), max(map(len, part))), -1)
        for i, one in enumerate(part):
            asked[i, : len(one)] = torch.from_numpy(one).to(asked)
        there = asked >= 0
        shown = torch.cat([genes, asked], dim=1)
        hidden = torch.cat([torch.zeros_like(genes, dtype=torch.bool), there], dim=1)
        padded = torch.cat([values, values.new_zeros(asked.shape)], dim=1)
        encoded = learner.network(shown, padded, None, hidden, batch.get("depth"), measured=batch["measured"])
        tokens = encoded[:, learner.network.before + genes.shape[1] :][there]
        said = learner.expected_of_tokens(tokens, zero[asked[there].long()])
        cells = torch.arange(len(rows), device=genes.device)[:, None].expand_as(asked)[there]
        found[cells, asked[there].long()] = said.clamp(min=0)
    return found


def to_counts(values: np.ndarray, library: np.ndarray) -> np.ndarray:
    """Return counts of cells of these libraries from values on the scale of log1p of counts per ten thousand."""
    return (np.expm1(values) * (library[:, None] / 1e4)).astype(np.float32)
