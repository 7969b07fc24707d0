"""Telling the type of a tumour from a random panel of genes, or from very few labelled samples."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from anndata import AnnData

from expressor.bench.cohorts import METRICS, CohortTask, Statistic, hide, mean_statistic, summarise_patients
from expressor.bench.controls.labelling import BoostedLabels, ClassFrequencies, Multinomial, NearestLabels
from expressor.bench.labels import balanced_draws, predict_labels, score_labels
from expressor.bench.store import Cell
from expressor.bench.task import Fold, Method, Protocol
from expressor.core.errors import DataError
from expressor.core.rng import stream
from expressor.data.keys import CANCER_TYPE
from expressor.data.outcomes import read_labels
from expressor.metrics.classification import balanced_accuracy, calibration_error, macro_f1

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
    groups: dict[str, list[Cell]] = {}
    for cell in cells:
        groups.setdefault(cell.key.fold.split(" ", 1)[1].split(" #")[0], []).append(cell)
    found = []
    for setting, own in groups.items():
        samples = pd.concat([cell.tables["samples"] for cell in own])
        patients = samples["patient"].to_numpy().astype(str)
        truth, given = samples["truth"].to_numpy().astype(str), samples["predicted"].to_numpy().astype(str)

        def judge(weights: np.ndarray, truth: np.ndarray = truth, given: np.ndarray = given) -> np.ndarray:
            return balanced_draws(truth, given, weights)

        value = balanced_accuracy(truth, given)
        found.append(Statistic(setting, "balanced_accuracy", value, patients, judge, len(truth), 0))
        found.append(mean_statistic(setting, "accuracy", (truth == given).astype(np.float64), patients))
        parts = [cell.tables["samples"] for cell in own]
        f1 = np.mean([macro_f1(one["truth"], one["predicted"]) for one in parts])
        found.append(Statistic(setting, "macro_f1", float(f1), n=len(parts)))
        if "loss" in samples:
            found.append(mean_statistic(setting, "log_loss", samples["loss"], patients))
            p = pd.concat([cell.tables["probability"] for cell in own]).fillna(0.0)
            error = calibration_error(truth, p.to_numpy(), list(p.columns))
            found.append(Statistic(setting, "calibration_error", error, n=len(truth)))
    return found


def named_settings(protocol: Protocol) -> Iterator[tuple[Mapping[str, Any], str]]:
    """Yield each setting of the protocol with what a table calls it."""
    for setting in protocol.targets["settings"]:
        few = setting["labels"]
        yield setting, f"{setting['genes']:,} genes" + ("" if few is None else f", {few} labelled a type")


def _label_few(train: AnnData, few: int | None, rng: np.random.Generator) -> AnnData:
    """Return the training data with labels of ``few`` samples of each type, drawn by name, and gaps for the others."""
    if few is None:
        return train
    labels = train.obs[LABEL].astype(str).to_numpy()
    order = np.argsort(train.obs_names.astype(str).to_numpy(), kind="stable")
    kept = np.zeros(train.n_obs, dtype=bool)
    for one in np.unique(labels):
        rows = order[labels[order] == one]
        kept[rng.choice(rows, size=min(few, len(rows)), replace=False)] = True
    copy = AnnData(train.X, obs=train.obs.copy(), var=train.var.copy(), uns=dict(train.uns))  # the matrix is shared
    copy.obs[LABEL] = pd.Series(labels, index=copy.obs_names).where(kept).astype("category")
    return copy


TASK = CancerType()
"""The task."""
