"""Telling who dies earlier, and when, from a bulk profile."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import anndata
import numpy as np
import pandas as pd
from anndata import AnnData

from expressor.bench.cohorts import METRICS, CohortTask, Statistic, hide, summarise_patients
from expressor.bench.controls.surviving import BoostedCox, ClinicalCox, ComponentCox, NoRisk
from expressor.bench.store import Cell
from expressor.bench.task import Fold, Method, Protocol
from expressor.data import keys
from expressor.data.cohorts import check_apart
from expressor.data.outcomes import has_outcome, read_outcomes
from expressor.data.splits import leave_one_group_out
from expressor.datasets import tcga13
from expressor.datasets.bulk import COHORTS, TCGA13
from expressor.datasets.dataset import take
from expressor.metrics.survival import (
    Pairs,
    brier_against_none,
    compare_pairs,
    compare_until,
    uno_weights,
)
from expressor.metrics.survival_calibration import calibration_slope, d_calibration

REFERENCE = "ridge-cox"
OWN, PROFILES = "own cohort", "own outcomes"
LEARNING_FROM_PROFILES = ("gexbert",)
YEAR = 365.25
HORIZONS = {"auc_1y": YEAR, "auc_3y": 3 * YEAR, "auc_5y": 5 * YEAR}
TAU_QUANTILE = 0.9
GRID = 30
JUDGING = {"draws": 1000, "tau_quantile": TAU_QUANTILE, "grid": GRID}
FIVE = {"folds": 5, "repeats": 2, "seed": 0, "by": [keys.EVENT]}
THREE = FIVE | {"folds": 3, "repeats": 1}
FEW_EVENTS = 50
FOLDS = {
    "dbcd": "cf4f9ec24b40",
    "dlbcl": "0956b27bc305",
    "gse1992": "1bb191a834bb",
    "gse3143": "ba400e0044ac",
    "coadread-full": "e5c820c49072",
    "blca": "bd6e61f6f7d4",
    "brca": "0db4c3580e32",
    "coadread": "c57cbb050dad",
    "gbmlgg": "7a65a903a2f3",
    "hnsc": "9c6f6f2072c0",
    "kirc": "5c6996738c9f",
    "kirp": "03f2e627a883",
    "lihc": "97c07472fe6b",
    "luad": "31b38d358f99",
    "lusc": "c10c90b555a4",
    "paad": "6972d7b19e02",
    "skcm": "9c11f5333e82",
    "stad": "6beaf968642c",
}
"""First digits of the SHA-256 of each cohort's folds: a run on other patients is refused."""
FOLDS_OF_THREE = {
    "blca": "ad2dad125f58",
    "brca": "0669c070f91d",
    "coadread": "7ece6f566701",
    "gbmlgg": "78916ef5572b",
    "hnsc": "0d6bd05b70e0",
    "kirc": "b6f05bbf6ca4",
    "kirp": "dc91dc922845",
    "lihc": "27ef525edc9b",
    "luad": "56d6b5e3c07d",
    "lusc": "6ed9dbfff838",
    "paad": "13566d32387a",
    "skcm": "2b82c3e0d81a",
    "stad": "f1e10d9a1859",
}
"""The same for the protocols that train on all cohorts: large fits, so three folds, once."""


def _cohort(name: str) -> Protocol:
    return Protocol(
        name=name.lower(),
        version=1,
        title=f"{name}: five folds of patients, twice",
        data={"dataset": "survival_cohort", "name": name},
        split=FIVE | {"sha256": FOLDS[name.lower()]},
        targets={"time": keys.TIME, "event": keys.EVENT},
        variants=("own",),
        judging=JUDGING,
        notes=(f"Do not claim on cohorts with fewer than {FEW_EVENTS} events. LUSC and STAD are near chance for all.",),
    )


def _pan(name: str) -> Protocol:
    return Protocol(
        name=f"{name.lower()}-pan",
        version=2,
        title=f"{name}: three folds of patients, trained with those of the 12 other TCGA cohorts",
        data={"dataset": "tcga13", "cohort": name},
        split=THREE | {"sha256": FOLDS_OF_THREE[name.lower()]},
        targets={"time": keys.TIME, "event": keys.EVENT},
        variants=("pan",),
        # A memory of profiles serves restoration alone, and costs a third of the time here.
        parameters={"strata": keys.COHORT, "memory": 0},
        judging=JUDGING,
        notes=(
            "The 1,526 genes measured in all cohorts; risk sets are formed within a cohort.",
            "Beside each system trained on all cohorts stands the same trained on the judged cohort alone, and GexBERT that saw "
            "the profiles of all and the outcomes of this one.",
        ),
    )


