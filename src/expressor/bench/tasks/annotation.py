"""Telling the type of cells: of a technology, donor or sample that was not trained on, or of held-out cells of the same."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from anndata import AnnData

from expressor import datasets
from expressor.bench.cohorts import METRICS, Statistic, hide, mean_statistic, summarise_patients
from expressor.bench.controls.annotating import Annotator
from expressor.bench.labels import Judged, f1_draws, predict_labels, score_labels
from expressor.bench.store import Cell
from expressor.bench.task import Fold, Method, Protocol, Task
from expressor.core import registry
from expressor.core.errors import DataError
from expressor.data.cohorts import draw_folds
from expressor.data.fields import fingerprint
from expressor.data.keys import BATCH, CELL_TYPE
from expressor.data.outcomes import read_labels
from expressor.data.splits import check_leak, leave_one_group_out
from expressor.datasets.dataset import take

LABEL = CELL_TYPE
REFERENCE = "logistic"
COMMON = 10
"""Cells that a type must have, in all folds together, to be judged by itself too: F1 of three cells is chance."""
JUDGING = {"draws": 1000}
VARIABLE = {"genes": 2000, "components": 50}
NETWORKS: Mapping[str, tuple[str, Mapping[str, Any]]] = {
    "bmfm-random": ("BMFM, random weights", {"objectives": "", "gene_vectors": "random"}),
    "bmfm-untrained": ("BMFM, not pretrained", {"objectives": ""}),
    "bmfm-mlm": ("BMFM, masked genes (MLM)", {"objectives": "mlm"}),
}
"""Variants of a system that show what its pretraining is worth: title and parameters."""
_SAME = (
    "In brackets the cells are resampled, not the technologies or donors: they say nothing about another laboratory."
)

PROTOCOLS = (
    Protocol(
        name="pbmc-technologies",
        version=1,
        title="Blood cells by three 10x chemistries: each is held out in turn",
        data={"dataset": "pbmc_3tech"},
        split={"kind": "leave-one-out", "key": BATCH},
        targets={"label": LABEL},
        variants=("counts",),
        judging=JUDGING,
        notes=(
            _SAME,
            "Of nine types two are rare: HSC has three cells, MK seven. Macro F1 over all nine is ruled by these ten cells.",
        ),
    ),
    Protocol(
        name="amygdala-donors",
        version=1,
        title="Nuclei of the amygdala: each of two donors is held out in turn",
        data={"dataset": "amygdala"},
        split={"kind": "leave-one-out", "key": "donor"},
        targets={"label": LABEL},
        variants=("counts",),
        judging=JUDGING,
        notes=(_SAME,),
    ),
    Protocol(
        name="kang-samples",
        version=1,
        title="Blood cells with and without interferon: each of four samples is held out in turn",
        data={"dataset": "kang"},
        split={"kind": "leave-one-out", "key": "sample"},
        targets={"label": LABEL},
        variants=("counts",),
        judging=JUDGING,
        notes=(_SAME, "The other sample of the same donor is trained on: no new person is judged."),
    ),
    Protocol(
        name="pbmc3k",
        version=1,
        title="Blood cells of one donor: five folds of cells",
        data={"dataset": "pbmc3k"},
        split={"kind": "folds", "folds": 5, "seed": 0},
        targets={"label": LABEL},
        variants=("counts",),
        judging=JUDGING,
        notes=(_SAME, "The labels are clusters of the same counts, the test cells among them."),
    ),
    Protocol(
        name="simulated",
        version=1,
        title="Simulated cells of four types in two batches: seconds, to try an installation",
        data={"dataset": "simulated", "n_cells": 120, "seed": 0},
        split={"kind": "leave-one-out", "key": BATCH},
        targets={"label": LABEL},
        variants=("counts",),
        judging={"draws": 200},
        notes=("Made data: the numbers say that the machinery works, and nothing about cells.",),
    ),
)


class Annotation(Task):
    """Predict the type of held-out cells from raw counts.

    A system that predicts labels takes part as it is; one that represents cells takes part with a linear classifier and with
    nearest cells on its representation. Everything is fitted on the training cells.
    """

    name = "annotation"
    role = "Predicts"
    inputs = "cells"
    protocols: Mapping[str, Protocol] = {one.name: one for one in PROTOCOLS}
    metrics = (*METRICS, "classification")

    def controls(self, protocol: Protocol) -> tuple[Method, ...]:
        """Return type frequencies, permuted types, principal components with two classifiers, logistic regression, trees."""
        return (
            Method("frequencies", "type frequencies", "control", Annotator, {"head": "frequencies"}, seeded=False),
            Method("permuted", "HVG + PCA + logistic regression on permuted types", "control", Annotator,
                   VARIABLE | {"shuffled": True}),
            Method("components-nearest", "HVG + PCA + nearest cells", "control", Annotator, VARIABLE | {"head": "nearest"},
                   seeded=False),
            Method("components-linear", "HVG + PCA + logistic regression", "control", Annotator, VARIABLE, seeded=False),
            Method(REFERENCE, "logistic regression, all genes", "control", Annotator, seeded=False),
            Method("boosted", "boosted trees (XGBoost), HVG", "control", Annotator, {"genes": 2000, "head": "boosted"}),
        )  # fmt: skip

    def systems(self, protocol: Protocol) -> tuple[Method, ...]:
        """Return the systems that predict labels of cells, and two classifiers on each that represents cells.

        BMFM also fine-tuned, with random weights, with the weights that pretraining starts from, and pretrained on masked genes.
        """
        found = list(super().systems(protocol))
        found.append(Method("bmfm-full", "BMFM, fine-tuned", "rival", "bmfm", {"finetune": "full"}))
        for name, (title, parameters) in NETWORKS.items():
            own = {"encoder": "bmfm", "encoder_parameters": dict(parameters)}
            found.append(Method(f"{name}-linear", f"{title} + linear probe", "rival", Annotator, own, wraps="bmfm"))
        for card in registry.systems().values():
            if "Encodes" in card.roles and card.inputs == self.inputs:
                own = {"encoder": card.name, "encoder_parameters": dict(card.presets.get("bench", {}))}
                for head, words in (("linear", "linear probe"), ("nearest", "nearest cells")):
                    found.append(
                        Method(f"{card.name}-{head}", f"{card.estimator} + {words}", "rival", Annotator,
                               own | {"head": head}, wraps=card.name)
                    )  # fmt: skip
        return tuple(found)

    def load(self, protocol: Protocol) -> AnnData:
        """Return the cells that the protocol names and whose type is known."""
        settings = dict(protocol.data)
        name = settings.pop("dataset")
        if name == "simulated":
            return datasets.simulate_cells(**settings)
        if name not in datasets.names():
            raise DataError(f"protocol {protocol.name!r} names unknown data {name!r}")
        adata = getattr(datasets, name)().adata
        known = adata.obs[LABEL].notna().to_numpy()
        return adata if known.all() else take(adata, known)

    def fingerprint(self, data: AnnData) -> str:
        """Return the hash of counts and names."""
        return fingerprint(data)

    def folds(self, protocol: Protocol, data: AnnData) -> list[Fold]:
        """Hold out each group in turn, or folds of cells that are stratified by type."""
        read_labels(data, LABEL)
        split = protocol.split
        if split["kind"] == "folds":
            named = AnnData(obs=data.obs[[LABEL]].assign(cell=data.obs_names), shape=data.shape)
            drawn = draw_folds(
                named,
                folds=split["folds"],
                repeats=1,
                by=[LABEL],
                seed=split["seed"],
                name=protocol.name,
                patient="cell",
            )
            splits, apart = drawn.splits(named, patient="cell"), ["obs_names"]
        else:
            splits, apart = leave_one_group_out(data, split["key"]), ["obs_names", split["key"]]
        folds = []
        for one in splits:
            train, test = take(data, one.train), take(data, one.test)
            check_leak(train, test, by=apart)
            folds.append(Fold(one.name, train, test, (LABEL,)))
        return folds

    def blind(self, test: AnnData) -> AnnData:
        """Return counts and batches, without types."""
        return hide(test, columns=(BATCH,))

    def context(self, protocol: Protocol, fold: Fold, variant: str, seed: int) -> dict[str, Any]:
        """Return label and seed."""
        return dict(protocol.parameters) | {"label": LABEL, "random_state": seed}

    def predict(self, model: Any, seen: AnnData) -> dict[str, pd.DataFrame]:
        """Return types, and probabilities where the model gives them."""
        return predict_labels(model, seen, LABEL)

    def score(
        self, protocol: Protocol, fold: Fold, variant: str, tables: Mapping[str, pd.DataFrame]
    ) -> dict[str, pd.DataFrame]:
        """Return for each cell what it is, what was predicted, and its log loss."""
        truth = fold.test.obs[LABEL].astype(str).to_numpy()
        return score_labels(truth, tables, label=LABEL, cell=fold.test.obs_names.astype(str))

    def summarise(self, protocol: Protocol, cells: Iterable[Cell], methods: tuple[Method, ...]) -> pd.DataFrame:
        """Return scores over all held-out cells, accuracy in each held-out group, and differences from logistic regression."""
        groups = protocol.split["kind"] != "folds"
        return summarise_patients(
            cells, methods, statistics=lambda group: _statistics(group, groups), headline=("accuracy", "macro_f1"),
            references=(REFERENCE,), n_draws=int(protocol.judging["draws"]),
        )  # fmt: skip


def _statistics(cells: Sequence[Cell], by_group: bool) -> list[Statistic]:
    seeds = len({cell.key.seed for cell in cells})
    n = sum(len(cell.tables["samples"]) for cell in cells) // seeds
    judged = Judged.of("all", cells, unit="cell", n=n)
    found = [judged.accuracy()]
    if by_group:
        for group in dict.fromkeys(cell.key.fold for cell in cells):
            found.append(Judged.of(group, [one for one in cells if one.key.fold == group], unit="cell").accuracy())
    found.append(judged.macro_f1())
    kinds, counts = np.unique(judged.truth, return_counts=True)
    common = np.isin(judged.truth, kinds[counts >= COMMON * seeds])
    if common.any() and not common.all():
        parts = (one[common] for one in (judged.truth, judged.given, judged.names))
        found += _of_common(*parts, n=int(common.sum()) // seeds)
    return [*found, judged.balanced_accuracy(), *judged.of_probabilities()]


def _of_common(truth: np.ndarray, given: np.ndarray, name: np.ndarray, *, n: int) -> list[Statistic]:
    """Scores over the cells of common types alone; a rare type that one is taken for is a mistake, not a type to average."""
    kinds, where = np.unique(truth), f"types of {COMMON} cells or more"

    def f1(weights: np.ndarray) -> np.ndarray:
        return f1_draws(truth, given, weights, kinds=kinds)

    accuracy = mean_statistic(where, "accuracy", (truth == given).astype(np.float64), name)
    return [accuracy, Statistic(where, "macro_f1", float(f1(np.ones((1, len(truth))))[0]), name, f1, n)]


TASK = Annotation()
"""The task."""
