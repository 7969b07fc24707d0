"""Telling the type of a tumour from a random panel of genes, or from very few labelled samples."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from anndata import AnnData

from expressor.bench.cohorts import METRICS, CohortTask, Statistic, hide, summarise_patients
from expressor.bench.controls.labelling import BoostedLabels, ClassFrequencies, Multinomial, NearestLabels
from expressor.bench.labels import Judged, by_setting, label_some, predict_labels, score_labels
from expressor.bench.store import Cell
from expressor.bench.task import Fold, Method, Protocol
from expressor.core.errors import DataError
from expressor.core.rng import stream
from expressor.data.keys import CANCER_TYPE
from expressor.data.outcomes import read_labels
from expressor.metrics.classification import macro_f1

LABEL = CANCER_TYPE
REFERENCE = "ridge"
JUDGING = {"draws": 1000}
FIVE = {"folds": 5, "repeats": 1, "seed": 0, "by": [LABEL]}


def _settings(*sizes: int, draws: int, labels: Sequence[int | None] = (None,)) -> list[dict[str, Any]]:
    return [{"genes": size, "labels": few, "draws": draws} for size in sizes for few in labels]


PROTOCOLS = (
    Protocol(
        name="counts7",
        version=1,
        title="Seven TCGA types, one pipeline: random panels of 16, 64 and 256 genes",
        data={"dataset": "tcga_counts7"},
        split=FIVE | {"sha256": "240218d262ee"},
        targets={"settings": _settings(16, 64, 256, draws=2)},
        variants=("log2",),
        judging=JUDGING,
        notes=("Panels are drawn at random from all 35,266 genes, two of each size in each fold; log2(CPM+1).",),
    ),
    Protocol(
        name="toil4",
        version=1,
        title="Four TCGA types, one pipeline: random panels of 16, 64 and 256 genes",
        data={"dataset": "tcga_toil4"},
        split=FIVE | {"sha256": "727622512784"},
        targets={"settings": _settings(16, 64, 256, draws=2)},
        variants=("log2",),
        judging=JUDGING,
        notes=("Panels are drawn at random from all 1,577 genes, two of each size in each fold; log2(TPM+1).",),
    ),
    Protocol(
        name="counts7-few",
        version=1,
        title="Seven TCGA types: 1, 3 and 5 labelled samples a type, random panels of 64 and 1,024 genes",
        data={"dataset": "tcga_counts7"},
        split=FIVE | {"sha256": "240218d262ee"},
        targets={"settings": _settings(64, 1024, draws=2, labels=(1, 3, 5))},
        variants=("log2",),
        judging=JUDGING,
        notes=(
            "Of the training patients of each fold a few of each type are labelled; the others may be used without a label.",
        ),
    ),
    Protocol(
        name="simulated",
        version=1,
        title="Simulated profiles of three types: 40 genes, seconds, to try an installation",
        data={"dataset": "simulated", "n_patients": 90, "n_genes": 40, "seed": 0},
        split={"folds": 3, "repeats": 1, "seed": 0, "by": [LABEL]},
        targets={"settings": [*_settings(10, draws=1), *_settings(30, draws=1, labels=(3,))]},
        variants=("log2",),
        judging={"draws": 200},
        notes=("Made data: the numbers say that the machinery works, and nothing about tumours.",),
    ),
)


class CancerType(CohortTask):
    """Predict the type of new patients' tumours from a panel of genes.

    A test sample shows its panel and nothing else. Methods are fitted on the panel of the labelled training patients; one with a
    parameter ``panel`` is given the panel there, and is fitted on all genes of all training patients, ``NaN`` where the label is
    not given, because it can learn from what a panel does not show.
    """

    name = "cancer_type"
    role = "Predicts"
    protocols: Mapping[str, Protocol] = {one.name: one for one in PROTOCOLS}
    metrics = (*METRICS, "classification")

    def controls(self, protocol: Protocol) -> tuple[Method, ...]:
        """Return class frequencies, permuted labels, nearest samples, multinomial ridge and elastic net, boosted trees."""
        return (
            Method("frequencies", "class frequencies", "control", ClassFrequencies, seeded=False),
            Method("permuted", "multinomial ridge on permuted labels", "control", Multinomial, {"shuffled": True}),
            Method("nearest", "5 nearest samples", "control", NearestLabels, seeded=False),
            Method(REFERENCE, "multinomial ridge", "control", Multinomial, seeded=False),
            Method("elastic-net", "multinomial elastic net", "control", Multinomial, {"penalty": "elastic_net"}),
            Method("boosted", "boosted trees (XGBoost)", "control", BoostedLabels),
        )

    def folds(self, protocol: Protocol, data: AnnData) -> list[Fold]:
        """Split by patient, stratified by type; draw a panel, and who is labelled, for each setting."""
        read_labels(data, LABEL, at_least=int(protocol.split["folds"]))
        folds = []
        names = np.sort(data.var_names.astype(str).to_numpy())
        for number, (split, train, test) in enumerate(self.splits(protocol, data)):
            for setting, name in named_settings(protocol):
                for draw in range(setting["draws"]):
                    rng = stream(0, f"panel {name}", number, draw)
                    if setting["genes"] > len(names):
                        raise DataError("a panel is larger than the data", expected=f"at most {len(names)} genes")
                    panel = tuple(sorted(rng.choice(names, setting["genes"], replace=False).tolist()))
                    folds.append(
                        Fold(
                            f"{split.name} {name} #{draw + 1}", _label_few(train, setting["labels"], rng),
                            test[:, list(panel)].copy(), panel,
                        )
                    )  # fmt: skip
        return folds

    def training(self, model: Any, fold: Fold) -> AnnData:
        """Return all training patients for a model with a parameter ``panel``, else the panel of those that are labelled."""
        if hasattr(model, "panel"):
            return fold.train
        labelled = fold.train.obs[LABEL].notna().to_numpy()
        part = fold.train[labelled, list(fold.targets)].copy()
        part.obs[LABEL] = part.obs[LABEL].cat.remove_unused_categories()
        return part

    def blind(self, test: AnnData) -> AnnData:
        """Return the panel of the samples, without labels."""
        return hide(test)

    def context(self, protocol: Protocol, fold: Fold, variant: str, seed: int) -> dict[str, Any]:
        """Return label, panel and seed."""
        own = {"label": LABEL, "panel": fold.targets, "random_state": seed}
        return dict(protocol.parameters) | own

    def predict(self, model: Any, seen: AnnData) -> dict[str, pd.DataFrame]:
        """Return labels, and probabilities where the model gives them."""
        return predict_labels(model, seen, LABEL)

    def score(
        self, protocol: Protocol, fold: Fold, variant: str, tables: Mapping[str, pd.DataFrame]
    ) -> dict[str, pd.DataFrame]:
        """Return for each sample what it is, what was predicted, and its log loss."""
        test = fold.test.obs
        return score_labels(
            test[LABEL].astype(str).to_numpy(), tables, label=LABEL, patient=test["patient"].astype(str)
        )

    def summarise(self, protocol: Protocol, cells: Iterable[Cell], methods: tuple[Method, ...]) -> pd.DataFrame:
        """Return accuracies for each setting, and differences of balanced accuracy from multinomial ridge."""
        return summarise_patients(
            cells, methods, statistics=_statistics, headline=("balanced_accuracy", "log_loss"), references=(REFERENCE,),
            n_draws=int(protocol.judging["draws"]),
        )  # fmt: skip


def _statistics(cells: Sequence[Cell]) -> list[Statistic]:
    found = []
    for setting, own in by_setting(cells).items():
        judged = Judged.of(setting, own, unit="patient")
        parts = [cell.tables["samples"] for cell in own]
        f1 = float(np.mean([macro_f1(one["truth"], one["predicted"]) for one in parts]))
        found += [
            judged.balanced_accuracy(), judged.accuracy(), Statistic(setting, "macro_f1", f1, n=len(parts)),
            *judged.of_probabilities(),
        ]  # fmt: skip
    return found


def named_settings(protocol: Protocol) -> Iterator[tuple[Mapping[str, Any], str]]:
    """Yield each setting of the protocol with what a table calls it."""
    for setting in protocol.targets["settings"]:
        few = setting["labels"]
        yield setting, f"{setting['genes']:,} genes" + ("" if few is None else f", {few} labelled a type")


def _label_few(train: AnnData, few: int | None, rng: np.random.Generator) -> AnnData:
    """Return the training data with the labels of ``few`` samples of each type alone; of all where ``few`` is None."""
    if few is None:
        return train
    return label_some(train, LABEL, lambda rows: rng.choice(rows, size=min(few, len(rows)), replace=False))


TASK = CancerType()
"""The task."""