PROTOCOLS = (
    Protocol(
        name="simulated",
        version=1,
        title="Simulated patients: one factor carries the hazard; seconds, to try an installation",
        data={"dataset": "simulated", "n_patients": 150, "n_genes": 40, "seed": 0},
        split={"folds": 3, "repeats": 1, "seed": 0, "by": [keys.EVENT]},
        targets={"time": keys.TIME, "event": keys.EVENT},
        variants=("own",),
        judging=JUDGING | {"draws": 200},
        notes=("Made data: the numbers say that the machinery works, and nothing about tumours.",),
    ),
    *(_cohort(name) for name in COHORTS),
    *(_pan(name) for name in TCGA13),
    Protocol(
        name="breast-across",
        version=1,
        title="Two breast-cancer cohorts of different arrays: train on one, judge on the other, in turn",
        data={"dataset": "breast_cohorts"},
        split={"kind": "leave-one-out", "key": keys.COHORT},
        targets={"time": keys.TIME, "event": keys.EVENT},
        variants=("own",),
        judging=JUDGING,
        notes=("Genes are z-scores within each cohort, without its outcomes.",),
    ),
)


class Survival(CohortTask):
    """Order new patients by risk, and give each a survival curve.

    Methods see expression, cohort and pipeline of test patients, never outcomes or clinical variables (but for the control that
    says so). Patients of different folds are not compared: their risks are of different models.
    """

    name = "survival"
    role = "Survives"
    protocols: Mapping[str, Protocol] = {one.name: one for one in PROTOCOLS}
    metrics = (*METRICS, "survival", "survival_calibration")

    def controls(self, protocol: Protocol) -> tuple[Method, ...]:
        """Return no risk, permuted outcomes, age and stage, random genes, ridge-Cox on components, boosted trees.

        Where the patients of all cohorts train, outcomes are not permuted as well: the cohort's own protocol does it.
        """
        found = (
            Method("none", "Kaplan-Meier of all patients", "control", NoRisk, seeded=False),
            Method("permuted", "ridge-Cox on permuted outcomes", "control", ComponentCox, {"shuffled": True}),
            Method("clinical", "Cox on age and stage", "control", ClinicalCox, seeded=False,
                   needs="age and stage of the test patients"),
            Method("random-genes", "Cox on 50 random genes", "control", ComponentCox, {"n_genes": 50}),
            Method(REFERENCE, "ridge-Cox on 50 components", "control", ComponentCox, seeded=False),
            Method("boosted", "boosted trees, Cox loss (XGBoost)", "control", BoostedCox),
        )  # fmt: skip
        return tuple(one for one in found if one.name != "permuted" or "cohort" not in protocol.data)

    def systems(self, protocol: Protocol) -> tuple[Method, ...]:
        """Return every system that predicts survival; with several cohorts, the same without the others too."""
        systems = super().systems(protocol)
        if "cohort" not in protocol.data:
            return systems
        less = [
            (one, "own", "own cohort alone", OWN) for one in systems
        ] + [(one, "profiles", "others' profiles, own outcomes", PROFILES) for one in systems
             if one.name in LEARNING_FROM_PROFILES]  # fmt: skip
        return systems + tuple(
            replace(one, name=f"{one.name}-{short}", title=f"{one.title}, {words}", part=part)
            for one, short, words, part in less
        )

    def narrow(self, fold: Fold, part: str) -> Fold:
        """Return the fold with the training patients of the judged cohort, or with the outcomes of no others."""
        own = fold.train.obs[keys.COHORT].isin(fold.test.obs[keys.COHORT].unique()).to_numpy()
        if part == OWN:
            return replace(fold, train=take(fold.train, own))
        if part != PROFILES:
            return super().narrow(fold, part)
        train = AnnData(fold.train.X, obs=fold.train.obs.copy(), var=fold.train.var.copy(), uns=dict(fold.train.uns))
        for column in (keys.TIME, keys.EVENT):
            train.obs[column] = train.obs[column].astype(np.float64).where(own)
        return replace(fold, train=train)

    def load(self, protocol: Protocol) -> AnnData:
        """Return the patients whose outcome is known."""
        name = protocol.data["dataset"]
        adata = tcga13().adata if name == "tcga13" else super().load(protocol)
        known = has_outcome(adata)
        adata = adata if known.all() else take(adata, known)
        adata.obs[keys.EVENT] = adata.obs[keys.EVENT].astype(bool)
        return adata

    def folds(self, protocol: Protocol, data: AnnData) -> list[Fold]:
        """Split by patient, stratified by event; or leave one cohort out."""
        if protocol.split.get("kind") == "leave-one-out":
            parts = [(one.name, take(data, one.train), take(data, one.test))
                     for one in leave_one_group_out(data, protocol.split["key"])]  # fmt: skip
        elif "cohort" in protocol.data:
            own = (data.obs[keys.COHORT] == protocol.data["cohort"]).to_numpy()
            others = take(data, ~own)
            parts = [
                (split.name, anndata.concat([train, others], uns_merge="same"), test)
                for split, train, test in self.splits(protocol, take(data, own))
            ]
        else:
            parts = [(split.name, train, test) for split, train, test in self.splits(protocol, data)]
        folds = []
        for name, train, test in parts:
            check_apart(train, test)
            read_outcomes(train)
            read_outcomes(test)
            train.uns = dict(data.uns)
            folds.append(Fold(name, train, test, (keys.TIME, keys.EVENT)))
        return folds

    def keep(self, protocol: Protocol, folder: Any) -> None:
        """Write the folds of patients, where there are folds."""
        if protocol.split.get("folds"):
            data = self.load(protocol)
            if "cohort" in protocol.data:
                data = take(data, (data.obs[keys.COHORT] == protocol.data["cohort"]).to_numpy())
            self.patient_folds(protocol, data).write(folder / "folds.json")

    def blind(self, test: AnnData) -> AnnData:
        """Return expression, patient, cohort and pipeline."""
        return hide(test)

    def context(self, protocol: Protocol, fold: Fold, variant: str, seed: int) -> dict[str, Any]:
        """Return the columns of the outcomes, the strata where there are cohorts, and the seed."""
        own = {"time": keys.TIME, "event": keys.EVENT, "random_state": seed}
        return dict(protocol.parameters) | own

    def predict(self, model: Any, seen: AnnData) -> dict[str, pd.DataFrame]:
        """Return risks, and survival curves where the model gives them."""
        tables = {
            "predicted": pd.DataFrame({"risk": np.asarray(model.risk(seen), dtype=np.float64)}, index=seen.obs_names)
        }
        if hasattr(model, "survival_function"):
            # Weekly to ten years and yearly beyond: fine enough for steps, and the same for all methods.
            times = np.concatenate([np.arange(1, 523) * 7.0, np.arange(11, 51) * YEAR])
            tables["curves"] = pd.DataFrame(model.survival_function(seen, times=times)).astype(np.float64)
            tables["curves"].columns = times
        return tables

    def score(
        self, protocol: Protocol, fold: Fold, variant: str, tables: Mapping[str, pd.DataFrame]
    ) -> dict[str, pd.DataFrame]:
        """Return for each patient outcome and risk, weights for censoring, and the part of the Brier score."""
        train, test = read_outcomes(fold.train), read_outcomes(fold.test)
        if "cohort" in protocol.data:
            # Censoring differs between cohorts: weights are those of the cohort that is judged.
            train = train.take((fold.train.obs[keys.COHORT] == protocol.data["cohort"]).to_numpy())
        risk = tables["predicted"]["risk"].to_numpy()
        samples = pd.DataFrame(
            {"patient": fold.test.obs[keys.PATIENT].astype(str).to_numpy(), "time": test.time, "event": test.event, "risk": risk},
            index=fold.test.obs_names,
        )  # fmt: skip
        tau, times = _window(train, test, protocol)
        outcomes = (train.time, train.event, test.time, test.event)
        samples["tau"] = tau
        samples["uno"] = uno_weights(*outcomes, tau=tau)
        # A case of an AUC weighs once what a pair of Uno's concordance weighs twice.
        samples["case"] = np.sqrt(samples["uno"])
        if "curves" in tables:
            curves = tables["curves"].to_numpy()
            at = tables["curves"].columns.to_numpy(dtype=np.float64)
            samples["brier"], samples["brier_none"] = brier_against_none(*outcomes, _at(curves, at, times), times)
            samples["survival"] = _own(curves, at, test.time)
        return {"samples": samples}

    def summarise(self, protocol: Protocol, cells: Iterable[Cell], methods: tuple[Method, ...]) -> pd.DataFrame:
        """Return concordance, Brier skill, AUC and calibration; differences from ridge-Cox and from training on one cohort."""
        alone = [one.name for one in methods if one.part == OWN]
        return summarise_patients(
            cells, methods, statistics=_statistics, headline=("concordance",), references=(REFERENCE, *alone),
            n_draws=int(protocol.judging["draws"]),
        )  # fmt: skip


