"""The course of a fit: cells, genes, start, pretraining, label."""

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch

from expressor.core.errors import DataError
from expressor.core.log import logger
from expressor.data.tokens import Tokeniser
from expressor.genes.vocab import GeneVocab
from expressor.systems.bmfm import equations
from expressor.systems.bmfm.architecture import build_learner
from expressor.systems.bmfm.corpus import (
    FEW,
    Corpus,
    Labels,
    Moments,
    Reading,
    Split,
    loadings,
    open_corpus,
    survey,
)
from expressor.systems.bmfm.fitted import Fitted, device_of, embed, for_use
from expressor.systems.bmfm.network import CellNetwork
from expressor.systems.bmfm.ontology import read_edges
from expressor.systems.bmfm.parameters import architecture_of, objectives_of, training_tokeniser
from expressor.systems.bmfm.start import digest, open_start, take_heads, take_network
from expressor.systems.bmfm.training import Judged, pretrain
from expressor.systems.bmfm.tuning import fit_probe, tune
from expressor.train.loop import seeded

_SMALL = 0.02  # spread of random additions
_RISE = 10.0  # of differences of places, to the size of a token
_LITTLE = 0.1  # of what blocks add, where cell tokens start from the cell's place


class Fitting:
    """One fit.

    Parameters
    ----------
    model
        The estimator.
    data, val
        Cells, as :func:`~expressor.systems.bmfm.corpus.open_corpus` takes them.
    resume
        Folder of checkpoints.
    """

    def __init__(self, model: Any, data: Any, val: Any, resume: Path | None) -> None:
        self.model, self.resume, self.seed = model, resume, model.random_state
        self.objectives = objectives_of(model)
        self.start = open_start(model.start_from, max_length=model.max_length) if model.start_from else None
        self.corpus = open_corpus(data, layer=model.layer, genes=self._vocabulary())
        self.val = None if val is None else open_corpus(val, layer=model.layer, genes=self.corpus.genes)
        warn_of_lost_genes(self.corpus)
        n = len(self.corpus)
        self.split = Split.of(n, model.validation, seed=self.seed)
        if self.val is not None:
            self.split = Split(np.arange(n), np.arange(len(self.val)))

    def _vocabulary(self) -> GeneVocab | None:
        if self.model.vocabulary is not None:
            return read_vocabulary(self.model.vocabulary)
        return None if self.start is None else self.start.genes

    def run(self) -> Fitted:
        """Return the fitted parts."""
        model, corpus = self.model, self.corpus
        # Labels first: what is wrong with them is said before any long work.
        labels, own = self._labels(corpus), self._own_labels(corpus)
        moments = survey(corpus, self.split.train)
        judging = corpus if self.val is None else self.val
        for part, counts in judging.parts(self.split.held_out):
            judging.check_not_empty(counts, part)
        network = self._network(moments)
        architecture = architecture_of(model) if self.start is None else self.start.architecture
        idle = not self.objectives and self.start is not None
        objectives = self.start.objectives if idle else self.objectives  # type: ignore[union-attr]
        classes, below = (self.start.classes, self.start.below) if idle else (labels.classes, labels.below)  # type: ignore
        with seeded(self.seed, "heads"):
            learner = build_learner(
                architecture, network, objectives, model.masking, mean=moments.positive, zero=moments.zero,
                classes=classes, below=below,
            )  # fmt: skip
        if self.start is not None:
            take_heads(learner, corpus.genes, classes, self.start)
        learning = self._tokeniser()
        in_use = for_use(learning, self._target_depth(learning))
        histories = []
        if self.objectives:
            reading = Reading(corpus, moments, learning)
            histories.append(
                pretrain(
                    learner, reading, self.split.train, labels, self._judged(moments, in_use, labels), plan=model.plan,
                    warm_up=model.warm_up, betas=model.betas, seed=self.seed, balance=model.balance, resume=self.resume,
                    identity=digest(learner.state_dict()),
                )
            )  # fmt: skip
        learner.cpu().eval()
        pooling = model.pooling or ("cell" if self.start is None else self.start.pooling)
        fitted = Fitted(
            corpus.genes, architecture, learner, moments, in_use, pooling, dict(classes), report=corpus.blocks.report(),
            counts={"cells": len(corpus), "train": len(self.split.train), "held_out": len(self.split.held_out)},
        )  # fmt: skip
        if own is not None and model.finetune != "none":
            histories += self._tell(fitted, own)
        elif model.label is not None and model.label in classes:
            fitted.label_classes = classes[model.label]
        fitted.history = pd.concat(histories, ignore_index=True) if histories else _nothing_learnt()
        return fitted

    # Parts ------------------------------------------------------------------------------------------------------------

    def _labels(self, corpus: Corpus, like: Labels | None = None) -> Labels:
        """Return the labels of the objectives; ``like`` those of other cells where given."""
        found = Labels()
        for one in self.objectives:
            if one.source == "label" and one.column not in found.codes:
                if like is not None:
                    found.add_like(like, one.column, corpus.column(one.column))
                    continue
                edges = read_edges(self.model.ontology) if one.loss == "hierarchical" else None
                found.add(one.column, corpus.column(one.column), edges)
        return found

    def _own_labels(self, corpus: Corpus) -> Labels | None:
        if self.model.label is None or self.model.finetune == "none":
            return None
        found = Labels()
        found.add(self.model.label, corpus.column(self.model.label))
        return found

    def _network(self, moments: Moments) -> CellNetwork:
        model, genes = self.model, self.corpus.genes
        architecture = architecture_of(model) if self.start is None else self.start.architecture
        with seeded(self.seed, "init"):
            vectors = torch.randn(len(genes), architecture.dim)
            if self.start is None and model.gene_vectors == "loadings":
                found = loadings(self.corpus, self.split.train, moments, architecture.dim, seed=self.seed)
                vectors *= _SMALL
                vectors[:, : found.shape[1]] += equations.loading_start(torch.from_numpy(found).float())
            network = architecture.network(vectors, torch.from_numpy(moments.mean))
            if network.project is not None:
                start_at_place(network, network.project)
        if self.start is not None:
            take_network(network, genes, self.start)
        return network

    def _tokeniser(self) -> Tokeniser:
        """Return how cells become tokens in training: the start's way, where there is one, with the fit's length and dropout."""
        own = training_tokeniser(self.model)
        if self.start is None:
            return own
        theirs = self.start.tokeniser
        depth = "rda" if theirs.read_depth is not None else None
        return dataclasses.replace(theirs, max_length=own.max_length, dropout=own.dropout, read_depth=depth)  # type: ignore

    def _target_depth(self, learning: Tokeniser) -> float | None:
        """Return the depth that the network is told to aim at in use: the largest of the training cells unless one is set."""
        if learning.read_depth is None:
            return None
        if self.model.target_depth is not None:
            return float(self.model.target_depth)
        sums = [counts.sum(axis=1).max() for _, counts in self.corpus.parts(self.split.train)]
        return float(max(sums))

    def _judged(self, moments: Moments, tokeniser: Tokeniser, labels: Labels) -> Judged:
        if self.val is None:
            return Judged(Reading(self.corpus, moments, tokeniser), self.split.held_out, labels)
        return Judged(Reading(self.val, moments, tokeniser), self.split.held_out, self._labels(self.val, labels))

    # The label --------------------------------------------------------------------------------------------------------

    def _tell(self, fitted: Fitted, labels: Labels) -> list[pd.DataFrame]:
        """Fit the probe, and train on from it where that is asked for."""
        model, column = self.model, self.model.label
        codes, classes = labels.codes[column], labels.classes[column]
        train = np.arange(len(codes)) if model.finetune == "probe" else self.split.train
        train = train[codes[train] >= 0]
        absent = set(range(len(classes))) - set(codes[train].tolist())
        if absent:
            raise DataError(f"the class {classes[min(absent)]!r} of {column!r} is among the held-out cells alone",
                            fix="Give val=, or more cells of each class.")  # fmt: skip
        reading, device = fitted.reading(self.corpus), device_of(model.plan)
        vectors = embed(fitted.network, reading, fitted.pooling, rows=train, device=device)
        fitted.head = fit_probe(vectors, codes[train], len(classes), strength=model.strength, seed=self.seed)
        fitted.label_classes = classes
        fitted.counts["labelled"] = len(train)
        if model.finetune == "probe":
            logit = vectors @ fitted.head.weight.numpy().T + fitted.head.bias.numpy()
            share = float((logit.argmax(axis=1) == codes[train]).mean())
            return [pd.DataFrame([{"epoch": 0, "stage": "probe", "train_accuracy": share}])]
        held = Judged(reading, self.split.held_out, labels)
        if self.val is not None:
            other = Labels()
            other.add_like(labels, column, self.val.column(column))
            held = Judged(fitted.reading(self.val), self.split.held_out, other)
        fitted.tuned, fitted.head, history = tune(
            fitted.network, fitted.head, fitted.pooling, reading, train, labels, held,
            low_rank=(model.lora_rank, model.lora_alpha) if model.finetune == "lora" else None,
            gamma=model.focal, plan=model.tuning, seed=self.seed, resume=self.resume,
        )  # fmt: skip
        return [history]