def _window(train: Any, test: Any, protocol: Protocol) -> tuple[float, np.ndarray]:
    """The time up to which is judged, a quantile of the training times, and a grid of times below it."""
    tau = float(np.quantile(train.time, protocol.judging["tau_quantile"]))
    # Scores are defined where the test patients are followed and the censoring of the training patients has a weight.
    last = min(tau, float(test.time.max()) * (1 - 1e-9), float(train.time.max()) * (1 - 1e-9))
    first = max(float(np.quantile(train.time[train.event], 0.05)), float(test.time.min()))
    return tau, np.linspace(min(first, 0.5 * last), last, int(protocol.judging["grid"]))


def _at(curves: np.ndarray, at: np.ndarray, times: np.ndarray) -> np.ndarray:
    place = np.searchsorted(at, times, side="right") - 1
    return np.where(place >= 0, curves[:, np.maximum(place, 0)], 1.0)


def _own(curves: np.ndarray, at: np.ndarray, times: np.ndarray) -> np.ndarray:
    place = np.searchsorted(at, times, side="right") - 1
    return np.where(place >= 0, curves[np.arange(len(times)), np.maximum(place, 0)], 1.0)


def _statistics(cells: Sequence[Cell]) -> list[Statistic]:
    samples = pd.concat([cell.tables["samples"].assign(fold=f"{cell.key.fold}/{cell.key.seed}") for cell in cells])
    patients = samples["patient"].to_numpy().astype(str)
    time, event = samples["time"].to_numpy(), samples["event"].to_numpy().astype(bool)
    risk, fold = samples["risk"].to_numpy(), samples["fold"].to_numpy().astype(str)

    def of_pairs(metric: str, pairs: Pairs, n: int) -> Statistic:
        return Statistic("all", metric, pairs.value(), patients, pairs.draws, n, 0)

    uno = compare_pairs(time, event, risk, strata=fold, weights=samples["uno"])
    found = [
        of_pairs("concordance", compare_pairs(time, event, risk, strata=fold), int(event.sum())),
        Statistic("all", "calibration_slope", calibration_slope(time, event, risk, strata=fold), n=int(event.sum())),
        of_pairs("uno_concordance", uno, int((samples["uno"] > 0).sum())),
    ]
    for name, now in HORIZONS.items():
        # Beyond the last training event weights stand for nobody.
        weights = samples["case"].to_numpy() * (now < samples["tau"].to_numpy())
        pairs = compare_until(time, event, risk, now, weights=weights, strata=fold)
        found.append(of_pairs(name, pairs, int(((time <= now) & (weights > 0)).sum())))
    if "brier" in samples:
        own, none = samples["brier"].to_numpy(), samples["brier_none"].to_numpy()

        def skill(weights: np.ndarray) -> np.ndarray:
            return np.asarray(1 - weights @ own / (weights @ none))

        value = float(1 - own.sum() / none.sum())
        found.append(Statistic("all", "brier_skill", value, patients, skill, len(own), 0))
    if "survival" in samples:
        # Of repeated folds only the first: a patient counts once.
        first = samples["fold"].str.match(r"(r0f|(?!r\d+f))") & samples["fold"].str.endswith(f"/{cells[0].key.seed}")
        part = samples[first]
        found.append(
            Statistic(
                "all", "d_calibration", d_calibration(part["survival"], part["event"].astype(bool))[1], n=len(part)
            )
        )
    return found


TASK = Survival()
"""The task."""