def start_at_place(network: CellNetwork, project: torch.nn.Linear) -> None:
    """Let cell tokens be the cell's place (equation I7) at first, to which blocks add little."""
    with torch.no_grad():
        project.weight.copy_(_RISE * torch.eye(network.dim))
        for block in network.encoder.blocks:
            for layer in block.last_layers():  # type: ignore[operator]
                layer.weight.mul_(_LITTLE)


def _nothing_learnt() -> pd.DataFrame:
    return pd.DataFrame([{"epoch": 0, "stage": "start"}])


def read_vocabulary(given: str | tuple[str, ...]) -> GeneVocab:
    """Return a vocabulary from names, or from a file: one name a line, or as :meth:`GeneVocab.write` writes it.

    Raises
    ------
    FormatError, GeneError, DataError
        The file is not there or cannot be read, or names repeat.
    """
    if not isinstance(given, str):
        return GeneVocab(given)
    from expressor.data import files
    from expressor.genes.vocab import TITLE

    path = files.find(given, what="vocabulary")
    with files.reading(path, "list of genes"):
        text = path.read_text(encoding="utf-8")
    if text.startswith(TITLE):
        return GeneVocab.read(path)
    return GeneVocab(one.strip() for one in text.splitlines() if one.strip())


def warn_of_lost_genes(corpus: Corpus) -> None:
    """Warn where a source has few of the model's genes."""
    for i, one in enumerate(corpus.blocks.alignments):
        if len(one.matched) < FEW * len(one.index):
            logger.warning("few of the model's genes are in source %d: %s", i, one.report())
